"""Time on the open connection: expiry, renewal, and what a renewal may change."""

import json

import pytest
from helpers.tokens import token
from helpers.ws_client import closed


@pytest.fixture
def strict(start):
    return start("--jwt-leeway-seconds", 0, "--topics", "news")


@pytest.mark.parametrize("place", ["header", "frame"])
async def test_an_expired_connection_is_closed_and_others_stay(strict, place):
    async with strict.client("bystander") as bystander:
        async with strict.client("42", place=place, seconds=6) as client:
            assert (await client.closed())[0] == 4002
        assert await bystander.heard() == []


async def test_leeway_counts_at_the_handshake_too(start):
    server = start("--jwt-leeway-seconds", 60)
    async with server.client("42", seconds=-30) as client:
        assert await client.heard() == []
    assert (await server.refusal(token(seconds=-90)))[0] == 401


async def test_a_renewal_keeps_the_connection_open(strict):
    async with (
        strict.client("renewed", seconds=6) as renewed,
        strict.client("expiring", seconds=8) as expiring,
    ):
        answer = await renewed.ask(op="auth", token=token("renewed"), ref="r")
        assert answer["op"] == "authed" and answer["ref"] == "r"
        # The other's end comes two seconds after the renewed one's first exp.
        assert (await expiring.closed())[0] == 4002
        strict.publish("news", "still here")
        assert await renewed.heard() == [("news", "still here")]


async def test_a_renewal_may_also_shorten(strict):
    async with strict.client("bystander") as bystander, strict.client("42") as client:
        answer = await client.ask(op="auth", token=token("42", seconds=5))
        assert answer["op"] == "authed"
        assert (await client.closed())[0] == 4002
        assert await bystander.heard() == []


@pytest.mark.parametrize("bad", [
    lambda: token("43"),
    lambda: token("42", seconds=-100),
    lambda: token("42", secret="another secret that is long enough, really"),
    lambda: "garbage",
], ids=["another sub", "expired", "another key", "garbage"])
async def test_a_bad_renewal_is_refused(strict, bad):
    async with strict.client("43") as bystander, strict.client("42") as client:
        await client.send(op="auth", token=bad())
        assert (await client.closed())[0] == 4500
        assert strict.publish("user.42", 1) == 0
        assert await bystander.heard() == []


async def test_a_renewal_may_write_the_same_user_as_a_number(strict):
    async with strict.client("42") as client:
        assert (await client.ask(op="auth", token=token(42)))["op"] == "authed"
        assert await client.heard() == []


async def test_a_renewal_replaces_topics_and_grants(strict):
    async with strict.client("bystander") as bystander:
        async with strict.client("42", topics=["old", "both"], may=["room.*"]) as client:
            assert (await client.ask(op="subscribe", topic="room.1"))["op"] == "subscribed"
            newer = token("42", topics=["both", "new"], may=["hall.*"])
            assert (await client.ask(op="auth", token=newer))["op"] == "authed"
            for topic in ["old", "both", "new", "news", "room.1", "user.42"]:
                strict.publish(topic, topic)
            heard = [topic for topic, _ in await client.heard()]
            assert heard == ["both", "new", "news", "user.42"]
            answer = await client.ask(op="subscribe", topic="room.2")
            assert answer["code"] == "forbidden"
            assert (await client.ask(op="subscribe", topic="hall.1"))["op"] == "subscribed"
        assert await bystander.heard() == [("news", "news")]


async def test_a_renewal_keeps_what_was_asked_for_and_is_still_permitted(strict):
    async with strict.client("bystander") as bystander:
        async with strict.client("42", may=["room.*", "hall.*"]) as client:
            for topic in ["room.1", "room.2.*", "hall.1"]:
                assert (await client.ask(op="subscribe", topic=topic))["op"] == "subscribed"
            newer = token("42", may=["room.*"])
            authed = await client.ask(op="auth", token=newer)
            assert sorted(authed["topics"]) == ["news", "room.1", "room.2.*", "user.42"]
            for topic in ["room.1", "room.2.x", "room.3", "hall.1"]:
                strict.publish(topic, topic)
            assert await client.heard() == [("room.1", "room.1"), ("room.2.x", "room.2.x")]
            assert (await client.ask(op="subscribe", topic="hall.1"))["code"] == "forbidden"
        assert await bystander.heard() == []


async def test_losing_admin_loses_other_users_topics(strict):
    async with strict.client("42") as owner:
        async with strict.client("root", admin=True, topics=["user.*"]) as client:
            answer = await client.ask(op="auth", token=token("root", topics=["user.*"]))
            assert answer["op"] == "authed"
            strict.publish("user.42", "secret")
            assert await client.heard() == []
        assert await owner.heard() == [("user.42", "secret")]


async def test_an_auth_without_a_token_is_a_bad_command(strict):
    for command in [{"op": "auth"}, {"op": "auth", "token": 1}, {"op": "auth", "token": None}]:
        async with strict.dial() as connection:
            await connection.send(json.dumps(command))
            assert (await closed(connection))[0] == 4502
