"""Clients that mean harm: each gets its answer or its end, nothing of it stays, and a bystander misses nothing."""

import asyncio
import contextlib
import json
import socket
import struct

import pytest
from helpers.process import eventually
from helpers.raw_client import CLOSE, CONTINUATION, HANDSHAKE, PING, PONG, TEXT, Raw, frame, head
from helpers.server import counter
from helpers.tokens import token

KEY = HANDSHAKE["Sec-WebSocket-Key"]


def reset(raw):
    """Ends it by RST instead of FIN."""
    raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.socket.close()


def all_of(raw):
    """Every byte up to the end of the stream."""
    while raw.more():
        pass
    return raw.input


# ---- heads

def request(server, line, *more, drop=()):
    """A good handshake but for its first line and what is added."""
    whole = head(server, bearer=token(), extra=more, drop=drop)
    return line.encode() + whole[whole.index(b"\r\n"):]


@pytest.mark.parametrize("line, status", [
    ("GET /ws HTTP/1.0", 426),
    ("HEAD /ws HTTP/1.1", 426),
    ("OPTIONS /ws HTTP/1.1", 204),
    ("GET /ws HTTP/2.0", 400),
    ("GET /ws http/1.1", 400),
    ("GET /ws", 400),
    ("GET  /ws HTTP/1.1", 400),
    ("GET ws HTTP/1.1", 404),
    ("GET * HTTP/1.1", 404),
    ("OPTIONS * HTTP/1.1", 204),
    ("CONNECT 127.0.0.1:80 HTTP/1.1", 405),
    ("CONNECT /ws HTTP/1.1", 405),
    ("get /ws HTTP/1.1", 405),
    ("PRI * HTTP/2.0", 400),
    ("GET http://other.example/ HTTP/1.1", 404),
    ("GET http://other.example/metrics HTTP/1.1", 404),
    ("GET http://127.0.0.1:9/healthz HTTP/1.1", 404),
    ("GET //ws HTTP/1.1", 404),
    ("GET /ws/ HTTP/1.1", 404),
    ("GET /./ws HTTP/1.1", 404),
    ("GET /x/../ws HTTP/1.1", 404),
    ("GET /%77s HTTP/1.1", 404),
    ("GET /WS HTTP/1.1", 404),
])
async def test_a_strange_request_line_is_refused(server, line, status):
    async with server.client("43") as bystander:
        with Raw(server) as raw:
            raw.send(request(server, line))
            got, headers = raw.answer()
            assert got == status
            raw.take(0 if line.startswith("HEAD") else int(headers.get("content-length", 0)))
            assert raw.ended()
        assert await bystander.heard() == []


@pytest.mark.parametrize("key", [
    "", "x", KEY[:-1], KEY + "=", KEY + KEY, KEY[:-2], "A" * 24, "*" * 22 + "==", KEY[:22] + "=A", "é" * 12,
])
def test_a_bad_key_is_refused(server, key):
    with Raw(server) as raw:
        raw.send(head(server, bearer=token(), sec_websocket_key=key))
        assert raw.answer()[0] == 400


@pytest.mark.parametrize("line", [
    f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8",
    "Host: other.example", "Host : other.example", " folded: line",
    "Content-Length: 5", "Content-Length: 0\r\nContent-Length: 5", "Transfer-Encoding: chunked",
])
async def test_a_head_that_two_readers_read_in_two_ways_is_refused(server, line):
    async with server.client("43") as bystander:
        with Raw(server) as raw:
            raw.send(request(server, "GET /ws HTTP/1.1", line))
            assert raw.answer()[0] == 400
        assert await bystander.heard() == []


@pytest.mark.parametrize("version", ["", "0", "7", "12", "14", "13, 8", "8, 13", "+13", "013", "1" * 500])
def test_any_other_version_is_told_the_one(server, version):
    with Raw(server) as raw:
        raw.send(head(server, bearer=token(), sec_websocket_version=version))
        status, headers = raw.answer()
        assert (status, headers["sec-websocket-version"]) == (426, "13")


SECRETS = [b"oneloop_", b"{\"clients\":", b"ok\n", b"no link"]


