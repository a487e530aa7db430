"""TLS to Redis: every mistake is one line in the log that says what to do, and nothing blocks the loop."""

import asyncio
import contextlib
import re
import signal
import socket
import ssl
import statistics
import threading
import time

import pytest
from helpers.certificates import Authority
from helpers.outage_check import QUICK, audience
from helpers.process import DEADLINE, eventually, oneloop
from helpers.redis_server import FalseRedis, TlsSettings, greeted

# The hint of a handshake that is not answered in TLS.
PLAIN_PORT = "write redis:// in place of rediss://"


@pytest.fixture
def start_secure(start_redis, authority):
    """Starts Redis servers with TLS: `start_secure(certificate, asks=…)`."""
    def start_secure(certificate=None, *arguments, asks="no", **options):
        return start_redis(*arguments, tls=TlsSettings(authority, certificate, asks), **options)
    return start_secure


@pytest.fixture
def strangers(tmp_path):
    """An authority that signed nothing here."""
    return Authority(tmp_path, "Strangers")


async def assert_delivers(server):
    async with server.client("42") as client, server.client("43") as bystander:
        server.publish("user.42", 1)
        assert await client.heard() == [("user.42", 1)]
        assert await bystander.heard() == []


def assert_told(server, pattern):
    """The log tells it once, and the server is red and alive."""
    server.wait_for_log(pattern)
    assert not server.ready()
    assert server.admin("/healthz")[0] == 200
    assert len(re.findall(pattern, server.log())) == 1, server.log()


@pytest.mark.parametrize("scheme", ["rediss", "valkeys", "REDISS"])
async def test_both_schemes_will_do(start, start_secure, scheme):
    redis = start_secure(password="secret")
    server = start("--redis", redis.url.replace("rediss", scheme), redis=redis)
    assert server.line("redis") == f"rediss://127.0.0.1:{redis.server_port}"
    await assert_delivers(server)
    assert "secret" not in server.log() + server.output.read_text()


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
async def test_both_versions_will_do(start, start_secure, version):
    redis = start_secure(None, "--tls-protocols", version)
    server = start(*QUICK, redis=redis)
    async with audience(server) as clients:
        for _ in range(2):
            assert redis.command("CLIENT", "KILL", "TYPE", "pubsub") == 1
            await clients.is_back()
            await clients.hears(gaps=1)
    assert "close_notify" not in server.log(), "Redis ended it in good order"


async def test_the_settings_of_a_managed_redis_will_do(start, start_secure):
    """As at ElastiCache: TLS, a user with a password, streams, and no CLIENT commands."""
    redis = start_secure(None, "--rename-command", "CLIENT", "")
    redis.command("ACL", "SETUSER", "push", "on", ">pass", "~*", "&*", "+@all", "-config")
    server = start("--redis", redis.url_of("push:pass"), "--streams", "pub", redis=redis)
    await assert_delivers(server)
    async with server.client("42") as client, server.client("43") as bystander:
        redis.command("XADD", "pub", "*", "topic", "user.42", "data", "1")
        assert (await client.next())["data"] == 1
        assert await bystander.heard() == []


