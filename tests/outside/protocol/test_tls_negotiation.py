"""TLS as a scanner asks for it, with openssl: versions, suites, groups, ALPN, tickets, early data, renegotiation, KeyUpdate."""

import base64
import contextlib
import re
import socket
import ssl
import struct

import pytest
from helpers.process import DEADLINE, eventually, run
from helpers.raw_client import PING, PONG, frame, head
from helpers.s_client import SClient, visit
from helpers.server import counter
from helpers.tokens import token

# The connections are over TLS in any case.
pytestmark = pytest.mark.plain

REQUEST = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
SUITES = {
    "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-RSA-AES256-GCM-SHA384",
}
SUITES_1_3 = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}


@pytest.fixture
def server(start, authority):
    """A server whose clients come by TLS alone."""
    return start("--topics", "news", authority=authority)


@pytest.fixture
def two_keys(start, authority):
    """A server with an ECDSA and an RSA certificate for the same name."""
    pairs = [authority.issued, authority.issue(algorithm=("rsa:2048",))]
    certificates, keys = (",".join(map(str, files)) for files in zip(*pairs, strict=True))
    server = start("--tls-cert-file", certificates, "--tls-key-file", keys, listen="tls://127.0.0.1:0")
    server.tls = ssl.create_default_context(cafile=authority.path)
    return server


def failures(server, reason):
    return counter(server, f'tls_failures_total{{reason="{reason}"}}')


def all_failures(server):
    samples = re.findall(r"^oneloop_tls_failures_total{.*} (\d+)$", server.admin("/metrics")[2], re.MULTILINE)
    return sum(map(int, samples))


def chosen(said):
    """The suite that was agreed on, if any."""
    found = re.search(r"Cipher is (\S+)", said)
    return found and found[1] != "(NONE)" and found[1]


# ---- versions

@pytest.mark.parametrize("version", ["tls1", "tls1_1"])
async def test_old_versions_are_refused_by_an_alert(server, authority, version):
    async with server.client("43") as bystander:
        status, said = visit(server, authority, f"-{version}", "-cipher", "ALL:COMPLEMENTOFALL:@SECLEVEL=0")
        assert status == 1 and re.search("alert (protocol version|handshake failure)", said), said
        assert failures(server, "no_shared_version") == 1
        assert await bystander.heard() == []


async def test_the_hello_of_ssl_3_is_refused_by_an_alert(server):
    """No openssl of a distribution speaks it any more."""
    body = struct.pack("!H", 0x0300) + bytes(32) + b"\0" + struct.pack("!HH", 2, 0x000A) + b"\1\0"
    message = b"\1" + struct.pack("!I", len(body))[1:] + body
    async with server.client("43") as bystander:
        with socket.create_connection(server.address, DEADLINE) as stream:
            stream.sendall(b"\x16\3\0" + struct.pack("!H", len(message)) + message)
            answer = b"".join(iter(lambda: stream.recv(100), b""))
        # A fatal alert: protocol_version or handshake_failure.
        assert answer[0] == 21 and answer[-2] == 2 and answer[-1] in (70, 40), answer
        assert failures(server, "no_shared_version") == 1
        assert await bystander.heard() == []


# ---- suites and groups

