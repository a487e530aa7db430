"""The back end's hand on connections: kick, join, leave, count."""

import contextlib
import json

import pytest
from helpers.process import eventually
from helpers.server import counter
from helpers.tokens import token


@pytest.fixture
def hand(start):
    """A server with a control channel; its messages come by the publishers' port."""
    return start("--topics", "news", "--may", "room.*", "--control", "ctl")


def order(server, **members):
    return server.publisher.command("PUBLISH", "ctl", json.dumps(members))


async def test_a_user_is_kicked_and_nobody_else(hand):
    async with hand.client("43") as bystander, hand.client("42") as one, hand.client("42") as two:
        assert order(hand, op="kick", sub="42", reason="banned") == 2
        for client in (one, two):
            assert await client.closed() == (4504, {"reason": "banned"})
        assert await bystander.heard() == []


async def test_one_connection_of_a_user_is_kicked(hand):
    async with hand.client("42") as one, hand.client("42") as two:
        assert order(hand, op="kick", conn=two.welcome["conn"]) == 1
        assert await two.closed() == (4504, None)
        assert await one.heard() == []


@pytest.mark.parametrize("reason", ["x" * 500, "ü" * 200, '"\\' * 100])
async def test_a_reason_is_cut_to_what_a_close_frame_holds(hand, reason):
    async with hand.client("42") as client:
        order(hand, op="kick", sub=42, reason=reason)
        code, told = await client.closed()
        assert code == 4504 and 50 < len(json.dumps(told, ensure_ascii=False).encode()) <= 124
        assert reason.startswith(told["reason"])


async def test_names_of_connections_are_those_of_one_node(start):
    nodes = [start("--control", "ctl"), start("--control", "ctl")]
    async with nodes[0].client("42") as one, nodes[1].client("42") as two:
        assert one.welcome["conn"] != two.welcome["conn"]
        assert order(nodes[1], op="kick", conn=one.welcome["conn"]) == 0
        assert await two.heard() == []


async def test_a_user_is_joined_until_it_disconnects(hand):
    async with hand.client("43") as bystander, hand.client("42") as client:
        assert order(hand, op="join", sub="42", topic="deal.9") == 1
        await client.send(op="auth", token=token("42"))
        assert "deal.9" in (await client.next())["topics"]
        assert hand.publish("deal.9", 1) == 1
        assert await client.heard() == [("deal.9", 1)]
        assert await bystander.heard() == []
    async with hand.client("42") as client:
        assert hand.publish("deal.9", 2) == 0
        assert await client.heard() == []


async def test_a_user_leaves_what_a_token_granted(hand):
    async with hand.client("43", topics=["hall"]) as bystander:
        async with hand.client("42", topics=["hall"]) as client:
            assert order(hand, op="leave", sub="42", topic="hall") == 1
            assert hand.publish("hall", 1) == 1
            assert await client.heard() == []
            assert await bystander.heard() == [("hall", 1)]
            error = await client.ask(op="subscribe", topic="hall")
            assert error == {"op": "error", "code": "forbidden", "topic": "hall"}


@pytest.mark.parametrize("payload", [
    "", "kick", "[]", '{"op":"kick"}', '{"op":"kick","sub":""}', '{"op":"join","sub":"42"}',
    '{"op":"ban","sub":"42"}', b'{"op":"kick","sub":"\xff"}', '{"op":"kick","sub":"42","conn":"x"}',
    '{"op":"count","topic":"news","reply":"answers"}',
])
async def test_what_is_no_order_harms_nobody(hand, payload):
    async with hand.client("42") as client:
        assert hand.publisher.command("PUBLISH", "ctl", payload) == 0
        assert await client.heard() == []
    assert counter(hand, "controls_total") == counter(hand, "control_malformed_total") == 1
    hand.wait_for_log("control channel is no order")


async def test_the_control_channel_is_no_topic(start):
    server = start("--control", "pub.news", "--topics", "news")
    async with server.client("42") as client:
        assert server.publish("news", "hello") == 0
        assert await client.heard() == []


async def test_without_the_setting_nobody_obeys(server):
    async with server.client("42") as client:
        assert order(server, op="kick", sub="42").startswith("-ERR nobody hears this")
        assert await client.heard() == []
    assert counter(server, "controls_total") == 0


@pytest.mark.parametrize("name", ["ctl", "pub.ctl", "c*[t]?l\\"])
async def test_orders_come_through_redis(start, redis, name):
    server = start("--topics", "news", "--control", name, redis=redis)
    async with server.client("43") as bystander, server.client("42") as client:
        for near in ("x" + name, name + "x", name.replace("*", "+")):
            if near != name:
                redis.command("PUBLISH", near, json.dumps({"op": "kick", "sub": "43"}))
        assert redis.command("PUBLISH", name, json.dumps({"op": "kick", "sub": "42"})) >= 1
        assert await client.closed() == (4504, None)
        assert await bystander.heard() == []
    assert counter(server, "controls_total") == 1


async def test_listeners_are_counted_by_every_node(start, redis):
    nodes = [start("--topics", "news", "--control", "ctl", redis=redis) for _ in range(2)]
    with contextlib.closing(redis.publisher()) as answers:
        answers.command("SUBSCRIBE", "answers")
        async with nodes[0].client("1"), nodes[0].client("2"), nodes[1].client("3"):
            redis.command(
                "PUBLISH", "ctl", json.dumps({"op": "count", "topic": "news", "reply": "answers"})
            )
            told = [json.loads(answers.reply()[2]) for _ in nodes]
    assert sorted(answer["listeners"] for answer in told) == [1, 2]
    assert all(answer["topic"] == "news" for answer in told)
    assert len({answer["node"] for answer in told}) == 2


async def test_an_acl_that_lacks_the_control_channel_is_named(start, redis):
    redis.command("ACL", "SETUSER", "bob", "on", ">secret", "&pub.*", "+@all")
    flags = ("--redis", redis.url_of("bob:secret"), "--control", "ctl")
    server = start(*flags, redis=redis, ready=False)
    server.wait_for_log("NOPERM.*ctl")
    redis.command("ACL", "SETUSER", "bob", "&ctl")
    eventually(lambda: server.admin("/readyz")[0] == 200, "the link is up")
