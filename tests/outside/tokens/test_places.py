"""The four places of a token, which of them wins, and how each says no."""

import json
import time

import pytest
from helpers.process import node
from helpers.server import counter
from helpers.tokens import token
from helpers.ws_client import closed

PLACES = ["header", "subprotocol", "query", "frame"]


@pytest.mark.parametrize("place", PLACES)
async def test_a_token_is_taken_in_each_place(server, place):
    async with server.client("bystander") as bystander:
        async with server.client("42", place=place) as client:
            assert client.welcome["sub"] == "42"
            assert client.connection.subprotocol == ("oneloop.v1" if place == "subprotocol" else None)
            server.publish("user.42", {"paid": True})
            assert await client.heard() == [("user.42", {"paid": True})]
        assert await bystander.heard() == []


async def test_the_node_package_shows_it_in_each_place(server):
    async with server.client("bystander") as bystander:
        lines = node("token_places.cjs", server.line("clients"), token(), token(seconds=-100))
        assert [line["place"] for line in lines] == PLACES * 2
        for line in lines[:4]:
            assert line["welcome"]["sub"] == "42" and not line["isBinary"], line
        assert lines[1]["protocol"] == "oneloop.v1"
        assert lines[4]["status"] == 401
        assert "expired" in json.dumps(json.loads(lines[4]["body"]))
        for line in lines[5:]:
            assert line["code"] == 4500 and "expired" in line["reason"], line
        assert await bystander.heard() == []


@pytest.mark.parametrize("first, second", [
    ("header", "subprotocol"), ("header", "query"), ("subprotocol", "query"),
])
async def test_the_first_place_wins(server, first, second):
    tokens = {first: token("first"), second: token("second")}
    path = f"/ws?token={tokens['query']}" if "query" in tokens else "/ws"
    headers = {"Authorization": f"Bearer {tokens['header']}"} if "header" in tokens else {}
    protocols = []
    if "subprotocol" in tokens:
        protocols = ["oneloop.v1", f"bearer.{tokens['subprotocol']}"]
    async with server.client("second") as bystander:
        async with server.dial(path=path, headers=headers, protocols=protocols) as connection:
            client = await server.enter(connection, "first")
            assert client.welcome["sub"] == "first"
            server.publish("user.first", 1)
            assert await client.heard() == [("user.first", 1)]
        assert await bystander.heard() == []


async def test_a_refused_first_place_is_not_saved_by_a_second(server):
    bad, good = token(seconds=-100), token()
    status, _, _ = await server.refusal(bad, path=f"/ws?token={good}")
    assert status == 401
    protocols = ["oneloop.v1", f"bearer.{bad}"]
    async with server.dial(path=f"/ws?token={good}", protocols=protocols) as connection:
        assert (await closed(connection))[0] == 4500


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
async def test_the_scheme_is_bearer_in_any_case(server, scheme):
    headers = {"Authorization": f"{scheme} {token()}"}
    async with server.dial(headers=headers) as connection:
        assert (await server.enter(connection, "42")).welcome["sub"] == "42"


async def test_the_subprotocol_may_come_in_any_order(server):
    protocols = [f"bearer.{token()}", "oneloop.v1"]
    async with server.dial(protocols=protocols) as connection:
        assert (await server.enter(connection, "42")).welcome["sub"] == "42"
        assert connection.subprotocol == "oneloop.v1"


async def test_a_token_without_our_subprotocol_is_read_and_answered(server):
    async with server.client("bystander") as bystander:
        alone = f"bearer.{token()}"
        async with server.dial(protocols=[alone]) as connection:
            assert connection.subprotocol == alone, "a browser fails a connection without one"
            assert (await server.enter(connection, "42")).welcome["sub"] == "42"
        bad = f"bearer.{token(seconds=-100)}"
        async with server.dial(protocols=[bad]) as connection:
            assert (await closed(connection))[0] == 4500
        assert await bystander.heard() == []
    assert token()[:20] not in server.log()


async def test_a_clock_that_is_ahead_is_waited_for(server):
    async with server.client("bystander") as bystander:
        early = token(nbf=int(time.time()) + 100, iat=int(time.time()) + 100)
        status, headers, body = await server.refusal(early)
        told = json.loads(body)
        assert status == 401 and told["reason"] == "early" and "s ahead of this server's clock" in told["detail"]
        assert 0 < told["retry"] <= 95_000 and int(headers["Retry-After"]) * 1000 == told["retry"]
        for place in ["subprotocol", "query"]:
            async with server.dial(early, place=place) as connection:
                code, reason = await closed(connection)
                assert code == 4004 and 0 < reason["retry"] <= 95_000, reason
        async with server.dial() as connection:
            await connection.send(json.dumps({"op": "auth", "token": early}))
            code, reason = await closed(connection)
            assert code == 4004 and "s ahead" in reason["detail"], reason
        assert counter(server, 'closes_total{code="4004"}') == 3
        issued = token(iat=int(time.time()) + 100)
        async with server.dial(issued) as connection:
            assert (await server.enter(connection, "42")).welcome["sub"] == "42"
        assert await bystander.heard() == []