async def test_large_messages_and_floods_arrive_whole_and_in_order(start, start_secure):
    redis = start_secure()
    server = start("--backlog-frames-max", 10_000, "--backlog-bytes-max", "64MiB", redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        payloads = ["x" * length for length in (16_000, 16_384, 16_385, 100_000, 900_000)]
        for payload in payloads:
            server.publish("user.42", payload)
        for number in range(5_000):
            server.publisher.send("PUBLISH", "pub.user.42", number)
        for _ in range(5_000):
            server.publisher.reply()
        expected = [("user.42", one) for one in [*payloads, *range(5_000)]]
        assert await client.heard() == expected
        assert await bystander.heard() == []


async def test_an_unknown_authority_is_named(start, start_secure, strangers):
    redis = start_secure()
    server = start("--redis-ca-file", strangers.path, *QUICK, redis=redis, ready=False)
    assert_told(server, "not signed by an authority in redis_ca_file")


async def test_without_a_file_the_authorities_of_the_system_count(start, start_secure, authority, strangers):
    redis = start_secure()
    redis.needs_file = False
    variables = {"SSL_CERT_FILE": str(strangers.path)}
    server = start(*QUICK, redis=redis, ready=False, variables=variables)
    assert_told(server, "not signed by an authority that this system trusts: .* redis_ca_file")
    variables = {"SSL_CERT_FILE": str(authority.path)}
    await assert_delivers(start(*QUICK, redis=redis, variables=variables))


@pytest.mark.parametrize("names, told", [
    ("DNS:redis.example,DNS:*.redis.example,IP:10.0.0.1",
     r"is for redis\.example, \*\.redis\.example, 10\.0\.0\.1, and the URL names 127\.0\.0\.1"),
    ("", "has no subjectAltName: make one with the name 127.0.0.1"),
], ids=["others", "none"])
async def test_a_wrong_name_is_told(start, start_secure, authority, names, told):
    redis = start_secure(authority.issue(names))
    server = start(*QUICK, redis=redis, ready=False)
    assert_told(server, told)


async def test_the_name_of_the_url_is_the_one_that_counts(start, start_secure, authority):
    redis = start_secure(authority.issue("DNS:localhost"))
    server = start("--redis", redis.url.replace("127.0.0.1", "localhost"), redis=redis)
    await assert_delivers(server)


async def test_an_expired_certificate_is_told(start, start_secure, authority):
    redis = start_secure(authority.issue(days=0))
    server = start(*QUICK, redis=redis, ready=False)
    assert_told(server, "expired less than an hour ago: renew it")


async def test_the_certificate_of_an_authority_is_no_server_certificate(start, start_redis, authority):
    """A certificate of `openssl req -x509` says CA:TRUE, unless it is told otherwise."""
    for more, told in [((), "is one of an authority .CA:TRUE.*basicConstraints=critical,CA:FALSE"),
                       (("-addext", "basicConstraints=critical,CA:FALSE"), None)]:
        files = authority.self_signed(*more)
        redis = start_redis(tls=TlsSettings(authority, files))
        flags = ["--redis-ca-file", files[0], *QUICK]
        server = start(*flags, redis=redis, ready=told is None)
        if told:
            assert_told(server, told)
        else:
            await assert_delivers(server)


async def test_without_verification_anyone_will_do_and_the_log_warns(start, start_secure, authority):
    redis = start_secure(authority.self_signed(names="DNS:nobody.example"))
    redis.needs_file = False
    server = start("--redis", redis.url + "#insecure", redis=redis)
    assert "#insecure turns off the check of the certificate" in server.log()
    await assert_delivers(server)


async def test_a_plain_port_is_told(start, redis, authority):
    url = f"rediss://127.0.0.1:{redis.port}"
    flags = ["--redis", url, "--redis-ca-file", authority.path, *QUICK]
    server = start(*flags, redis=redis, ready=False)
    assert_told(server, PLAIN_PORT)


async def test_a_port_with_tls_is_told_from_a_plain_url(start, start_secure):
    redis = start_secure()
    redis.needs_file = False
    url = f"redis://127.0.0.1:{redis.server_port}"
    server = start("--redis", url, *QUICK, redis=redis, ready=False)
    assert_told(server, "write rediss:// in place of redis://")


@pytest.mark.parametrize("version, told", [
    ("TLSv1.3", "wants a client certificate: set redis_cert_file and redis_key_file"),
    ("TLSv1.2", "either it wants a client certificate .redis_cert_file, redis_key_file"),
])
async def test_a_missing_client_certificate_is_told_and_the_right_one_taken(
        start, start_secure, authority, version, told):
    redis = start_secure(None, "--tls-protocols", version, asks="yes")
    server = start(*QUICK, redis=redis, ready=False)
    assert_told(server, told)
    certificate, key = authority.issue()
    right = ["--redis-cert-file", certificate, "--redis-key-file", key]
    await assert_delivers(start(*right, *QUICK, redis=redis))


async def test_a_client_certificate_of_strangers_is_told(start, start_secure, strangers):
    redis = start_secure(asks="yes")
    certificate, key = strangers.issue()
    flags = ["--redis-cert-file", certificate, "--redis-key-file", key]
    server = start(*flags, *QUICK, redis=redis, ready=False)
    assert_told(server, "refuses our certificate .*redis_cert_file must be signed by")


async def test_files_are_read_again_for_the_next_connection(
        start, start_secure, authority, strangers, tmp_path):
    redis = start_secure(asks="yes")
    files = [tmp_path / "own.pem", tmp_path / "own.key"]

    def put(certificate):
        for source, target in zip(certificate, files):
            target.write_bytes(source.read_bytes())

    put(strangers.issue())
    flags = ["--redis-cert-file", files[0], "--redis-key-file", files[1]]
    server = start(*flags, *QUICK, redis=redis, ready=False)
    assert_told(server, "refuses our certificate")
    put((files[0], authority.issue()[1]))
    server.signal(signal.SIGHUP)
    server.wait_for_log("redis_cert_file and redis_key_file: the key is not that of the first certificate")
    put(authority.issue())
    server.signal(signal.SIGHUP)
    server.wait_for_log("changed: redis_cert_file")
    server.wait_ready()
    await assert_delivers(server)


class SilentPeer:
    """Takes connections, sends each what is given, and then nothing more."""

    flags = []

    def __init__(self, said=b""):
        self.said, self.listener = said, socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"rediss://127.0.0.1:{self.port}"
        self.connections = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections.append(connection)
                connection.sendall(self.said)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        for connection in self.connections:
            connection.close()


@pytest.mark.parametrize("said, told", [
    (b"", f"its handshake of TLS did not end within 1000 ms.*{PLAIN_PORT}"),
    (b"\x16\x03\x03\x40\x00" + b"\x02" * 100, "its handshake of TLS did not end within 1000 ms"),
    (b"-ERR not TLS\r\n" * 3, f"is not TLS.*{PLAIN_PORT}"),
    (b"\x15\x03\x03\x00\x02\x02\x28", "refuses the handshake"),
], ids=["silent", "half", "plain", "alert"])
async def test_a_peer_that_does_not_finish_blocks_nothing(start, authority, said, told):
    with SilentPeer(said) as peer:
        flags = ["--redis-ca-file", authority.path, *QUICK]
        server = start(*flags, redis=peer, ready=False)
        # The loop serves clients in the meantime.
        async with server.dial() as connection:
            waits = []
            for _ in range(20):
                begun = time.monotonic()
                await connection.send("ping")
                assert await asyncio.wait_for(connection.recv(), DEADLINE) == "pong"
                waits.append(time.monotonic() - begun)
                await asyncio.sleep(0.05)
            # A loop that an attempt blocks is late each time; one on a busy machine now and then.
            assert statistics.median(waits) < 0.5, waits
        assert_told(server, told)
        # It goes on.
        await asyncio.to_thread(eventually, lambda: len(peer.connections) > 1, "another attempt")


class FalseTlsRedis(FalseRedis):
    """A false Redis with TLS."""

    def __init__(self, authority, answer=greeted):
        super().__init__(answer)
        self.url = self.url.replace("redis", "rediss")
        self.flags = ["--redis-ca-file", authority.path]
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*authority.issue())

    def serve(self, connection):
        with contextlib.suppress(OSError):
            connection.settimeout(DEADLINE * 3)
            secure = self.context.wrap_socket(connection, server_side=True)
            self.connections[-1] = secure
            super().serve(secure)


