"""Subscriptions on demand: Redis knows the topics that clients want, and nothing comes to others or is lost in silence."""

import asyncio
import contextlib
import json
import os
import signal

from helpers.process import eventually
from helpers.server import counter
from helpers.tokens import token

DEMAND = ["--subscribe", "demand", "--topics", "news", "--may", "room.*"]


def channels(redis):
    return set(redis.command("PUBSUB", "CHANNELS", "pub.*"))


async def test_redis_knows_what_clients_want_and_nothing_else(start, redis):
    server = start(*DEMAND, "--subscribe-linger-seconds", 1, redis=redis)
    assert channels(redis) == set()
    async with server.client("43") as bystander:
        async with server.client("42") as client:
            assert channels(redis) == {"pub.news", "pub.user.42", "pub.user.43"}
            assert redis.command("PUBSUB", "NUMSUB", "pub.news") == ["pub.news", 1]
            assert redis.command("PUBLISH", "pub.user.41", "1") == 0, "nobody pays for others"
            server.publish("user.42", 1)
            server.publish("news", 2)
            assert await client.heard() == [("user.42", 1), ("news", 2)]
            assert await bystander.heard() == [("news", 2)]
            assert (await client.ask(op="subscribe", topic="room.7"))["op"] == "subscribed"
            assert redis.command("PUBLISH", "pub.room.7", "3") == 1
            assert await client.heard() == [("room.7", 3)]
        eventually(lambda: channels(redis) == {"pub.news", "pub.user.43"}, "what nobody wants is gone")
        server.publish("user.42", 4)
        assert await bystander.heard() == []
        assert counter(server, "demand_topics") == 2
    eventually(lambda: channels(redis) == set(), "nothing is left")


async def test_a_topic_lingers_so_that_clients_come_and_go_at_no_cost(start, redis):
    server = start(*DEMAND, redis=redis)
    async with server.client("43") as bystander:
        for _ in range(5):
            async with server.client("42") as client:
                server.publish("user.42", 1)
                assert await client.heard() == [("user.42", 1)]
        assert counter(server, "demand_subscribed_total") == 3, "news, user.42, user.43"
        assert channels(redis) == {"pub.news", "pub.user.42", "pub.user.43"}
        assert await bystander.heard() == []


