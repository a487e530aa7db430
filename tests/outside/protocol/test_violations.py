"""Violations of RFC 6455 end the connection with their close code, and harm nobody else."""

import json
import struct

import pytest
from helpers.process import eventually
from helpers.raw_client import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Raw, frame
from helpers.tokens import token

VIOLATIONS = {
    "binary": (frame(BINARY, b"x"), 1003),
    "unmasked": (frame(TEXT, "ping", masked=False), 1002),
    "reserved bit 1": (frame(TEXT, "ping", reserved=4), 1002),
    "reserved bit 2": (frame(TEXT, "ping", reserved=2), 1002),
    "reserved bit 3": (frame(TEXT, "ping", reserved=1), 1002),
    "reserved opcode": (frame(3, "x"), 1002),
    "reserved control opcode": (frame(11, "x"), 1002),
    "fragmented ping": (frame(PING, "x", fin=False), 1002),
    "long ping": (frame(PING, "x" * 126), 1002),
    "long ping, its header alone": (frame(PING, length=65536), 1002),
    "continuation of nothing": (frame(CONTINUATION, "x"), 1002),
    "a message inside another": (frame(TEXT, "a", fin=False) + frame(TEXT, "b"), 1002),
    "bad UTF-8": (frame(TEXT, b"\xff"), 1007),
    "UTF-8 cut short": (frame(TEXT, b"\xc3"), 1007),
    "a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "bad UTF-8 in the second fragment": (
        frame(TEXT, "a", fin=False) + frame(CONTINUATION, b"\xff"), 1007),
    "too long, its header alone": (frame(TEXT, length=65537), 1009),
    "far too long, its header alone": (frame(TEXT, length=2**63 - 1), 1009),
    "too long in fragments": (
        frame(TEXT, "x" * 60000, fin=False) + frame(CONTINUATION, "x" * 5537, fin=False), 1009),
    "close of one byte": (frame(CLOSE, b"x"), 1002),
    "close with a reserved code": (frame(CLOSE, struct.pack("!H", 1005)), 1002),
    "close with bad UTF-8": (frame(CLOSE, struct.pack("!H", 1000) + b"\xff"), 1007),
}


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_ends_the_connection_with_its_code(server, name):
    data, code = VIOLATIONS[name]
    async with server.client("43") as bystander:
        with Raw(server) as raw:
            raw.upgrade(token())
            raw.send(data)
            assert raw.close_code() == code
        assert await bystander.heard() == []


async def test_a_length_with_the_highest_bit_is_refused(server):
    with Raw(server) as raw:
        raw.upgrade(token())
        raw.send(frame(TEXT, length=2**64 - 1))
        assert raw.close_code() in (1002, 1009)


async def test_too_many_fragments_are_refused(start):
    server = start("--fragments-max", 8)
    async with server.client("43") as bystander:
        with Raw(server) as raw:
            raw.upgrade(token())
            whole = [frame(TEXT, "pi", fin=False), *[frame(CONTINUATION, fin=False)] * 6]
            raw.send(b"".join([*whole, frame(CONTINUATION, "ng")]))
            assert raw.frame() == (TEXT, b"pong")
            raw.send(b"".join([*whole, *[frame(CONTINUATION, fin=False)] * 3]))
            assert raw.close_code() == 1008
        assert await bystander.heard() == []


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
async def test_a_close_is_answered_in_kind(server, code):
    async with server.client("43") as bystander:
        with Raw(server) as raw:
            raw.upgrade(token())
            raw.send(frame(CLOSE, struct.pack("!H", code) + b"bye"))
            opcode, payload = raw.frame()
            assert opcode == CLOSE and struct.unpack("!H", payload[:2]) == (code,)
            assert raw.ended()
        assert server.publish("user.42", 1) == 0
        assert await bystander.heard() == []


def test_an_empty_close_is_answered(server):
    with Raw(server) as raw:
        raw.upgrade(token())
        raw.send(frame(CLOSE))
        opcode, payload = raw.frame()
        assert opcode == CLOSE and payload in (b"", struct.pack("!H", 1000))
        assert raw.ended()


def test_nothing_is_done_behind_a_close(server):
    with Raw(server) as raw:
        raw.upgrade(token())
        raw.send(frame(CLOSE, struct.pack("!H", 1000)) + frame(TEXT, "ping"))
        assert raw.frame()[0] == CLOSE
        assert raw.ended()


@pytest.mark.parametrize("payload", ["", "x", "x" * 125])
def test_a_ping_is_answered_by_its_pong(server, payload):
    with Raw(server) as raw:
        raw.upgrade(token())
        raw.send(frame(PING, payload) + frame(PONG, "unasked"))
        assert raw.frame() == (PONG, payload.encode())


def test_a_command_may_come_in_fragments_with_pings_between(server):
    with Raw(server) as raw:
        raw.upgrade(token())
        text = json.dumps({"op": "ping", "ref": "ü"}, ensure_ascii=False).encode()
        cut = text.index(b"\xc3") + 1  # in the middle of a letter
        raw.send(frame(TEXT, text[:cut], fin=False) + frame(PING, "p") + frame(CONTINUATION, text[cut:]))
        assert raw.frame() == (PONG, b"p")
        opcode, answer = raw.frame()
        assert (opcode, json.loads(answer)) == (TEXT, {"op": "pong", "ref": "ü"})


def test_a_frame_may_come_one_byte_at_a_time(server):
    with Raw(server) as raw:
        raw.upgrade(token())
        for byte in frame(TEXT, "ping") + frame(PING, "x" * 125):
            raw.send(bytes([byte]))
        assert raw.frame() == (TEXT, b"pong")
        assert raw.frame()[0] == PONG


def test_the_largest_message_is_taken(server):
    with Raw(server) as raw:
        raw.upgrade(token())
        command = json.dumps({"op": "ping", "pad": ""})
        text = json.dumps({"op": "ping", "pad": "x" * (65536 - len(command))})
        assert len(text) == 65536
        raw.send(frame(TEXT, text))
        assert json.loads(raw.frame()[1]) == {"op": "pong"}


async def test_a_connection_that_vanishes_is_forgotten(server):
    async with server.client("43") as bystander:
        with Raw(server) as raw:
            raw.upgrade(token())
            assert server.publish("user.42", 1) == 1
        eventually(lambda: server.publish("user.42", 2) == 0, "the vanished client is forgotten")
        assert await bystander.heard() == []