@pytest.mark.parametrize("ending, told", [
    ("notice", "Redis closed the connection$"), ("cut", "cut off: it ended without the close_notify of TLS"),
])
async def test_the_end_of_a_connection_is_told_from_a_cut(start, authority, ending, told):
    with FalseTlsRedis(authority) as false:
        server = start(*QUICK, redis=false)
        async with audience(server) as clients:
            secure = false.connections[-1]
            if ending == "notice":
                with contextlib.suppress(OSError):
                    secure.unwrap()
            else:
                secure.shutdown(socket.SHUT_RDWR)
            await clients.is_back()
            await clients.hears(gaps=1)
            assert re.search(told, server.log(), re.MULTILINE), server.log()


def test_publish_and_doctor_speak_it(start, start_secure, authority):
    redis = start_secure(asks="yes", password="secret")
    certificate, key = authority.issue()
    flags = ["--redis", redis.url, "--redis-ca-file", authority.path,
             "--redis-cert-file", certificate, "--redis-key-file", key]
    start(*flags, redis=redis)
    published = oneloop("publish", *flags, "pub.user.42", "1")
    assert published.stdout == "1\n", published.stderr
    found = oneloop("doctor", *flags, "--listen", "127.0.0.1:0")
    assert "can be reached" in found.stdout and "came back" in found.stdout, found.stdout
    without = oneloop("doctor", *flags[:4], "--listen", "127.0.0.1:0")
    assert without.returncode == 1
    assert "wants a client certificate: set redis_cert_file" in without.stdout
    assert f"-p {redis.server_port} --tls --cacert" in without.stdout
    assert "secret" not in without.stdout + without.stderr + found.stdout


@pytest.mark.parametrize("flags, told", [
    (["--redis-ca-file", "KEY"], "redis_ca_file: there is no certificate in it"),
    (["--redis-cert-file", "CA", "--redis-key-file", "CA"], "redis_key_file: there is no private key in it"),
    (["--redis-cert-file", "CA", "--redis-key-file", "KEY"], "the key is not that of the first certificate"),
    (["--redis-cert-file", "CA"], "needs redis_key_file beside it"),
    (["--redis", "rediss://h#insecure", "--redis-ca-file", "CA"], "keep one of them"),
    (["--redis", "redis://h", "--redis-ca-file", "CA"], "is for TLS"),
    (["--redis", "rediss://h#unsafe"], "after # expected insecure"),
], ids=lambda value: None if isinstance(value, str) else " ".join(value)[:40])
def test_files_that_cannot_work_are_settings_errors(authority, flags, told):
    files = {"CA": str(authority.path), "KEY": str(authority.issue()[1])}
    flags = [files.get(flag, flag) for flag in flags]
    redis = [] if "--redis" in flags else ["--redis", "rediss://h"]
    done = oneloop("--check", "--listen", "127.0.0.1:0", *redis, *flags)
    assert done.returncode == 2 and told in done.stderr, done.stderr
