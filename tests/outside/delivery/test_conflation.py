"""Messages with a key: the same by every way, and a client that comes back gets the newest of each."""

import pytest
from helpers.process import eventually
from helpers.server import counter
from helpers.streams import STREAM, add
from helpers.tokens import token
from helpers.ws_client import all_heard


@pytest.mark.parametrize("way", ["port", "redis", "stream"])
async def test_a_client_that_comes_back_gets_the_newest_of_each_key(start, request, way):
    redis = None if way == "port" else request.getfixturevalue("redis")
    server = start(*(STREAM if way == "stream" else []), redis=redis)

    def publish(topic, data, key=None):
        if way == "stream":
            add(redis, topic, data, **({"key": key} if key else {}))
        else:
            server.publish(f"{topic}#{key}" if key else topic, data)

    async with server.client("43", topics=["room.8"]) as bystander:
        async with server.client("42", topics=["room.7"]) as client:
            publish("room.7", 0, "K")
            message = await client.next()
            assert message == {"topic": "room.7", "key": "K", "id": message["id"], "data": 0}
            since = client.id
        for number in range(1, 30):
            publish("room.7", number, f"key {number % 3}")
            publish("room.8", number, "other")
        publish("room.7", "end")
        eventually(lambda: counter(server, "messages_total") >= 60, "all came")
        async with server.client("42", topics=["room.7"], since=since) as client:
            assert client.welcome["resumed"] is True
            heard = await all_heard(client, "end")
            assert [(one["key"], one["data"]) for one in heard[:-1]] == [
                ("key 0", 27), ("key 1", 28), ("key 2", 29)]
            assert heard[-1] == ("room.7", "end")
            assert counter(server, "superseded_total") == 26
        publish("room.8", "last")
        assert {one["topic"] for one in (await all_heard(bystander, "last"))[:-1]} == {"room.8"}


async def test_in_the_topic_of_a_user_a_number_sign_belongs_to_the_id(server):
    async with server.client("42") as client, server.client("42#K") as other:
        assert server.publish("user.42#K", "for the other") == 1
        assert await client.heard() == []
        assert await other.heard() == [("user.42#K", "for the other")]


async def test_a_raw_route_has_no_keys(start):
    server = start("--format", "raw")
    async with server.dial(token("42", topics=["room.7"])) as client, server.dial(token("43")) as bystander:
        eventually(lambda: counter(server, "clients") == 2, "both are there")
        assert server.publish("room.7#K", "payload") == 1
        assert await client.recv() == "payload"
        server.publish("user.43", "end")
        assert await bystander.recv() == "end"