async def test_resumed_is_true_only_if_redis_was_asked_all_the_time(start, redis):
    server = start(*DEMAND, "--subscribe-linger-seconds", 1, redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        last = client.id
        await client.connection.close()
        # Within the time that the topic lingers, what comes is held.
        server.publish("user.42", "missed")
        async with server.client("42", since=last) as again:
            assert again.welcome["resumed"] is True
            assert await again.next() | {"id": ""} == {"topic": "user.42", "data": "missed", "id": ""}
            last = again.id
        eventually(lambda: "pub.user.42" not in channels(redis), "the topic is given up")
        # Nobody hears this one, and no other message comes in between: the cursor is still the latest.
        assert redis.command("PUBLISH", "pub.user.42", "unheard") == 0
        async with server.client("42", since=last) as late:
            assert late.welcome["resumed"] is False
            answer = await late.ask(op="subscribe", topic="room.1", since=late.id)
            assert answer["resumed"] is False, "room.1 was not subscribed to then"
            server.publish("room.1", "news")
            assert await late.heard() == [("room.1", "news")]
            await late.send(op="subscribe", topic="room.1", since=late.id)
            assert json.loads(await late.frame())["resumed"] is True
            answer = await late.ask(op="subscribe", topic="room.1", last=True)
            assert answer["last"] is True
            assert json.loads(await late.frame())["data"] == "news"
            answer = await late.ask(op="subscribe", topic="room.2", last=True)
            assert answer["last"] is False
        assert await bystander.heard() == []


async def test_welcome_and_subscribed_wait_for_redis(start, redis):
    server = start(*DEMAND, "--redis-timeout-seconds", 30, redis=redis)
    async with server.client("43") as bystander:
        redis.freeze()
        try:
            async with server.dial(token("42")) as connection:
                await connection.send(json.dumps({"op": "ping"}))
                await bystander.send(op="subscribe", topic="room.7", ref=1)
                # The bystander's answers come in the order of what Redis has to do with them.
                assert (await bystander.ask(op="ping"))["op"] == "pong"
                with contextlib.suppress(TimeoutError):
                    raise AssertionError(await asyncio.wait_for(connection.recv(), 0.2))
                redis.thaw()
                assert json.loads(await connection.recv())["op"] == "welcome"
                # All that is published from now on comes.
                assert redis.command("PUBLISH", "pub.user.42", "1") == 1
                rest = [json.loads(await connection.recv()) for _ in range(2)]
                assert {str(one.get("op", one.get("data"))) for one in rest} == {"pong", "1"}
            answer = await bystander.next()
            assert (answer["op"], answer["topic"], answer["ref"]) == ("subscribed", "room.7", 1)
            assert await bystander.heard() == []
        finally:
            os.kill(redis.process.pid, signal.SIGCONT)


async def test_clients_are_welcome_while_redis_is_away_and_told_of_a_gap(start, redis):
    server = start(*DEMAND, "--redis-backoff-ms-max", 100, redis=redis)
    async with server.client("41") as early:
        redis.kill()
        server.wait_ready(False)
        async with server.client("42") as client, server.client("43") as bystander:
            assert (await client.ask(op="subscribe", topic="room.7"))["op"] == "subscribed"
            redis.revive()
            server.wait_ready()
            for one in (early, client, bystander):
                assert (await one.next())["op"] == "gap"
            expected = {"pub.news", "pub.room.7", *(f"pub.user.{user}" for user in (41, 42, 43))}
            assert channels(redis) == expected
            server.forget_publisher()
            server.publish("user.42", 1)
            server.publish("room.7", 2)
            assert await client.heard() == [("user.42", 1), ("room.7", 2)]
            assert await early.heard() == []
            assert await bystander.heard() == []


async def test_a_pattern_brings_each_message_once(start, redis):
    server = start(*DEMAND, "--subscribe-linger-seconds", 0, redis=redis)
    async with server.client("41") as exact, server.client("43") as bystander:
        await exact.ask(op="subscribe", topic="room.7")
        async with server.client("42", topics=["room.*"]) as client:
            assert client.welcome["topics"] == ["news", "room.*", "user.42"]
            await client.ask(op="subscribe", topic="room.8")
            for number in range(20):
                server.publish(f"room.{number}", number)
            assert await client.heard() == [(f"room.{number}", number) for number in range(20)]
            assert await exact.heard() == [("room.7", 7)]
            # A key is not heard by those who subscribe by name, so by nobody.
            server.publish("room.7#K", 1)
            assert await client.heard() == []
            assert await bystander.heard() == []
        eventually(lambda: redis.command("PUBSUB", "NUMPAT") == 0, "the pattern is gone")
        server.publish("room.7", 1)
        server.publish("room.8", 1)
        assert await exact.heard() == [("room.7", 1)]


async def test_a_client_that_a_back_end_joins_is_told_from_when_on(start, redis):
    server = start(*DEMAND, "--control", "ctl", redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        redis.command("PUBLISH", "ctl", json.dumps({"op": "join", "sub": "42", "topic": "room.9"}))
        assert (await client.next())["op"] == "gap"
        server.publish("room.9", 1)
        assert await client.heard() == [("room.9", 1)]
        assert await bystander.heard() == []


async def test_many_clients_share_the_connections(start, redis):
    server = start(*DEMAND, "--subscribe-connections", 3, "--clients-max", 1000, redis=redis)
    async with server.many_clients(300) as clients:
        assert len(channels(redis)) == 301
        listed = redis.command("CLIENT", "LIST")
        carried = [int(line.split(" sub=")[1].split()[0]) for line in listed.splitlines() if "name=oneloop " in line]
        assert len(carried) == 3 and min(carried) > 50, carried
        for number in range(300):
            server.publish(f"user.user{number}", number)
        for client in clients:
            sub = client.welcome["sub"]
            assert await client.heard() == [(f"user.{sub}", int(sub.removeprefix("user")))]