@pytest.mark.plain
@pytest.mark.parametrize("path", ["/metrics", "/clients", "/readyz"])
async def test_the_admins_pages_cannot_be_reached_by_clients(server, path):
    admin = server.line("admin").removeprefix("http://").rstrip("/")
    plain = f"GET {path} HTTP/1.1\r\nHost: {admin}\r\n\r\n"
    smuggled = [
        plain,
        f"GET http://{admin}{path} HTTP/1.1\r\nHost: {admin}\r\n\r\n",
        f"GET /ws HTTP/1.1\r\nHost: h\r\nContent-Length: {len(plain)}\r\n\r\n{plain}",
        f"GET /ws HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{plain}",
        f"GET /ws HTTP/1.1\r\nHost: h\r\nX-Original-URL: {path}\r\nX-Rewrite-URL: {path}\r\n\r\n",
        f"GET /ws HTTP/1.1\r\nHost: h\r\nX-Forwarded-Host: {admin}\r\nForwarded: host={admin}\r\n\r\n{plain}",
        request(server, "GET /ws HTTP/1.1").decode() + plain,
        f"GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n{plain}",
    ]
    async with server.client("43") as bystander:
        for data in smuggled:
            with Raw(server) as raw:
                raw.send(data.encode())
                raw.socket.shutdown(socket.SHUT_WR)
                got = all_of(raw)
                assert got.startswith(b"HTTP/1.1 ") and got.count(b"HTTP/1.1 ") == 1, got
                assert not any(secret in got for secret in SECRETS), got
        assert await bystander.heard() == []


async def test_clients_and_publishers_cannot_use_the_admins_port(server):
    host, _, port = server.line("admin").removeprefix("http://").rstrip("/").rpartition(":")
    async with server.client("43") as bystander:
        for data in [head(server, bearer=token()), b"PUBLISH pub.user.43 x\r\n",
                     b"*3\r\n$7\r\nPUBLISH\r\n$11\r\npub.user.43\r\n$1\r\nx\r\n"]:
            with Raw(server, address=(host, int(port))) as raw:
                raw.send(data + b"\r\n\r\n")
                assert all_of(raw).startswith(b"HTTP/1.1 4")
        assert await bystander.heard() == []


async def test_silent_connections_to_the_admins_port_leave_clients_alone(start):
    server = start("--head-seconds", 1)
    host, _, port = server.line("admin").removeprefix("http://").rstrip("/").rpartition(":")
    async with server.client("43") as bystander:
        with contextlib.ExitStack() as ends:
            for _ in range(60):
                ends.enter_context(Raw(server, address=(host, int(port))))
            async with server.client("42") as client:
                assert await client.heard() == []
            assert await bystander.heard() == []
        eventually(lambda: server.admin("/healthz")[0] == 200, "the operator is let in again")


async def test_a_second_head_is_never_read(server):
    """Behind a refused one nothing is answered; behind a good one it is no frame."""
    async with server.client("43") as bystander:
        with Raw(server) as raw:
            raw.send(head(server, path="/nowhere") + head(server, bearer=token()) * 20)
            got = all_of(raw)
            assert got.startswith(b"HTTP/1.1 404") and got.count(b"HTTP/1.1") == 1
        with Raw(server) as raw:
            raw.upgrade(token())
            raw.send(head(server, bearer=token()) * 20)
            assert raw.close_code() == 1002
        assert await bystander.heard() == []


async def test_a_thousand_heads_one_after_the_other_leave_nothing(server):
    async with server.client("43") as bystander:
        for number in range(1000):
            with Raw(server) as raw:
                raw.send(head(server, path=f"/nowhere/{number}"))
                assert raw.answer()[0] == 404
        assert await bystander.heard() == []
        eventually(lambda: counter(server, "clients") == 1, "only the bystander is left")


# ---- frames

