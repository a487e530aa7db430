"""openssl's own client, told what to do while its connection is open."""

import re
import subprocess

from helpers.process import environment, eventually, run


def command(server, authority, *flags):
    name = server.address[0]
    return ["openssl", "s_client", "-connect", server.host, "-servername", "localhost", "-CAfile", str(authority.path),
            "-verify_return_error", "-verify_ip", name, *map(str, flags)]


def visit(server, authority, *flags, request=""):
    """Shakes hands, perhaps sends a request and awaits the end, and ends: the exit status and all that openssl says about it."""
    flags += ("-ign_eof",) if request else ()
    done = run(*command(server, authority, *flags), input=request, errors="replace")
    return done.returncode, done.stdout + done.stderr


class SClient:
    """A connection under way. Single letters in lines of their own are commands (openssl-s_client(1)), unless it has -ign_eof."""

    def __init__(self, server, authority, directory, *flags):
        self.output, self.errors = directory / "s_client.out", directory / "s_client.err"
        with self.output.open("wb") as output, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command(server, authority, "-brief", *flags), stdin=subprocess.PIPE, stdout=output, stderr=errors,
                env=environment())
        self.wait_for(rb"Verification: OK")

    def send(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def text(self):
        """All that the server has sent, and then what openssl says."""
        return self.output.read_bytes() + self.errors.read_bytes()

    def wait_for(self, pattern, count=1):
        def there():
            text = self.text()
            assert len(re.findall(pattern, text, re.DOTALL)) >= count or self.process.poll() is None, text
            return len(re.findall(pattern, text, re.DOTALL)) >= count
        eventually(there, f"{count} of {pattern!r}")

    def tell(self, letter):
        """Gives a command, and waits until it is carried out."""
        said = {b"k": rb"KEYUPDATE", b"K": rb"KEYUPDATE", b"R": rb"RENEGOTIATING"}[letter]
        before = len(re.findall(said, self.text()))
        self.send(letter + b"\n")
        self.wait_for(said, before + 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
