"""The closing handshake (RFC 6455 section 7.1.1): the server ends TCP behind the client's close frame, not behind its own."""

import select
import socket
import struct

import pytest
from helpers.process import eventually
from helpers.raw_client import BINARY, CLOSE, PING, TEXT, Raw, frame, head
from helpers.server import counter
from helpers.tokens import token

# It peeks at the socket.
pytestmark = pytest.mark.plain

BOUNDS = ["--message-bytes-max", 1024, "--auth-seconds", 1]

# Causes of a close, and the code.
CAUSES = {
    "a bad token": (lambda raw: raw.send(head(raw.server, path="/ws?token=x")), 4500),
    "no token": (lambda raw: raw.send(head(raw.server)), 4501),
    "no command": (lambda raw: open_and_send(raw, frame(TEXT, "nonsense")), 4502),
    "a message too long": (lambda raw: open_and_send(raw, frame(TEXT, "x" * 2000)), 1009),
    "no text": (lambda raw: open_and_send(raw, frame(TEXT, b"\xff")), 1007),
    "an unmasked frame": (lambda raw: open_and_send(raw, frame(TEXT, "ping", masked=False)), 1002),
    "binary": (lambda raw: open_and_send(raw, frame(BINARY, b"ping")), 1003),
}


def open_and_send(raw, data):
    raw.upgrade(token("guest"))
    raw.send(data)


def read_close(raw):
    """The code of the close frame that comes next, behind the answer to a handshake."""
    if raw.input == b"" and b"HTTP/1.1 101" in raw.socket.recv(12, socket.MSG_PEEK):
        assert raw.answer()[0] == 101
    while (got := raw.frame())[0] != CLOSE:
        pass
    return struct.unpack("!H", got[1][:2])[0]


def has_ended(raw):
    """Returns whether the end of the stream is there already."""
    readable, _, _ = select.select([raw.socket], [], [], 0)
    return bool(readable) and raw.socket.recv(1, socket.MSG_PEEK) == b""


@pytest.mark.parametrize("cause", CAUSES)
async def test_tcp_ends_behind_the_close_frame_of_the_client(start, cause):
    server = start(*BOUNDS)
    provoke, code = CAUSES[cause]
    async with server.client("other") as bystander:
        with Raw(server) as raw:
            provoke(raw)
            assert read_close(raw) == code
            # The server has had its turns: what followed the close frame at once would be here.
            assert await bystander.heard() == [] and await bystander.heard() == []
            assert not has_ended(raw)
            raw.send(frame(CLOSE, struct.pack("!H", code)))
            assert raw.ended()


@pytest.mark.parametrize("payload, code", [
    (b"x", 1002), (struct.pack("!H", 1005), 1002), (struct.pack("!H", 1000) + b"\xff", 1007), (bytes(126), 1002),
], ids=["one byte", "a reserved code", "no UTF-8", "too long"])
async def test_a_broken_close_frame_is_the_last_one_as_well(start, payload, code):
    server = start()
    async with server.client("other") as bystander:
        with Raw(server) as raw:
            open_and_send(raw, frame(CLOSE, payload))
            assert read_close(raw) == code
            # No further close frame is awaited.
            assert await bystander.heard() == [] and await bystander.heard() == []
            assert has_ended(raw)
        assert await bystander.heard() == []


@pytest.mark.parametrize("before", [
    b"", frame(TEXT, "late"), frame(PING, b"late"), frame(TEXT, "x" * 900)[5:],
], ids=["nothing", "text", "ping", "part of a frame"])
async def test_what_is_sent_before_the_answer_is_discarded(start, before):
    server = start()
    async with server.client("guest") as bystander:
        with Raw(server) as raw:
            open_and_send(raw, frame(TEXT, "nonsense"))
            assert read_close(raw) == 4502
            raw.send(before + frame(CLOSE, struct.pack("!H", 4502)))
            assert raw.ended(), "no pong, no answer"
        assert await bystander.heard() == []


async def test_a_client_that_never_answers_is_waited_for_a_bounded_time(start):
    server = start()
    with Raw(server) as raw:
        open_and_send(raw, frame(TEXT, "nonsense"))
        assert read_close(raw) == 4502
        assert raw.ended()
        eventually(lambda: counter(server, "clients") == 0, "its place is free")


async def test_a_client_that_ends_tcp_instead_is_gone_at_once(start):
    server = start("--drain-seconds", 10)
    with Raw(server) as raw:
        open_and_send(raw, frame(TEXT, "nonsense"))
        assert read_close(raw) == 4502
        raw.socket.shutdown(socket.SHUT_WR)
        assert raw.ended()
        eventually(lambda: counter(server, "clients") == 0, "its place is free")


async def test_where_every_place_is_taken_no_answer_is_awaited(start):
    server = start("--clients-max", 1)
    with Raw(server) as raw:
        open_and_send(raw, frame(TEXT, "nonsense"))
        assert read_close(raw) == 4502
        assert raw.ended()


async def test_the_server_answers_a_close_frame_and_ends_tcp_first(start):
    server = start()
    with Raw(server) as raw:
        open_and_send(raw, frame(CLOSE, struct.pack("!H", 1000)))
        assert read_close(raw) == 1000
        assert raw.ended()


async def test_a_library_sees_a_clean_close_of_a_refused_token(start):
    server = start()
    async with server.dial("x", place="query") as connection:
        await connection.wait_closed()
        assert (connection.close_code, connection.protocol.close_rcvd_then_sent) == (4500, True)
