"""A proxy in front names the user in a header: believed from listed proxies alone, and from pages of listed origins."""

import contextlib
import json
import re

import pytest
from helpers.event_stream import Stream
from helpers.nginx import UPGRADE, Nginx
from helpers.raw_client import Raw, head
from helpers.server import counter
from helpers.tokens import token
from helpers.ws_client import closed
from websockets.asyncio.client import connect

FLAGS = ("--identity", "header:X-WX-OPENID", "--proxies", "127.0.0.1")
PROXY_HEADER = b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x21, 0x11, 0, 12])


def named(user):
    return {"X-WX-OPENID": user}


@pytest.fixture
def behind(start):
    """A server whose tests are its proxy."""
    return start(*FLAGS, "--topics", "news", "--may", "room.*")


@contextlib.asynccontextmanager
async def client(server, user, **headers):
    async with server.dial(headers=named(user) | headers) as connection:
        yield await server.enter(connection, user)


@pytest.mark.parametrize("user", ["42", "oX-7_é", "a b,c;d"])
async def test_the_user_has_its_own_topic_and_those_of_the_route(behind, user):
    async with behind.client("43") as bystander:
        with Raw(behind) as raw:
            raw.send(head(behind, extra=[f"X-WX-OPENID: {user}"]))
            assert raw.answer()[0] == 101
            welcome = json.loads(raw.frame()[1])
            assert welcome["sub"] == user and welcome["topics"] == ["news", f"user.{user}"]
            assert behind.publish(f"user.{user}", "own") == 1
            assert json.loads(raw.frame()[1])["data"] == "own"
        assert await bystander.heard() == []


async def test_it_may_what_the_route_lets_users_and_no_more(behind):
    async with behind.client("43", topics=["room.9"]) as bystander, client(behind, "42") as user:
        assert (await user.ask(op="subscribe", topic="room.7"))["op"] == "subscribed"
        for topic in ["hall", "user.43", "user.*", "*"]:
            assert (await user.ask(op="subscribe", topic=topic))["code"] == "forbidden"
        for topic in ["room.7", "room.9", "user.43", "news"]:
            behind.publish(topic, 1)
        assert await user.heard() == [("room.7", 1), ("news", 1)]
        assert await bystander.heard() == [("room.9", 1), ("user.43", 1), ("news", 1)]


@pytest.mark.plain
async def test_from_elsewhere_the_header_is_refused(behind):
    async with behind.client("43") as bystander:
        for bearer in [None, token("42")]:
            with Raw(behind, source="127.0.0.2") as raw:
                raw.send(head(behind, bearer=bearer, extra=["x-wx-openid: forged-one"]))
                assert raw.answer()[0] == 403
        # Nor does a proxy's word on another address make it one of the client's.
        with Raw(behind, source="127.0.0.2") as raw:
            raw.send(head(behind, extra=["X-WX-OPENID: forged-one", "X-Forwarded-For: 127.0.0.1"]))
            assert raw.answer()[0] == 403
        with Raw(behind, source="127.0.0.2") as raw:
            raw.upgrade(token("42"), extra=["X-WX-OPENID:"])
        assert behind.publish("user.forged-one", 1) == 0
        assert await bystander.heard() == []
    assert counter(behind, "identities_refused_total") == 3
    behind.wait_for_log("X-WX-OPENID counts from proxies alone")
    assert "forged-one" not in behind.log()


async def test_without_the_setting_the_header_is_nothing(start):
    server = start("--proxies", "127.0.0.1")
    async with server.dial(token("43"), headers=named("42")) as connection:
        assert (await server.enter(connection, "43")).welcome["sub"] == "43"


async def test_the_header_goes_before_a_token_and_a_token_does_without(behind):
    async with behind.client("bystander") as bystander:
        async with behind.dial(token("43"), headers=named("42")) as connection:
            assert (await behind.enter(connection, "42")).welcome["sub"] == "42"
        async with behind.dial("what the proxy's own issuer signed", headers=named("42")) as connection:
            assert (await behind.enter(connection, "42")).welcome["sub"] == "42"
        async with behind.dial(token("43"), headers=named("")) as connection:
            assert (await behind.enter(connection, "43")).welcome["sub"] == "43"
        assert await bystander.heard() == []


async def test_a_token_renews_the_same_user_alone(behind):
    async with behind.client("43") as bystander, client(behind, "42") as user:
        authed = await user.ask(op="auth", token=token("42", topics=["hall"]))
        assert authed == {"op": "authed", "sub": "42", "topics": ["hall", "news", "user.42"]}
        await user.send(op="auth", token=token("43"))
        code, reason = await user.closed()
        assert code == 4500 and reason["detail"].startswith("a renewal must keep sub")
        assert await bystander.heard() == []