FRAMES = {
    "a letter cut by a fragment, and not gone on with": (
        frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"\x28"), 1007),
    "a letter cut by the last fragment": (
        frame(TEXT, b"a\xf0\x9f", fin=False) + frame(CONTINUATION), 1007),
    "a letter cut, with a ping between": (
        frame(TEXT, b"\xc3", fin=False) + frame(PING) + frame(CONTINUATION, b"\xc3"), 1007),
    "a surrogate in two fragments": (
        frame(TEXT, b"\xed", fin=False) + frame(CONTINUATION, b"\xa0\x80"), 1007),
    "fragmented for ever": (frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 1100, 1008),
    "fragmented for ever, with pings between": (
        frame(TEXT, fin=False) + (frame(PING) + frame(CONTINUATION, fin=False)) * 1100, 1008),
    "binary fragments for ever": (
        frame(2, fin=False) + frame(CONTINUATION, "x" * 128, fin=False) * 1100, 1009),
    "an unmasked ping": (frame(PING, "x", masked=False), 1002),
    "an unmasked close": (frame(CLOSE, masked=False), 1002),
    "an unmasked fragment": (
        frame(TEXT, "p", fin=False) + frame(CONTINUATION, "ing", masked=False), 1002),
    "a reserved bit in a fragment": (
        frame(TEXT, "p", fin=False) + frame(CONTINUATION, "ing", reserved=4), 1002),
    "a reserved bit in a close": (frame(CLOSE, reserved=1), 1002),
    "a long close between fragments": (
        frame(TEXT, "p", fin=False) + frame(CLOSE, "x" * 126), 1002),
    "an oversized fragment, its header alone": (
        frame(TEXT, "p", fin=False) + frame(CONTINUATION, length=65536), 1009),
}


@pytest.mark.parametrize("cut", [None, 1], ids=["whole", "in two"])
@pytest.mark.parametrize("name", FRAMES)
async def test_a_hostile_stream_ends_with_its_code(server, name, cut):
    data, code = FRAMES[name]
    async with server.client("43") as bystander:
        with Raw(server) as raw:
            raw.upgrade(token())
            for part in [data] if cut is None else [data[:-cut], data[-cut:]]:
                with contextlib.suppress(ConnectionError):  # it may have been refused already
                    raw.send(part)
            frames, got, _ = raw.frames_to_close()
            assert got == code
            assert {opcode for opcode, _ in frames} <= {PONG}
        assert await bystander.heard() == []


async def test_a_close_between_fragments_is_answered(server):
    async with server.client("43") as bystander:
        with Raw(server) as raw:
            raw.upgrade(token())
            raw.send(frame(TEXT, "pi", fin=False) + frame(CLOSE, struct.pack("!H", 1000))
                     + frame(CONTINUATION, "ng"))
            assert raw.frame() == (CLOSE, struct.pack("!H", 1000))
            assert raw.ended()
        assert await bystander.heard() == []


PARTS = {
    "head": lambda server: head(server, bearer=token())[:-7],
    "frame": lambda server: head(server, bearer=token()) + frame(TEXT, "x" * 60_000)[:-1],
    "fragment": lambda server: head(server, bearer=token()) + frame(TEXT, "p", fin=False),
    "header": lambda server: head(server, bearer=token()) + frame(TEXT, "x" * 60_000)[:3],
}


@pytest.mark.parametrize("part", PARTS)
async def test_a_reset_in_the_middle_leaves_nothing(server, part):
    async with server.client("43") as bystander:
        for _ in range(50):
            with Raw(server) as raw:
                raw.send(PARTS[part](server))
                if part != "head":
                    assert raw.answer()[0] == 101
                reset(raw)
        eventually(lambda: counter(server, "clients") == 1, "only the bystander is left")
        assert counter(server, "memberships") == counter(server, "topics") == 2  # its own and `news`
        assert server.publish("user.42", 1) == 0
        assert await bystander.heard() == []


@pytest.mark.plain
async def test_what_was_asked_before_a_half_close_is_answered(server):
    async with server.client("43") as bystander:
        with Raw(server) as raw:
            raw.upgrade(token())
            raw.send(frame(TEXT, "ping") * 3 + frame(TEXT, "pi", fin=False))
            raw.socket.shutdown(socket.SHUT_WR)
            assert [raw.frame() for _ in range(3)] == [(TEXT, b"pong")] * 3
            assert raw.ended()
        with Raw(server) as raw:
            raw.send(head(server, path="/nowhere"))
            raw.socket.shutdown(socket.SHUT_WR)
            assert raw.answer()[0] == 404
        eventually(lambda: counter(server, "clients") == 1, "only the bystander is left")
        assert await bystander.heard() == []


