"""The commands of oneloop.v1 and their answers."""

import contextlib
import json

import pytest
from helpers.process import brief
from helpers.tokens import token
from helpers.ws_client import closed
from websockets.exceptions import ConnectionClosed


@pytest.fixture
def room(start):
    return start("--topics", "news", "--may", "lobby")


async def test_subscribe_and_unsubscribe(room):
    async with room.client("43", may=["room.*"]) as bystander:
        async with room.client("42", may=["room.*"]) as client:
            assert await client.ask(op="subscribe", topic="room.7", ref=1) == {
                "op": "subscribed", "topic": "room.7", "ref": 1}
            room.publish("room.7", "a")
            assert await client.heard() == [("room.7", "a")]
            assert await client.ask(op="unsubscribe", topic="room.7", ref="two") == {
                "op": "unsubscribed", "topic": "room.7", "ref": "two"}
            assert room.publish("room.7", "b") == 0
            assert await client.heard() == []
        assert await bystander.heard() == []


async def test_topics_lists_the_subscriptions_of_the_client_alone(room):
    async with room.client("43", topics=["vault"]) as bystander:
        async with room.client("42", topics=["hall.*"], may=["room.*"]) as client:
            await client.ask(op="subscribe", topic="room.7.*")
            listed = ["hall.*", "news", "room.7.*", "user.42"]
            assert await client.ask(op="topics", ref=7) == {"op": "topics", "topics": listed, "ref": 7}
            # Each is written as `subscribe` takes it.
            for topic in listed:
                assert (await client.ask(op="subscribe", topic=topic))["op"] == "subscribed"
            await client.ask(op="unsubscribe", topic="news")
            listed.remove("news")
            assert await client.ask(op="topics") == {"op": "topics", "topics": listed}
        assert await bystander.ask(op="topics") == {"op": "topics", "topics": ["news", "user.43", "vault"]}
        assert await bystander.heard() == []


async def test_a_granted_topic_may_be_left_and_joined_again(room):
    async with room.client("43") as bystander, room.client("42", topics=["hall"]) as client:
        # The first is granted by its token, the second to everyone by the settings.
        for topic in ["hall", "news"]:
            assert await client.ask(op="unsubscribe", topic=topic) == {
                "op": "unsubscribed", "topic": topic}
            room.publish(topic, "missed")
            assert await client.heard() == []
            assert await client.ask(op="subscribe", topic=topic) == {
                "op": "subscribed", "topic": topic}
            room.publish(topic, "again")
            assert await client.heard() == [(topic, "again")]
        assert (await client.ask(op="subscribe", topic="hall.1"))["code"] == "forbidden"
        assert await bystander.heard() == [("news", "missed"), ("news", "again")]


async def test_the_own_topic_cannot_be_left(room):
    async with room.client("43") as bystander, room.client("42") as client:
        assert await client.ask(op="unsubscribe", topic="user.42", ref=1) == {
            "op": "error", "code": "forbidden", "topic": "user.42", "ref": 1}
        assert room.publish("user.42", "still") == 1
        assert await client.heard() == [("user.42", "still")]
        assert await bystander.heard() == []


async def test_subscribing_twice_delivers_once(room):
    async with room.client("42", may=["room.*"]) as client:
        for _ in range(2):
            answer = await client.ask(op="subscribe", topic="room.7")
            assert answer == {"op": "subscribed", "topic": "room.7"}
        room.publish("room.7", "a")
        assert await client.heard() == [("room.7", "a")]
        await client.ask(op="unsubscribe", topic="room.7")
        room.publish("room.7", "b")
        assert await client.heard() == []


async def test_a_grant_of_the_settings_is_for_everyone(room):
    async with room.client("42") as client, room.client("43") as bystander:
        assert (await client.ask(op="subscribe", topic="lobby"))["op"] == "subscribed"
        room.publish("lobby", 1)
        assert await client.heard() == [("lobby", 1)]
        assert await bystander.heard() == []


async def test_a_pattern_may_be_subscribed_to_when_granted(room):
    async with room.client("42", may=["room.*"]) as client, room.client("43") as bystander:
        for pattern in ["room.*", "room.7.*"]:
            assert (await client.ask(op="subscribe", topic=pattern))["op"] == "subscribed"
        room.publish("room.7.chat", 1)
        assert await client.heard() == [("room.7.chat", 1)]
        assert await bystander.heard() == []


@pytest.mark.parametrize("topic", [
    "room.8", "room.7.x", "room", "room.*", "room.7.*", "*", "lobby.x", "user.43", "user.*", "user.42.x",
])
async def test_what_is_not_granted_is_forbidden(room, topic):
    async with room.client("43") as bystander, room.client("42", may=["room.7"]) as client:
        assert await client.ask(op="subscribe", topic=topic, ref="r") == {
            "op": "error", "code": "forbidden", "topic": topic, "ref": "r"}
        for published in ["room.8", "room.7.x", "user.43"]:
            room.publish(published, "secret")
        assert await client.heard() == []
        assert await bystander.heard() == [("user.43", "secret")]


@pytest.mark.parametrize("topic", ["", "a b", "é", "x" * 261, "a.*.b", "**", "room.*x"], ids=brief)
async def test_a_malformed_topic_is_an_error_and_not_the_end(room, topic):
    async with room.client("42", topics=["*"], may=["*"]) as client:
        answer = await client.ask(op="subscribe", topic=topic, ref=7)
        assert answer["op"] == "error" and answer["ref"] == 7, answer
        assert (await client.ask(op="ping"))["op"] == "pong"


