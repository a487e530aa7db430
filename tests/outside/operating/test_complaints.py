"""Complaints: one line for a person per refusal, with the setting that would change it."""

import re

import pytest
from helpers.raw_client import BINARY, TEXT, Raw, frame
from helpers.server import counter
from helpers.tokens import token
from helpers.ws_client import closed

CASES = [
    ({"path": "/wss"}, 404, "404: nothing is served at /wss; WebSockets are at /ws"),
    ({"bearer": token("42", secret="x" * 40)}, 401, "401: a token was refused"),
    ({"headers": {"X": "x" * 9000}}, 431, "431: .*head_bytes_max is 8192"),
]


@pytest.mark.parametrize(("options", "status", "line"), CASES)
async def test_a_refused_handshake_is_told_once_a_minute(start, options, status, line):
    server = start("--topics", "news")
    async with server.client("1") as bystander:
        for _ in range(3):
            assert (await server.refusal(**options))[0] == status
        server.wait_for_log(f"warning: {line}")
        assert len(re.findall(f"warning: {status}", server.log())) == 1
        assert await bystander.heard() == []
    assert "xxxx" not in server.log()


@pytest.mark.parametrize("origin, detail", [
    ("null", "if it is yours: --origins null (any page from disk or sandboxed frame)"),
    ("file://", "if it is yours: --origins file:// (any page from disk)"),
    ("garbage", "if it is yours: name it in origins"),
])
async def test_a_page_without_an_origin_of_its_own_reads_who_else_would_be_let_in(start, origin, detail):
    server = start("--topics", "news")
    async with server.client("1") as bystander:
        async with server.dial(token("42"), headers={"Origin": origin}, place="query") as connection:
            assert await closed(connection) == (4505, {"reason": "origin", "detail": f"not allowed; {detail}"})
        server.wait_for_log(f"warning: 4505: a page of {origin} wants /ws; {re.escape(detail)}")
        assert await bystander.heard() == []


async def test_a_foreign_page_reads_why_it_is_refused_and_so_does_the_operator(start):
    server = start("--topics", "news")
    page = {"headers": {"Origin": "http://localhost:5173"}, "place": "query"}
    async with server.client("1") as bystander:
        for bearer in [None, token("42"), token("42", secret="x" * 40)]:
            async with server.dial(bearer, **page) as connection:
                assert await closed(connection) == (4505, {
                    "reason": "origin",
                    "detail": "not allowed; if it is yours: --origins http://localhost:5173",
                })
        server.wait_for_log("warning: 4505: a page of http://localhost:5173 wants /ws; "
                            "if it is yours: --origins http://localhost:5173")
        assert len(re.findall("warning: 4505", server.log())) == 1
        assert counter(server, 'closes_total{code="4505"}') == 3
        assert counter(server, "opened_total") == 1
        assert await bystander.heard() == []


async def test_a_token_that_no_page_can_show_comes_from_everywhere(server):
    headers = {"Origin": "http://elsewhere.example"}
    async with server.client("43") as bystander:
        async with server.dial(token(), headers=headers) as connection:
            assert (await server.enter(connection, "42")).welcome["sub"] == "42"
        assert (await server.refusal(token(seconds=-100), headers=headers))[0] == 401
        assert await bystander.heard() == []


SENT = {
    "no mask": (b"\x81\x02hi", 1002, "protocol"),
    "compressed": (frame(0x41, b"x"), 1002, "protocol"),
    "binary": (frame(BINARY, b"{}"), 1003, "binary"),
    "no UTF-8": (frame(TEXT, b"\xff"), 1007, "utf8"),
    "too big": (frame(TEXT, b"x" * 70_000), 1009, "too_big"),
    "no JSON": (frame(TEXT, b"hello"), 4502, "command"),
}


@pytest.mark.parametrize("sent", SENT)
async def test_each_close_has_a_reason_that_a_person_can_act_on(server, sent):
    data, code, reason = SENT[sent]
    async with server.client("43") as bystander:
        with Raw(server) as raw:
            raw.upgrade(token("42"))
            raw.send(data)
            frames, found, told = raw.frames_to_close()
            assert (frames, found, told["reason"]) == ([], code, reason)
            assert len(told["detail"]) > 20
        assert await bystander.heard() == []


async def test_at_debug_each_refusal_has_a_line(start):
    server = start("--log", "debug")
    for _ in range(3):
        assert (await server.refusal(path="/wrong?token=hidden"))[0] == 404
    server.wait_for_log("refused 404 at /wrong from 127.0.0.1: nothing is served at /wrong")
    assert len(re.findall("debug: refused 404", server.log())) == 3
    assert "hidden" not in server.log()


async def test_a_closed_websocket_is_told_with_its_setting(start):
    server = start("--message-bytes-max", 1024)
    async with server.client("42") as client, server.client("43") as bystander:
        await client.send("x" * 2000)
        assert (await client.closed())[0] == 1009
        server.wait_for_log(r"warning: 1009: a message above message_bytes_max \(1024 bytes\)")
        assert await bystander.heard() == []
    async with server.dial() as stranger:
        await stranger.send('{"op":"auth","token":"no token"}')
        assert (await closed(stranger))[0] == 4500
    server.wait_for_log("warning: 4500: a token was refused")
    assert "no token\"" not in server.log()


@pytest.mark.parametrize(("channel", "line"), [
    ("user.42", r"the channel user\.42 does not begin with pub\.: publish on pub\.<topic>, or set prefix"),
    ("pub.room 7", r"the channel pub\.room 7 names no topic: 1 to 260 bytes"),
    ("laravel-database-pub.user.42", r"the channel laravel-database-pub\.user\.42 does not begin with pub\."),
    ("pub.\x1b[2J", r"the channel pub\.\\u\{1b\}\[2J names no topic"),
])
async def test_a_dropped_message_names_its_channel(start, redis, channel, line):
    server = start("--patterns", "*", "--prefix", "pub.", redis=redis)
    async with server.client("42") as client:
        for _ in range(3):
            redis.command("PUBLISH", channel, "the payload")
        server.wait_for_log(f"warning: message dropped: {line}")
        assert await client.heard() == []
    assert len(re.findall("message dropped", server.log())) == 1 and "the payload" not in server.log()


async def test_an_entry_that_is_no_message_says_why(start, redis):
    server = start("--streams", "pub", redis=redis)
    async with server.client("42") as client:
        redis.command("XADD", "pub", "*", "channel", "news", "message", "the payload")
        server.wait_for_log("warning: entry dropped: .* lacks the field topic or data")
        redis.command("XADD", "pub", "*", "topic", "pub.user.42", "data", "the payload")
        server.wait_for_log(r"warning: entry with a prefix: .*pub\.user\.42")
        assert await client.heard() == []
    assert "the payload" not in server.log()