async def test_nobody_holds_a_connection_that_has_ended(start):
    """Each got its last word and neither reads it nor ends its side: it is dropped all the same."""
    server = start("--head-seconds", 1, "--drain-seconds", 1)
    async with server.client("43") as bystander:
        with contextlib.ExitStack() as ends:
            held = [ends.enter_context(Raw(server, receive_buffer=4096)) for _ in range(5)]
            held[0].send(b"GET /ws HT")
            held[1].send(head(server, path="/nowhere"))
            for raw, last in zip(held[2:], [frame(CLOSE), frame(TEXT, b"\xff"), frame(CLOSE)]):
                raw.upgrade(token())
                raw.send(last if raw is not held[4] else b"")
            # The last one has much to read, and closes instead.
            eventually(lambda: server.publish("user.42", "x" * 500_000) == 1, "only it listens")
            for _ in range(15):
                server.publish("user.42", "x" * 500_000)
            held[4].send(frame(CLOSE))
            eventually(lambda: counter(server, "clients") == 1, "only the bystander is left")
        assert await bystander.heard() == []


# ---- crowds and floods

async def test_ten_thousand_connections_of_one_address_keep_nobody_out(start):
    server = start("--clients-per-address-max", 50)
    other = {"local_addr": ("127.0.0.2", 0)}
    async with server.client("43", options=other) as bystander:
        held = []
        try:
            for number in range(10_000):
                held.append(socket.create_connection(server.address))
                if number % 1000 == 999:
                    async with server.client("42", options=other) as client:
                        assert server.publish("user.42", number) == 1
                        assert await client.heard() == [("user.42", number)]
            eventually(lambda: counter(server, "accepted_total") + refusals(server) >= 10_000, "all came")
            assert counter(server, "clients") < 100
            assert server.resident_kilobytes() < 32_000
        finally:
            for one in held:
                one.close()
        assert await bystander.heard() == []


@pytest.mark.plain
async def test_ten_thousand_connections_of_one_user_hear_all(server):
    head_of_all = head(server, bearer=token("42"))
    async with server.client("43") as bystander:
        held = []
        try:
            for _ in range(10_000):
                held.append(socket.create_connection(server.address))
                held[-1].sendall(head_of_all)
            eventually(lambda: server.publish("user.42", "all") == 10_000, "all are welcome")
            async with server.client("44") as client:
                assert server.publish("user.44", 1) == 1
                assert await client.heard() == [("user.44", 1)]
            assert server.resident_kilobytes() < 64_000
        finally:
            for one in held:
                one.close()
        eventually(lambda: counter(server, "clients") == 1, "only the bystander is left")
        assert counter(server, "memberships") == 2
        assert await bystander.heard() == []


def refusals(server):
    return counter(server, 'http_responses_total{status="429"}')


async def test_a_flood_of_subscribes_leaves_nothing(start):
    server = start("--commands-per-second-max", 0, "--topics-per-client-max", 20)
    async with server.client("43", topics=["room.*"]) as bystander:
        before = server.resident_kilobytes()
        with Raw(server) as raw:
            raw.upgrade(token("42", may=["*"]))
            for number in range(0, 5000, 50):
                topics = [f"room.{n}" for n in range(number, number + 50)]
                raw.send(b"".join(frame(TEXT, json.dumps({"op": op, "topic": topic}))
                                  for op in ["subscribe", "unsubscribe"] for topic in topics))
                answers = [json.loads(raw.frame()[1]) for _ in range(100)]
                assert sum(answer["op"] == "subscribed" for answer in answers) == 19
                assert sum(answer["op"] == "unsubscribed" for answer in answers) == 50
            assert counter(server, "memberships") == 3
        eventually(lambda: counter(server, "topics") == 2, "only the bystander's topics are left")
        assert server.resident_kilobytes() < before + 4096
        assert server.publish("room.1", 1) == 1
        assert await bystander.heard() == [("room.1", 1)]


async def test_a_flood_of_tokens_is_bounded_by_the_second(start):
    server = start("--commands-per-second-max", 10)
    async with server.client("43") as bystander:
        with Raw(server) as raw:
            raw.upgrade(token())
            raw.send(frame(TEXT, json.dumps({"op": "auth", "token": token()})) * 100)
            frames, code, reason = await asyncio.to_thread(raw.frames_to_close)
            assert code == 4003 and reason["retry"] > 0
            assert 10 <= len(frames) <= 20
            assert {json.loads(text)["op"] for _, text in frames} == {"authed"}
        assert await bystander.heard() == []