@pytest.mark.parametrize("lines", [
    ["X-WX-OPENID: 42", "X-WX-OPENID: 43"], ["X-WX-OPENID: 42", "x-wx-openid: 42"], ["X-WX-OPENID:", "X-WX-OPENID: 42"],
    ["X-WX-OPENID: " + "x" * 256], ["X-WX-OPENID: a\tb"],
])
async def test_a_header_that_names_no_one_user_is_refused(behind, lines):
    async with behind.client("43") as bystander:
        with Raw(behind) as raw:
            raw.send(head(behind, extra=lines))
            assert raw.answer()[0] == 400
        assert await bystander.heard() == []
    assert counter(behind, "identities_refused_total") == 1


async def test_no_page_of_another_site_listens_as_its_visitors(start):
    server = start(*FLAGS, "--origins", "https://shop.example,null")
    async with server.client("43") as bystander:
        async with client(server, "42", Origin="https://shop.example") as user:
            assert await user.heard() == []
        for origin in ["https://evil.example", "null"]:
            # The proxy may add a token of its own to it.
            for bearer in [None, token("42")]:
                async with server.dial(bearer, headers=named("42") | {"Origin": origin}) as connection:
                    assert (await closed(connection))[0] == 4505, (origin, bearer)
        assert await bystander.heard() == []


async def test_without_a_user_or_a_token_it_is_told_so(start):
    server = start(*FLAGS, "--auth-seconds", "1")
    async with server.client("43") as bystander, server.dial() as connection:
        code, reason = await closed(connection)
        assert code == 4501 and reason["detail"].startswith("no proxy named a user; token places:"), reason
        assert await bystander.heard() == []


@pytest.mark.plain
async def test_the_proxy_protocol_alone_makes_nobody_a_proxy(start):
    """A proxy of TCP passes on what clients write."""
    server = start(*FLAGS, "--proxy-protocol", "v2")
    for source, status in [("192.0.2.1", 403), ("127.0.0.1", 101)]:
        addresses = bytes(map(int, source.split("."))) + bytes([127, 0, 0, 1, 1, 2, 3, 4])
        with Raw(server) as raw:
            raw.send(PROXY_HEADER + addresses + head(server, extra=["X-WX-OPENID: 42"]))
            assert raw.answer()[0] == status, source


@pytest.mark.plain
async def test_an_event_stream_has_the_user_of_the_header_as_well(behind):
    async with behind.client("43") as bystander:
        with Stream(behind, "42", bearer="", headers=named("42")) as stream:
            assert stream.welcomed().welcome["sub"] == "42"
            behind.publish("user.42", 1)
            assert stream.heard() == [("user.42", 1)]
        for headers, source, status in [(named("42"), "127.0.0.2", 403), (named("x" * 256), None, 400)]:
            with Stream(behind, bearer="", headers=headers, source=source) as stream:
                assert stream.status == status
        assert await bystander.heard() == []


async def test_both_nodes_reach_the_user(start, redis):
    first, second = (start(*FLAGS, redis=redis) for _ in range(2))
    async with first.client("43") as bystander, client(first, "42") as one, second.client("42") as two:
        first.publish("user.42", "to both")
        for user in (one, two):
            message = await user.next()
            assert (message["topic"], message["data"]) == ("user.42", "to both")
        assert await bystander.heard() == []


async def test_a_reload_begins_and_ends_it(start, tmp_path):
    config = tmp_path / "oneloop.toml"
    config.write_text('proxies = ["127.0.0.1"]\n')
    server = start("--config", config)
    config.write_text('proxies = ["127.0.0.1"]\nidentity = "header:X-User"\n')
    server.signal(1)
    server.wait_for_log("changed: identity of /ws")
    async with server.dial(headers={"X-User": "42"}) as connection:
        user = await server.enter(connection, "42")
        config.write_text('identity = "header:X-User"\n')
        server.signal(1)
        server.wait_for_log(re.escape(f"identity ({config}:1) is believed from proxies alone"))
        assert await user.heard() == []


# nginx knows users by their sessions, as auth_request would tell it. An empty value removes the header.
NAMES_USERS = UPGRADE + """
    set $user "";
    if ($cookie_session = s42) { set $user 42; }
    proxy_set_header X-User $user;
"""


@pytest.mark.plain
async def test_nginx_names_the_user_and_removes_what_clients_wrote(start, tmp_path):
    server = start("--identity", "header:X-User", "--proxies", "127.0.0.1", "--auth-seconds", "1")
    with contextlib.ExitStack() as ends:
        nginx = Nginx(tmp_path, server, NAMES_USERS)
        ends.callback(nginx.end)

        def dial(session):
            headers = {"Cookie": f"session={session}", "X-User": "43"}
            return connect(f"ws://127.0.0.1:{nginx.port}/ws", additional_headers=headers, proxy=None)

        async with server.client("43") as bystander, dial("s42") as connection:
            user = await server.enter(connection, "42")
            server.publish("user.42", 1)
            assert await user.heard() == [("user.42", 1)]
            async with dial("s7") as connection:
                assert (await closed(connection))[0] == 4501
            assert await bystander.heard() == []
