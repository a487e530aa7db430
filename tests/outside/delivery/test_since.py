"""A subscription from a cursor on, or with the newest message: complete, in order, once, and for nobody without the right."""

import json

import pytest
from helpers.process import eventually
from helpers.server import counter
from helpers.streams import STREAM, add
from helpers.ws_client import all_heard


@pytest.fixture
def room(start):
    return start("--may", "room.*", "--topics", "news", "--control", "ctl")


async def place(client):
    """A cursor of now: that of the welcome, if nothing came since."""
    client.id = ""
    return (await client.ask(op="ping", cursor=True))["id"]


async def since(client, topic, cursor, **more):
    """Subscribes from a cursor on. The answer; ids begin anew behind it."""
    await client.send(op="subscribe", topic=topic, since=cursor, **more)
    client.id = ""
    answer = await client.next()
    client.id = ""
    return answer


async def test_what_came_since_the_cursor_comes_first_and_then_what_is_new(room):
    async with room.client("43") as bystander, room.client("42") as client:
        cursor = await place(client)
        for number in range(60):
            room.publish("room.7", number)
            room.publish("room.8", "not asked for")
        room.publish("news", "live")
        assert await client.heard() == [("news", "live")]
        answer = await since(client, "room.7", cursor, ref=1)
        assert answer.pop("id") > cursor
        assert answer == {"op": "subscribed", "topic": "room.7", "resumed": True, "ref": 1}
        room.publish("room.7", 60)
        assert await all_heard(client, 60) == [("room.7", number) for number in range(61)]
        assert await client.heard() == []
        assert await bystander.heard() == [("news", "live")]
    assert counter(room, "topic_resumes_total") == 1


async def test_several_topics_have_one_cursor_and_an_answer_each(room):
    async with room.client("43", may=["room.*"]) as bystander, room.client("42") as client:
        cursor = await place(client)
        for number in range(10):
            room.publish(f"room.{number}", number)
        topics = ["room.1", "vault", "room.3"]
        await client.send(op="subscribe", topics=topics, since=cursor, ref=5)
        client.id = ""
        answers = []
        for _ in topics:
            answers.append(await client.next())
            client.id = ""
        assert [(one["op"], one["topic"], one["ref"]) for one in answers] == [
            ("subscribed", "room.1", 5), ("error", "vault", 5), ("subscribed", "room.3", 5)]
        assert await all_heard(client, 3) == [("room.1", 1), ("room.3", 3)]
        assert await client.heard() == []
        assert await bystander.heard() == []


async def test_a_cursor_opens_no_topic_that_the_client_may_not_have(room):
    async with room.client("44") as other, room.client("42") as client, room.client("43") as bystander:
        cursor = await place(client)
        for topic in ["vault", "user.44", "user.43"]:
            room.publish(topic, "for somebody else")
        for topic in ["vault", "user.44", "vault.*", "*"]:
            assert await client.ask(op="subscribe", topic=topic, since=cursor) == {
                "op": "error", "code": "forbidden", "topic": topic}
            answer = await client.ask(op="subscribe", topic=topic, last=True)
            assert answer["op"] == "error" and answer["code"] in ("forbidden", "bad_topic")
        assert await client.heard() == []
        # A back end that joins it lets it hear what comes from then on.
        members = json.dumps({"op": "join", "conn": client.welcome["conn"], "topic": "vault"})
        assert room.publisher.command("PUBLISH", "ctl", members) == 1
        answer = await since(client, "vault", cursor)
        assert answer["resumed"] is False
        answer = await client.ask(op="subscribe", topic="vault", last=True)
        assert answer == {"op": "subscribed", "topic": "vault", "last": False}
        room.publish("vault", "new")
        assert await client.heard() == [("vault", "new")]
        assert await other.heard() == [("user.44", "for somebody else")]
        assert await bystander.heard() == [("user.43", "for somebody else")]


@pytest.mark.parametrize("cursor", ["", "nonsense", "v" * 35])
async def test_a_cursor_that_was_not_issued_is_refused_and_the_topic_subscribed(room, cursor):
    async with room.client("42") as client, room.client("43") as bystander:
        room.publish("room.7", "before")
        answer = await since(client, "room.7", cursor)
        assert (answer["op"], answer["resumed"]) == ("subscribed", False)
        room.publish("room.7", "after")
        assert await client.heard() == [("room.7", "after")]
        assert await bystander.heard() == []
    assert counter(room, "topic_resumes_refused_total") == 1


async def test_what_the_history_has_lost_is_said(start):
    server = start("--may", "room.*", "--history-messages-max", "5")
    async with server.client("42") as client, server.client("43") as bystander:
        cursor = await place(client)
        for number in range(9):
            server.publish("room.7", number)
        answer = await since(client, "room.7", cursor)
        assert answer["resumed"] is False
        again = await since(client, "room.7", answer["from"])
        assert again["resumed"] is True
        assert await all_heard(client, 8) == [("room.7", number) for number in range(4, 9)]
        assert await bystander.heard() == []


async def test_the_newest_message_comes_behind_the_answer(room):
    async with room.client("43") as bystander, room.client("42") as client:
        for number in range(5):
            room.publish("room.7", number)
            room.publish("room.8", "another")
        cursor = await place(client)
        assert await client.ask(op="subscribe", topic="room.7", last=True, ref="a") == {
            "op": "subscribed", "topic": "room.7", "last": True, "ref": "a"}
        client.id = ""
        newest = await client.next()
        assert (newest["topic"], newest["data"], newest["id"]) == ("room.7", 4, cursor)
        assert await client.ask(op="subscribe", topic="room.6", last=True) == {
            "op": "subscribed", "topic": "room.6", "last": False}
        assert (await client.ask(op="subscribe", topic="room.*", last=True))["code"] == "bad_topic"
        room.publish("room.7", 5)
        assert await client.heard() == [("room.7", 5)]
        assert await bystander.heard() == []


async def test_since_and_last_cost_as_much_as_other_commands(start):
    server = start("--may", "room.*", "--commands-per-second-max", "5")
    async with server.client("43") as bystander, server.client("42") as client:
        for _ in range(40):
            await client.send(op="subscribe", topic="room.7", since=client.welcome["id"])
        eventually(lambda: counter(server, 'closes_total{code="4003"}') == 1, "it is closed")
        assert await bystander.heard() == []


async def test_a_stream_is_read_where_the_history_ends(start, redis):
    nodes = [start(*STREAM, "--may", "room.*", "--history-messages-max", "2", redis=redis) for _ in range(2)]
    async with nodes[0].client("42") as client:
        cursor = await place(client)
    for number in range(50):
        add(redis, "room.7", number)
        add(redis, "room.8", "not asked for")
    for node in nodes:
        eventually(lambda node=node: counter(node, "stream_entries_total") >= 100, "it was read")
        async with node.client("42") as client, node.client("43") as bystander:
            assert (await since(client, "room.7", cursor))["resumed"] is True
            assert await all_heard(client, 49) == [("room.7", number) for number in range(50)]
            add(redis, "user.43", "marker")
            assert await all_heard(bystander, "marker") == [("user.43", "marker")]