@pytest.mark.parametrize("path, headers, seen", [
    ("/ws", {}, "none came in time"),
    ("/ws?access_token=T", {}, "access_token is not read"),
    ("/ws?token=", {}, "?token= is empty"),
    ("/ws", {"Authorization": "Token T"}, "Authorization without Bearer"),
    ("/ws", {"X-Access-Token": "T"}, "x-access-token is not read"),
    ("/ws", {"Cookie": "token=T"}, "cookies are not read"),
])
async def test_a_token_in_another_place_is_told_so(start, path, headers, seen):
    server = start("--auth-seconds", 1)
    async with server.client("bystander") as bystander:
        async with server.dial(path=path, headers=headers) as connection:
            code, reason = await closed(connection)
            assert code == 4501 and reason["reason"] == "no_token", reason
            assert reason["detail"].startswith(f"{seen}; token places: ?token=, Authorization: Bearer"), reason
        assert await bystander.heard() == []


@pytest.mark.parametrize("command", ['{"op":"subscribe","topic":"news"}', '{"op":"topics"}'])
async def test_a_command_before_the_token_is_told_so(server, command):
    async with server.client("bystander") as bystander, server.dial() as connection:
        await connection.send(command)
        code, reason = await closed(connection)
        assert code == 4501 and reason["detail"].startswith("a command came before; token places:"), reason
        assert await bystander.heard() == []


BAD = {
    "expired": lambda: token(seconds=-100),
    "signature": lambda: token(secret="another secret that is long enough, really"),
    "claims": lambda: token(sub=None),
}


@pytest.mark.parametrize("why", BAD)
async def test_a_header_token_is_refused_by_http(server, why):
    async with server.client("bystander") as bystander:
        status, headers, body = await server.refusal(BAD[why]())
        assert status == 401
        assert headers["Content-Type"].startswith("application/json")
        assert why in json.dumps(json.loads(body)), body
        assert await bystander.heard() == []


@pytest.mark.parametrize("place", ["subprotocol", "query"])
@pytest.mark.parametrize("why", BAD)
async def test_other_handshake_tokens_are_refused_by_a_close_code(server, place, why):
    async with server.dial(BAD[why](), place=place) as connection:
        code, reason = await closed(connection)
        assert code == 4500 and why in json.dumps(reason), reason


@pytest.mark.parametrize("why", BAD)
async def test_a_first_frame_token_is_refused_by_a_close_code(server, why):
    async with server.dial() as connection:
        await connection.send(json.dumps({"op": "auth", "token": BAD[why]()}))
        code, reason = await closed(connection)
        assert code == 4500 and why in json.dumps(reason), reason


async def test_without_a_token_it_ends_in_time(start):
    server = start("--auth-seconds", 1)
    async with server.client("bystander") as bystander, server.dial() as connection:
        assert (await closed(connection))[0] == 4501
        assert counter(server, 'closes_total{code="4501"}') == 1
        assert await bystander.heard() == []


async def test_before_the_token_nothing_is_heard_or_done(server):
    async with server.client("bystander") as bystander, server.dial() as connection:
        assert server.publish("news", "too early") == 1
        client = await server.enter(connection, "42", token(), "frame")
        server.publish("news", "in time")
        assert await client.heard() == [("news", "in time")]
        assert await bystander.heard() == [("news", "too early"), ("news", "in time")]
    async with server.dial() as connection:
        await connection.send(json.dumps({"op": "subscribe", "topic": "news"}))
        code, _ = await closed(connection)
        assert code in (4501, 4502)


async def test_the_bare_ping_is_answered_before_the_token(server):
    async with server.dial() as connection:
        await connection.send("ping")
        assert await connection.recv() == "pong"
        await server.enter(connection, "42", token(), "frame")


async def test_anonymous_clients_hear_their_grants_alone(start):
    server = start("--anonymous", "news", "--topics", "members")
    async with server.client("bystander") as bystander, server.anonymous() as client:
        assert client.welcome["topics"] == ["news"]
        assert client.welcome.get("sub") is None
        for topic in ["members", "user.bystander", "user.", "user.null", "user.anonymous"]:
            server.publish(topic, "secret")
        assert (await client.ask(op="subscribe", topic="members"))["code"] == "forbidden"
        assert server.publish("news", "for all") == 1
        message = await client.next()
        assert (message["topic"], message["data"]) == ("news", "for all")
        assert await bystander.heard() == [("members", "secret"), ("user.bystander", "secret")]


async def test_a_bad_token_is_refused_where_anonymous_is_welcome(start):
    server = start("--anonymous", "news")
    assert (await server.refusal(token(seconds=-100)))[0] == 401
    async with server.dial(token(seconds=-100), place="query") as connection:
        assert (await closed(connection))[0] == 4500
