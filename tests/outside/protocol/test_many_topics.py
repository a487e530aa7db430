"""A client that opens asks for all its topics at once, and is not closed for that."""

import pytest
from helpers.ws_client import closed
from websockets.exceptions import ConnectionClosed

TOPICS = [f"room.{number}" for number in range(100)]


@pytest.fixture
def rooms(start):
    """A server with default limits, where every user may subscribe to every room."""
    return start("--may", "room.*,lobby")


async def answers(client, count):
    return [await client.next() for _ in range(count)]


def subscribed(topics, **more):
    return [{"op": "subscribed", "topic": topic, **more} for topic in topics]


async def test_a_list_is_answered_topic_by_topic(rooms):
    async with rooms.client("43") as bystander, rooms.client("42") as client:
        await client.send(op="subscribe", topics=["room.1", "secret", "room 2", "lobby"], ref="a")
        assert await answers(client, 4) == [
            {"op": "subscribed", "topic": "room.1", "ref": "a"},
            {"op": "error", "code": "forbidden", "topic": "secret", "ref": "a"},
            {"op": "error", "code": "bad_topic", "topic": "room 2", "ref": "a"},
            {"op": "subscribed", "topic": "lobby", "ref": "a"},
        ]
        assert rooms.publish("room.1", 1) == 1
        await client.send(op="unsubscribe", topics=["room.1", "user.42"])
        message, *told = await answers(client, 3)
        assert message["data"] == 1 and [answer["op"] for answer in told] == ["unsubscribed", "error"]
        assert rooms.publish("room.1", 2) == 0
        assert rooms.publish("lobby", 3) == 1
        assert await bystander.heard() == []


@pytest.mark.parametrize("way", ["one by one", "a list"])
async def test_a_hundred_topics_at_once_are_all_heard(rooms, way):
    async with rooms.client("43") as bystander, rooms.client("42") as client:
        if way == "a list":
            await client.send(op="subscribe", topics=TOPICS)
        else:
            for topic in TOPICS:
                await client.send(op="subscribe", topic=topic)
        assert await answers(client, len(TOPICS)) == subscribed(TOPICS)
        # Other commands have their place beside them.
        for _ in range(20):
            assert (await client.ask(op="ping"))["op"] == "pong"
        for topic in TOPICS:
            assert rooms.publish(topic, 1) == 1
        assert len(await client.heard()) == len(TOPICS)
        assert await bystander.heard() == []


async def test_beyond_what_a_client_may_hear_one_error_stands_for_the_rest(rooms):
    async with rooms.client("42") as client:
        await client.send(op="subscribe", topics=[f"room.{number}" for number in range(500)])
        told = await answers(client, 129)
        codes = [answer.get("code") for answer in told]
        # Its own topic is one of the 128.
        assert codes == [None] * 127 + ["too_many_topics"] * 2
        assert "topic" in told[-2] and "topic" not in told[-1]
        assert await client.heard() == []


async def test_what_comes_too_fast_is_told_and_a_flood_is_closed(start):
    server = start("--may", "room.*", "--commands-per-second-max", 1, "--topics-per-client-max", 4)
    async with server.client("43") as bystander:
        async with server.client("42") as client:
            told = []
            with pytest.raises(ConnectionClosed) as end:
                for _ in range(200):
                    await client.send(op="subscribe", topic="room.1")
                while True:
                    told.append(await client.next())
            assert end.value.rcvd.code == 4003
            assert {answer.get("code") for answer in told} == {None, "busy"}
        async with server.client("42") as client:
            with pytest.raises(ConnectionClosed) as end:
                for _ in range(200):
                    await client.send(op="subscribe", topics=[])
                while True:
                    await client.next()
            assert end.value.rcvd.code == 4003
        assert await bystander.heard() == []


async def test_topics_are_one_or_a_list(rooms):
    for command in [{"topic": "a", "topics": ["b"]}, {"topics": "a"}, {"topics": [1]}, {}]:
        async with rooms.client("42") as client:
            await client.send(op="subscribe", **command)
            assert (await closed(client.connection))[0] == 4502, command