@pytest.mark.parametrize("ref", [0, 1, -5, 2**53, 1.5, "", "r", "x" * 64, "ü\"\\"], ids=brief)
async def test_a_ref_comes_back_as_it_was(room, ref):
    async with room.client("42", may=["room.7"]) as client:
        assert await client.ask(op="ping", ref=ref) == {"op": "pong", "ref": ref}
        for op, answer in [("subscribe", "subscribed"), ("unsubscribe", "unsubscribed")]:
            assert await client.ask(op=op, topic="room.7", ref=ref) == {
                "op": answer, "topic": "room.7", "ref": ref}
        answer = await client.ask(op="auth", token=token(may=["room.7"]), ref=ref)
        assert (answer["op"], answer["ref"]) == ("authed", ref)


async def test_without_a_ref_none_comes_back(room):
    async with room.client("42") as client:
        assert await client.ask(op="ping") == {"op": "pong"}


async def test_the_bare_word_ping_is_answered_by_pong(room):
    async with room.client("42") as client, room.client("43") as bystander:
        await client.send("ping")
        assert await client.frame() == "pong"
        assert await bystander.heard() == []


async def test_too_many_topics_is_an_error_and_not_the_end(start):
    server = start("--topics-per-client-max", 5)
    async with server.client("42", may=["room.*"]) as client:
        answers = [await client.ask(op="subscribe", topic=f"room.{n}", ref=n) for n in range(6)]
        allowed = [answer["topic"] for answer in answers if answer["op"] == "subscribed"]
        assert 4 <= len(allowed) <= 5
        assert answers[-1] == {"op": "error", "code": "too_many_topics", "topic": "room.5", "ref": 5}
        for n in range(6):
            server.publish(f"room.{n}", n)
        assert [topic for topic, _ in await client.heard()] == allowed
        await client.ask(op="unsubscribe", topic=allowed[0])
        assert (await client.ask(op="subscribe", topic="room.5"))["op"] == "subscribed"


def assert_within(heard, listed, topics):
    """Checks that its subscriptions are those that were confirmed, and that each excess topic got an error."""
    assert len(listed) == 5 and "user.42" in listed
    messages = {one[0] for one in heard if isinstance(one, tuple)}
    errors = [one for one in heard if not isinstance(one, tuple)]
    assert messages == set(listed) - {"user.42"}
    left_out = sorted(set(topics) - set(listed))
    assert sorted(errors, key=lambda error: error["topic"]) == [
        {"op": "error", "code": "too_many_topics", "topic": topic} for topic in left_out]


@pytest.mark.parametrize("place", ["header", "query", "frame"])
async def test_a_token_with_too_many_topics_gets_as_many_as_fit(start, place):
    server = start("--topics-per-client-max", 5)
    topics, later = ([f"{room}.{number}" for number in range(8)] for room in ["room", "hall"])
    async with server.client("43") as bystander:
        async with server.client("42", topics=topics, place=place) as client:
            for topic in topics:
                server.publish(topic, 1)
            assert_within(await client.heard(), client.welcome["topics"], topics)
            # A renewal has the same bound, and what it replaces makes room.
            authed = await client.ask(op="auth", token=token(topics=later))
            assert authed["op"] == "authed"
            for topic in topics + later:
                server.publish(topic, 1)
            assert_within(await client.heard(), authed["topics"], later)
        assert await bystander.heard() == []


BAD = {
    "not JSON": "hello",
    "half": '{"op":"ping"',
    "two": '{"op":"ping"}{"op":"ping"}',
    "empty": "",
    "array": '["ping"]',
    "number": "1",
    "null": "null",
    "no op": "{}",
    "unknown op": '{"op":"publish","topic":"news","data":1}',
    "op of another case": '{"op":"PING"}',
    "op a number": '{"op":1}',
    "no topic": '{"op":"subscribe"}',
    "topic a number": '{"op":"subscribe","topic":7}',
    "topic a list": '{"op":"subscribe","topic":["news"]}',
    "unsubscribe without": '{"op":"unsubscribe"}',
    "ref an object": '{"op":"ping","ref":{}}',
    "ref a list": '{"op":"ping","ref":[1]}',
    "ref too long": json.dumps({"op": "ping", "ref": "x" * 65}),
    "many levels": "[" * 60_000,
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_command_ends_the_connection(room, name):
    async with room.client("43") as bystander, room.client("42") as client:
        await client.send(BAD[name])
        assert (await client.closed())[0] == 4502
        assert await bystander.heard() == []


async def test_a_bad_command_before_the_token_ends_the_connection(room):
    async with room.dial() as connection:
        await connection.send("hello")
        assert (await closed(connection))[0] == 4502


async def test_unknown_fields_are_left_alone(room):
    async with room.client("42") as client:
        assert await client.ask(op="ping", later="version") == {"op": "pong"}


@pytest.mark.parametrize("text", [
    '{"op":"ping"}',
    '{"op":"topics"}',
    # These are not about topics, which cost less, though they look like it.
    '{"x":{"op":"subscribe"},"op":"ping"}',
    '{"x":{"op":"subscribe"},"o\\u0070":"ping"}',
], ids=brief)
async def test_a_flood_of_commands_is_too_busy(start, text):
    server = start("--commands-per-second-max", 20)
    async with server.client("43") as bystander, server.client("42") as client:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(200):
                await client.send(text)
        answers = 0
        with pytest.raises(ConnectionClosed) as end:
            while (await client.next())["op"] in ["pong", "topics"]:
                answers += 1
        assert 1 <= answers <= 100
        assert end.value.rcvd.code == 4003
        assert json.loads(end.value.rcvd.reason)["retry"] > 0
        assert await bystander.heard() == []
