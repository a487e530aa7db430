"""Certificates: chosen by name, renewed under open connections, kept if new files are bad, judged by doctor."""

import asyncio
import contextlib
import re
import signal
import socket
import ssl

import pytest
from helpers.certificates import Authority
from helpers.process import BINARY, DEADLINE, environment, eventually, oneloop, run
from helpers.server import counter
from helpers.tokens import SECRET

EXPIRY = "tls_certificate_expiry_time_seconds"


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def flags(*pairs):
    certificates, keys = (",".join(map(str, files)) for files in zip(*pairs, strict=True))
    return "--tls-cert-file", certificates, "--tls-key-file", keys


def context(authority, *, version=None):
    trusting = ssl.create_default_context(cafile=authority.path)
    trusting.check_hostname = False
    if version:
        trusting.minimum_version = trusting.maximum_version = version
    return trusting


@contextlib.contextmanager
def handshake(server, trusting, name="localhost", session=None):
    with (
        socket.create_connection(server.address, DEADLINE) as stream,
        trusting.wrap_socket(stream, server_hostname=name, session=session) as secured,
    ):
        yield secured


def certificate(server, trusting, name="localhost"):
    """The certificate that is shown for a name: (names, serial number)."""
    with handshake(server, trusting, name) as secured:
        shown = secured.getpeercert()
    return {value for _, value in shown["subjectAltName"]}, shown["serialNumber"]


@pytest.fixture
def start_tls(start):
    """Starts a server with these certificates whose clients come by TLS."""
    def start_tls(*pairs, more=()):
        server = start(*flags(*pairs), "--topics", "news", *more, listen="tls://127.0.0.1:0")
        assert server.url.startswith("wss://")
        return server

    return start_tls


async def test_a_client_gets_the_certificate_for_the_name_it_asks_for(start_tls, authority):
    server = start_tls(*(authority.issue(names) for names in
                         ("DNS:example.com,IP:127.0.0.1", "DNS:*.example.org", "DNS:a.example.org")))
    trusting = context(authority)
    for name, expected in [
        ("example.com", "example.com"), ("EXAMPLE.com", "example.com"), ("b.example.org", "*.example.org"),
        ("a.example.org", "a.example.org"), ("a.b.example.org", "example.com"), ("example.org", "example.com"),
        ("127.0.0.1", "example.com"), (None, "example.com"),
    ]:
        assert expected in certificate(server, trusting, name)[0], name
    ends = re.findall(rf'oneloop_{EXPIRY}{{name="(.*)"}} (\d+)', server.admin("/metrics")[2])
    assert {name for name, _ in ends} == {"example.com", "*.example.org", "a.example.org"}


def test_one_of_several_loops_tells_of_a_certificate(start_tls, authority):
    server = start_tls(authority.issue(), more=("--loops", "2"))

    def serve():
        text = server.admin("/metrics")[2]
        return all(f'oneloop_loop_up{{loop="{loop}"}} 1' in text for loop in range(2))

    eventually(serve, "both loops serve")
    assert "localhost" in certificate(server, context(authority))[0]
    assert server.log().count("certificate: ") == 1


class Lineage:
    """Files as certbot keeps them: links in `live` to numbered files in `archive`."""

    def __init__(self, directory):
        self.directory, self.number = directory, 0
        self.pair = tuple(directory / "live" / name for name in ("fullchain.pem", "privkey.pem"))
        for name in ("live", "archive"):
            (directory / name).mkdir()

    def renew(self, *files):
        self.number += 1
        for link, new in zip(self.pair, files, strict=True):
            stored = self.directory / "archive" / f"{link.stem}{self.number}.pem"
            stored.write_bytes(new.read_bytes())
            link.unlink(missing_ok=True)
            link.symlink_to(stored)


async def test_a_renewal_drops_nobody_and_counts_for_newcomers(start_tls, authority, tmp_path):
    lineage = Lineage(tmp_path)
    lineage.renew(*authority.issue(days=20))
    server = start_tls(lineage.pair)
    trusting = context(authority)
    options = {"options": {"ssl": trusting}}
    before, end = certificate(server, trusting), counter(server, f'{EXPIRY}{{name="localhost"}}')
    async with server.client("42", **options) as early, server.client("43", **options) as bystander:
        lineage.renew(*authority.issue(days=80))
        await asyncio.to_thread(eventually, lambda: certificate(server, trusting) != before, "the new one")
        server.wait_for_log(r"certificate: localhost .* by Test authority")
        async with server.client("44", **options) as late:
            server.publish("user.42", 1)
            server.publish("user.44", 2)
            assert await early.heard() == [("user.42", 1)]
            assert await late.heard() == [("user.44", 2)]
            assert await bystander.heard() == []
    assert counter(server, f'{EXPIRY}{{name="localhost"}}') == pytest.approx(end + 60 * 86400, abs=60)
    assert counter(server, "reloads_total") == 1