async def test_six_suites_of_tls_1_2_are_taken_and_all_others_refused(two_keys, authority):
    listed = run("openssl", "ciphers", "-s", "-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    names = set(listed.stdout.strip().split(":")) - SUITES_1_3
    # With CBC, with RSA or DHE as the key exchange, without encryption, without a certificate.
    assert names >= SUITES | {
        "ECDHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "AES128-GCM-SHA256", "AES256-SHA", "DHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-NULL-SHA", "ADH-AES128-GCM-SHA256", "AECDH-NULL-SHA", "ECDHE-ECDSA-AES128-CCM",
    }
    async with two_keys.client("43") as bystander:
        agreed = set()
        for name in sorted(names):
            status, said = visit(two_keys, authority, "-tls1_2", "-cipher", f"{name}:@SECLEVEL=0")
            assert (status == 0) == (chosen(said) == name) and (status == 0 or "alert handshake failure" in said), said
            agreed |= {name} if status == 0 else set()
        assert agreed == SUITES
        assert all_failures(two_keys) == len(names - SUITES)
        assert await bystander.heard() == []


def test_each_suite_of_tls_1_3_is_taken(server, authority):
    for name in SUITES_1_3:
        status, said = visit(server, authority, "-tls1_3", "-ciphersuites", name, request=REQUEST)
        assert status == 0 and chosen(said) == name, said
    # The cheapest in memory, whatever the client prefers.
    for flags in [("-ciphersuites", "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256"), ()]:
        assert chosen(visit(server, authority, *flags)[1]) == "TLS_AES_128_GCM_SHA256"
    status, said = visit(server, authority, "-ciphersuites", "TLS_AES_128_CCM_SHA256")
    assert status == 1 and "alert handshake failure" in said, said
    assert failures(server, "no_shared_suite") == 1


@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_two_groups_are_taken(server, authority, version):
    # Before TLS 1.3 they must have the curve of the certificate among them.
    for group in ["X25519:P-256", "P-256", "P-521:P-384:P-256"] + ["X25519"] * (version == "tls1_3"):
        status, said = visit(server, authority, f"-{version}", "-curves", group)
        assert status == 0, (group, said)
    for group in ["P-384", "P-521", "X448"]:
        status, said = visit(server, authority, f"-{version}", "-curves", group)
        assert status == 1 and "alert handshake failure" in said, (group, said)


def test_nothing_is_compressed(server, authority):
    status, said = visit(server, authority, "-tls1_2", "-comp", "-cipher", "DEFAULT:@SECLEVEL=0")
    assert status == 0 and "Compression: NONE" in said, said


# ---- ALPN

@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_a_client_that_offers_protocols_must_offer_http_1_1(server, authority, version):
    for offer in ["http/1.1", "h2,http/1.1"]:
        status, said = visit(server, authority, f"-{version}", "-alpn", offer)
        assert status == 0 and "ALPN protocol: http/1.1" in said, said
    status, said = visit(server, authority, f"-{version}")
    assert status == 0 and "No ALPN negotiated" in said, said
    for offer in ["h2", "http/1.0"]:
        status, said = visit(server, authority, f"-{version}", "-alpn", offer)
        assert status == 1 and "alert no application protocol" in said, said
    assert failures(server, "no_shared_protocol") == 2


# ---- tickets

def ticket(server, authority, directory, version):
    """A file with a session to be resumed."""
    file = directory / "session.pem"
    with SClient(server, authority, directory, f"-{version}", "-sess_out", file) as client:
        # The tickets of TLS 1.3 come before the answer.
        client.send(REQUEST.encode())
        client.wait_for(rb"HTTP/1.1 200 ")
        assert client.process.wait(DEADLINE) == 0
    return file


class Session:
    """A session as openssl keeps it (SSL_SESSION_ASN1), whose fields can be changed."""

    def __init__(self, file):
        self.file = file
        body = base64.b64decode("".join(file.read_text().split("\n")[1:-2]))
        self.fields = list(der(next(der(body))[1]))

    def ticket(self):
        """The number of the field with the ticket, and its bytes in an OCTET STRING."""
        return next((at, content) for at, (tag, content) in enumerate(self.fields) if tag == 0xAA)

    def save(self):
        body = encoded(0x30, b"".join(encoded(*field) for field in self.fields))
        name = "SSL SESSION PARAMETERS"
        self.file.write_text(f"-----BEGIN {name}-----\n{base64.encodebytes(body).decode()}-----END {name}-----\n")


def der(data):
    """The elements that stand side by side: (tag, content)."""
    while data:
        tag, length, at = data[0], data[1], 2
        if length & 0x80:
            at += length & 0x7F
            length = int.from_bytes(data[2:at], "big")
        yield tag, data[at : at + length]
        data = data[at + length :]


def encoded(tag, content):
    length = len(content)
    size = bytes([length]) if length < 0x80 else b"\x82" + struct.pack("!H", length)
    return bytes([tag]) + size + content


@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_sessions_are_resumed_by_tickets(server, authority, tmp_path, version):
    file = ticket(server, authority, tmp_path, version)
    status, said = visit(server, authority, f"-{version}", "-sess_in", file)
    assert status == 0 and "Reused, " in said, said
    label = f'version="1.{version[-1]}",resumed="true"'
    assert counter(server, f"tls_handshakes_total{{{label}}}") == 1
    # A ticket of another server is a full handshake.
    session = Session(file)
    at, content = session.ticket()
    session.fields[at] = (0xAA, content[:30] + bytes([content[30] ^ 1]) + content[31:])
    session.save()
    status, said = visit(server, authority, f"-{version}", "-sess_in", file, request=REQUEST)
    assert status == 0 and "New, " in said and "HTTP/1.1 200 " in said, said
    assert counter(server, f"tls_handshakes_total{{{label}}}") == 1


# Some KB of it are skipped.
@pytest.mark.parametrize("bytes_of_it", [1, 1000, 8000, 100_000])
async def test_early_data_is_refused_and_the_rest_served(server, authority, tmp_path, bytes_of_it):
    """A client that sends it although no ticket of ours allows it: none of it is taken for a request."""
    file, early = ticket(server, authority, tmp_path, "tls1_3"), tmp_path / "early"
    early.write_bytes((b"GET /nowhere HTTP/1.1\r\n" * bytes_of_it)[:bytes_of_it])
    status, said = visit(server, authority, "-tls1_3", "-sess_in", file, "-early_data", early)
    assert status == 0 and "Early data was not sent" in said, said
    session = Session(file)
    # max_early_data, [15], stands behind the age of the ticket, [14].
    at = next(at for at, (tag, _) in enumerate(session.fields) if tag == 0xAE)
    session.fields.insert(at + 1, (0xAF, encoded(2, (1 << 20).to_bytes(3))))
    session.save()
    async with server.client("43") as bystander:
        status, said = visit(server, authority, "-tls1_3", "-sess_in", file, "-early_data", early, request=REQUEST)
        assert "Early data was rejected" in said, said
        if bytes_of_it <= 8000:
            assert status == 0 and said.count("HTTP/1.1 200 ") == 1, said
        else:
            assert status == 1 and all_failures(server) == 1, said
        assert "HTTP/1.1 4" not in said, said
        assert await bystander.heard() == []


# ---- an open connection

async def test_renegotiation_is_refused_in_tls_1_2(server, authority, tmp_path):
    async with server.client("43") as bystander:
        with SClient(server, authority, tmp_path, "-tls1_2") as client:
            client.send(head(server, bearer=token("42")))
            client.wait_for(rb'"op":"welcome"')
            client.tell(b"R")
            # openssl ends when it is told no_renegotiation.
            assert client.process.wait(DEADLINE) == 1
            assert b"no renegotiation" in client.text()
        assert await bystander.heard() == []
        eventually(lambda: counter(server, "clients") == 1, "the connection is gone")


@pytest.mark.parametrize("letter", [b"k", b"K"], ids=["of the client", "of both sides"])
async def test_keys_change_in_an_open_connection(server, authority, tmp_path, letter):
    async with server.client("43") as bystander:
        with SClient(server, authority, tmp_path, "-tls1_3") as client:
            client.send(head(server, bearer=token("42")))
            client.wait_for(rb'"op":"welcome"')
            for number in range(1, 6):
                client.tell(letter)
                client.send(frame(PING, b"%d" % number))
                client.wait_for(bytes([0x80 | PONG, 1]) + b"%d" % number)
                server.publish("user.42", f"under key {number}")
                client.wait_for(rb'"data":"under key %d"}' % number)
        assert await bystander.heard() == []


async def test_a_flood_of_key_updates_ends_its_connection(server, authority, tmp_path):
    async with server.client("43") as bystander:
        with SClient(server, authority, tmp_path, "-tls1_3") as client:
            client.send(head(server, bearer=token("42")))
            client.wait_for(rb'"op":"welcome"')
            with contextlib.suppress(BrokenPipeError):
                while client.process.poll() is None:
                    client.send(b"k\n")
                    await bystander.heard()
            assert client.process.wait(DEADLINE) == 1
            assert 32 <= len(re.findall(rb"KEYUPDATE", client.text())) < 100
            assert b"alert unexpected message" in client.text(), client.text()
        assert failures(server, "too_many_useless_records") == 1
        assert await bystander.heard() == []
