"""Clients of a TLS listener that mean harm, in the handshake and after it: each ends alone, and is counted by its reason."""

import asyncio
import contextlib
import random
import socket
import ssl
import struct

import pytest
from helpers.process import DEADLINE, eventually
from helpers.raw_client import CLOSE, PING, PONG, TEXT, frame, head
from helpers.server import counter
from helpers.tls_by_hand import APPLICATION_DATA, RawByHand, TlsByHand, records
from helpers.tokens import token

# The connections are over TLS in any case.
pytestmark = pytest.mark.plain

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@pytest.fixture
def server(start, authority):
    """A server whose clients come by TLS alone."""
    return start("--topics", "news", authority=authority)


@pytest.fixture(params=VERSIONS)
def context(request, authority):
    """A client's settings, for each version."""
    context = ssl.create_default_context(cafile=authority.path)
    context.minimum_version = context.maximum_version = VERSIONS[request.param]
    return context


def failures(server, reason):
    return counter(server, f'tls_failures_total{{reason="{reason}"}}')


def all_of(stream):
    """Every byte up to the end of the stream, however it ends."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while data := stream.recv(65536):
            got += data
    return got


def alert(data):
    """The description of the alert that is not encrypted and ends the bytes, if there is one."""
    return data[-1] if data[-7:-2] == bytes([21, 3, 3, 0, 2]) else None


# ---- what is no handshake

GARBAGE = {
    "zeros": (bytes(64), "decode"),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", "decode"),
    "Redis": (b"*1\r\n$4\r\nPING\r\n", "decode"),
    "a PROXY header": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n", "decode"),
    "SSL 2": (b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(37), "decode"),
    "a record of DTLS": (b"\x16\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10" + bytes(16), "decode"),
    "a record that is too long": (b"\x16\x03\x01\xff\xff" + bytes(100), "record_overflow"),
    "data before the handshake": (b"\x17\x03\x03\x00\x05hello", "unexpected_message"),
    "an alert": (b"\x15\x03\x03\x00\x02\x02\x28", "alert_received"),
    "a message of another kind": (b"\x16\x03\x03\x00\x04\x10\x00\x00\x00", "unexpected_message"),
    "a hello that lies about its length": (b"\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03", "decode"),
    "a hello of a megabyte": (b"\x16\x03\x01\x40\x00\x01\x10\x00\x00" + bytes(16380), "handshake_too_large"),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_at_the_port_ends_its_connection(server, name):
    data, reason = GARBAGE[name]
    async with server.client("43") as bystander:
        with socket.create_connection(server.address, DEADLINE) as stream:
            stream.sendall(data)
            got = all_of(stream)
            assert got == b"" or alert(got), got
        assert failures(server, reason) == 1, server.admin("/metrics")[2]
        assert await bystander.heard() == []
    eventually(lambda: counter(server, "clients") == 0, "nothing is left")


async def test_random_bytes_leave_nothing(server):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    async with server.client("43") as bystander:
        for _ in range(200):
            with socket.create_connection(server.address, DEADLINE) as stream:
                stream.sendall(rng.choice([b"", b"\x16\x03\x01", b"\x16\x03\x03\x00\x20"]) + rng.randbytes(rng.randrange(1, 400)))
                stream.shutdown(socket.SHUT_WR)
                assert b"HTTP/1.1 1" not in all_of(stream)
        assert await bystander.heard() == []
        eventually(lambda: counter(server, "clients") == 1, "nothing is left")


async def test_plain_http_is_told_to_speak_tls(server):
    async with server.client("43") as bystander:
        for number, method in enumerate(["GET", "HEAD", "POST", "OPTIONS", "CONNECT"], start=1):
            with socket.create_connection(server.address, DEADLINE) as stream:
                stream.sendall(f"{method} /ws HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                got = all_of(stream)
            assert got.startswith(b"HTTP/1.1 400 ") and b"wss://" in got, got
            assert failures(server, "plain_http") == number
        assert await bystander.heard() == []


# ---- half handshakes

async def test_a_hello_may_be_cut_anywhere(server, context):
    async with server.client("43") as bystander:
        with contextlib.closing(TlsByHand(server, context)) as hand:
            hello = hand.hello()
        for cut in range(1, len(hello)):
            with socket.create_connection(server.address, DEADLINE) as stream:
                stream.sendall(hello[:cut])
                stream.shutdown(socket.SHUT_WR)
                assert all_of(stream) == b"", f"cut at {cut}"
        # The first one sent nothing.
        eventually(lambda: counter(server, 'handshakes_total{result="abandoned"}') == len(hello), "all are gone")
        # And what comes in two pieces is served.
        for cut in range(1, len(hello), 23):
            with RawByHand(server, context, lambda hello, cut=cut: [hello[:cut], hello[cut:]]) as raw:
                raw.upgrade(token("42"))
        assert "tls_failures_total{" not in server.admin("/metrics")[2]
        assert await bystander.heard() == []


@pytest.mark.parametrize("part", ["nothing", "half a hello", "a hello"])
async def test_half_handshakes_that_stay_make_room_and_run_out(start, authority, part):
    server = start("--handshakes-max", 20, "--head-seconds", 2, "--topics", "news", authority=authority)
    async with server.client("43") as bystander:
        with contextlib.ExitStack() as ends:
            streams = []
            for _ in range(60):
                hand = TlsByHand(server)
                ends.callback(hand.close)
                hello = hand.hello()
                hand.stream.sendall({"nothing": b"", "half a hello": hello[: len(hello) // 2], "a hello": hello}[part])
                streams.append(hand.stream)
            async with server.client("42") as client:
                server.publish("user.42", 1)
                assert await client.heard() == [("user.42", 1)]
                assert counter(server, "handshakes_under_way") <= 20
            # They are ended without a plain word: at most the server's part of the handshake has come.
            for stream in streams:
                got = await asyncio.to_thread(all_of, stream)
                assert b"HTTP" not in got and (part == "a hello" or got == b""), got
            assert counter(server, "handshakes_under_way") == 0
        assert counter(server, "clients") == 1
        assert await bystander.heard() == []


async def test_pings_are_answered_during_a_flood_of_handshakes(server, authority):
    context = ssl.create_default_context(cafile=authority.path)

    def flood(count):
        for _ in range(count):
            hand = TlsByHand(server, context)
            hand.shake_hands()
            hand.close()

    async with server.client("42") as client, server.client("43") as bystander:
        floods = [asyncio.create_task(asyncio.to_thread(flood, 150)) for _ in range(4)]
        answered = 0
        while not all(one.done() for one in floods):
            assert await client.ask(op="ping") == {"op": "pong"}
            answered += 1
            await asyncio.sleep(0.03)  # below the bound of commands per second
        await asyncio.gather(*floods)
        assert answered > 3
        name = 'tls_handshakes_total{version="1.3",resumed="false"}'
        eventually(lambda: counter(server, name) == 602, "each is counted")
        assert await client.heard() == await bystander.heard() == []


# ---- records of an open connection

async def test_records_of_one_byte_are_put_together(server, context):
    async with server.client("43") as bystander:
        with RawByHand(server, context, lambda hello: [records(hello, 20)]) as raw:
            raw.socket.sendall(head(server, bearer=token("42")), 1)
            assert raw.answer()[0] == 101
            assert raw.frame()[0] == TEXT
            raw.socket.sendall(frame(PING, b"one by one"), 1)
            assert raw.frame() == (PONG, b"one by one")
            server.publish("user.42", 7)
            assert raw.frame()[1].endswith(b'"data":7}')
        assert await bystander.heard() == []


async def test_a_hello_in_records_of_one_byte_is_refused(server, context):
    async with server.client("43") as bystander:
        with contextlib.closing(TlsByHand(server, context)) as hand:
            hand.stream.sendall(records(hand.hello(), 1))
            assert alert(all_of(hand.stream))
        assert failures(server, "too_many_useless_records") == 1
        assert await bystander.heard() == []


FORGERIES = {
    "noise": (lambda _: bytes([APPLICATION_DATA, 3, 3, 0, 40]) + bytes(40), "bad_record_mac"),
    "a flipped bit": (lambda record: record[:-1] + bytes([record[-1] ^ 1]), "bad_record_mac"),
    "twice the same": (lambda record: record + record, "bad_record_mac"),
    "too long": (lambda _: bytes([APPLICATION_DATA, 3, 3, 0x48, 0]) + bytes(100), "record_overflow"),
    "too short": (lambda _: bytes([APPLICATION_DATA, 3, 3, 0, 1, 7]), "bad_record_mac"),
}


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_forged_record_ends_its_connection_by_an_alert(server, context, name):
    forge, reason = FORGERIES[name]
    async with server.client("43") as bystander:
        with RawByHand(server, context) as raw:
            raw.upgrade(token("42"))
            raw.socket.tls.write(frame(TEXT, '{"op":"ping"}'))
            raw.socket.stream.sendall(forge(raw.socket.output.read()))
            with pytest.raises(ssl.SSLError, match="(?i)alert"):
                while raw.more():
                    pass
        assert failures(server, reason) == 1, server.admin("/metrics")[2]
        assert await bystander.heard() == []


async def test_only_an_end_that_tls_tells_is_an_end(server, context):
    async with server.client("43") as bystander:
        with RawByHand(server, context) as raw:
            raw.upgrade(token("42"))
            raw.socket.stream.shutdown(socket.SHUT_WR)
            # It is dropped, and nothing is said to anybody on the way.
            with contextlib.suppress(ssl.SSLError, ConnectionResetError):
                assert not raw.more()
        eventually(lambda: counter(server, "tls_truncated_total") == 1, "the cut is counted")
        with RawByHand(server, context) as raw:
            raw.upgrade(token("42"))
            with contextlib.suppress(ssl.SSLWantReadError):
                raw.socket.tls.unwrap()
            raw.socket.flush()
            assert raw.ended(), "it is answered by an end that TLS tells"
        with RawByHand(server, context) as raw:
            raw.upgrade(token("42"))
            raw.socket.sendall(frame(CLOSE, struct.pack("!H", 1000)))
            assert raw.close_code() == 1000
        eventually(lambda: counter(server, "clients") == 1, "all are gone")
        assert counter(server, "tls_truncated_total") == 1
        assert await bystander.heard() == []
