"""Certificates for tests, made by openssl: an authority, and what it signs."""

import functools
import time

from helpers.process import eventually, run


P_256 = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")


def openssl(*arguments):
    done = run("openssl", *arguments)
    assert done.returncode == 0, done.stderr


class Authority:
    """An authority of its own, whose certificate is the file `path`."""

    def __init__(self, directory, name="Test authority"):
        self.directory, self.count = directory, 0
        self.path, self.key = directory / "ca.pem", directory / "ca.key"
        openssl("req", "-x509", "-newkey", *P_256, "-nodes",
                "-keyout", self.key, "-out", self.path, "-days", "30", "-subj", f"/CN={name}")

    @functools.cached_property
    def issued(self):
        """A certificate for servers of this machine, and its key."""
        return self.issue()

    def issue(self, names="IP:127.0.0.1,DNS:localhost", days=30, algorithm=P_256):
        """Signs a certificate for the names: (certificate, key). With `days` 0 it has expired."""
        self.count += 1
        certificate, key, request, extensions = (
            self.directory / f"{self.count}.{end}" for end in ("pem", "key", "csr", "ext"))
        openssl("req", "-newkey", *algorithm, "-nodes",
                "-keyout", key, "-out", request, "-subj", "/CN=test")
        # openssl refuses an empty file.
        extensions.write_text(f"subjectAltName = {names}\n" if names else "keyUsage = digitalSignature\n")
        openssl("x509", "-req", "-in", request, "-CA", self.path, "-CAkey", self.key,
                "-out", certificate, "-days", str(days), "-extfile", extensions)
        # It ends with the second in which it was made.
        end = int(time.time()) + 1
        eventually(lambda: days or time.time() > end, "its last second is over")
        return certificate, key

    def self_signed(self, *more, names="IP:127.0.0.1"):
        """A certificate that nobody else signed, by one command: (certificate, key)."""
        self.count += 1
        certificate, key = (self.directory / f"{self.count}.{end}" for end in ("pem", "key"))
        openssl("req", "-x509", "-newkey", *P_256, "-nodes",
                "-keyout", key, "-out", certificate, "-days", "30", "-subj", "/CN=test",
                "-addext", f"subjectAltName={names}", *more)
        return certificate, key