async def test_bad_files_keep_the_old_certificate_and_are_reported_once(start_tls, authority, tmp_path):
    lineage = Lineage(tmp_path)
    lineage.renew(*authority.issue())
    other = authority.issue("DNS:other.example")
    server = start_tls(lineage.pair, other)
    trusting = context(authority)
    before = certificate(server, trusting)
    (_, foreign_key), (renewed, renewed_key) = authority.issue(), authority.issue()
    lineage.renew(renewed, foreign_key)
    await asyncio.to_thread(server.wait_for_log, r"the certificate stays as it was: tls.cert_file .*fullchain.pem")
    assert certificate(server, trusting) == before
    # Neither does SIGHUP take them.
    server.signal(signal.SIGHUP)
    await asyncio.to_thread(server.wait_for_log, "the settings stay as they were: tls.cert_file")
    assert certificate(server, trusting) == before
    assert counter(server, "reloads_refused_total") == 2
    # Another certificate is renewed meanwhile, and the bad one once it is good.
    for file, new in zip(other, authority.issue("DNS:other.example"), strict=True):
        file.write_bytes(new.read_bytes())
    server.wait_for_log(r"certificate: other\.example")
    lineage.renew(renewed, renewed_key)
    await asyncio.to_thread(eventually, lambda: certificate(server, trusting) != before, "the good one")
    assert server.log().count("the certificate stays as it was") <= 2


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_sessions_are_resumed_across_a_reload(start_tls, authority, version):
    server = start_tls(authority.issue())
    trusting = context(authority, version=version)

    def visit(session=None):
        """Visits with a session: (whether it was resumed, the next session)."""
        with handshake(server, trusting, session=session) as secured:
            # The tickets of TLS 1.3 come before the answer.
            secured.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert secured.recv(4096).startswith(b"HTTP/1.1 200 ")
            return secured.session_reused, secured.session

    reused, session = visit()
    assert not reused
    reused, session = visit(session)
    assert reused
    server.signal(signal.SIGHUP)
    await asyncio.to_thread(server.wait_for_log, "the settings were read again")
    assert visit(session)[0]


def test_settings_that_cannot_be_served_are_refused(authority):
    (certificate, key), (_, foreign) = authority.issue(), authority.issue()

    def refusal(*more):
        done = oneloop("--check", "--listen", "tls://127.0.0.1:0", *more)
        assert done.returncode == 2, done.stdout
        return done.stderr

    assert "names tls://127.0.0.1:0, but there is no certificate: set tls.cert_file" in refusal()
    assert "does not belong to the first certificate" in refusal(*flags((certificate, foreign)))
    assert "are the files of certificate and key swapped?" in refusal(*flags((key, certificate)))
    assert "names 1 and tls.key_file 0" in refusal("--tls-cert-file", str(certificate))
    key.chmod(0)
    done = run("setpriv", "--reuid", "65534", "--clear-groups", BINARY, "--check", "--listen", "tls://127.0.0.1:0",
               *flags((certificate, key)), env=environment())
    assert "Permission denied" in done.stderr and "oneloop help tls" in done.stderr


def findings(*pairs):
    """The lines of doctor about certificates, each with what mends it."""
    done = run(BINARY, "doctor", "--listen", "tls://127.0.0.1:0", "--publishers", "127.0.0.1:0", *flags(*pairs),
               env=environment(ONELOOP_JWT_SECRET=SECRET))
    return re.findall(r"^(\S+) +certificate +(.*(?:\n  .*)*)", done.stdout, re.MULTILINE)


def test_doctor_judges_key_names_chain_and_dates(authority):
    def judge(*pairs):
        return [(level, text) for level, text in findings(*pairs)]

    good, short, ended = (authority.issue(days=days) for days in (40, 5, 0))
    # The authority signs directly, so the file alone has no chain.
    chain = [("warning", text) for text in [f'"{good[0]}": the file has no chain']]
    found = judge(good)
    assert [(level, text.startswith(chain[0][1])) for level, text in found[:1]] == [("warning", True)]
    assert found[1][0] == "ok" and re.search(r"localhost \(ECDSA P-256, by Test authority, until .*39 days", found[1][1])
    assert judge(short)[1][0] == "warning" and "4 days are left" in judge(short)[1][1]
    assert judge(ended)[1][0] == "problem" and "it ended at" in judge(ended)[1][1]
    [(level, text)] = judge((good[0], short[1]))
    assert level == "problem" and "does not belong to the first certificate" in text
    assert {level for level, _ in judge(good, ended)} == {"ok", "warning", "problem"}
