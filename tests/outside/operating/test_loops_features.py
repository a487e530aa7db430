"""Features over several loops: a back end cannot tell how many there are."""

import asyncio
import contextlib
import json
import os
import random
import signal

import pytest
from helpers.loops import LOOPS, on_each_loop, on_loop, processes
from helpers.process import eventually
from helpers.server import counter
from websockets.exceptions import ConnectionClosed

LARGE = json.dumps("x" * 200_000)


def kill(server, loop):
    """Kills a loop, and waits for the one in its place."""
    pid = processes(server)[loop]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: processes(server)[loop] != pid, "another one")


class Events:
    """The events of presence in the stream `evt`."""

    def __init__(self, redis):
        self.redis = redis

    def all(self):
        entries = self.redis.command("XRANGE", "evt", "-", "+")
        found = [dict(zip(fields[::2], fields[1::2])) for _, fields in entries]
        assert len({event["node"] for event in found}) <= 1, "the loops are one node"
        assert all("-" not in event["node"] for event in found)
        return [(event["event"], event["sub"], int(event["users"])) for event in found]

    async def until(self, expected):
        await asyncio.to_thread(eventually, lambda: len(self.all()) >= len(expected), str(expected))
        assert self.all() == expected


async def test_a_user_is_online_once_over_all_loops(start_loops, redis):
    server, events = start_loops("--events", "stream:evt", "--offline-seconds", 1, redis=redis), Events(redis)
    async with on_loop(server, 0, "43") as here, on_loop(server, 1, "43") as there:
        told = [("online", "43", 1)]
        await events.until(told)
        async with on_loop(server, 1, "42"):
            told += [("online", "42", 2)]
            await events.until(told)
            async with on_loop(server, 0, "42"), on_loop(server, 1, "44"):
                told += [("online", "44", 3)]
                await events.until(told)
            told += [("offline", "44", 2)]
            await events.until(told)
            assert redis.command("HGETALL", "oneloop:{evt}:here") == ["43", "1", "42", "1"]
            assert redis.command("ZCARD", "oneloop:{evt}:nodes") == 1
            assert counter(server, "presence_users") == 2
        # It is waited for, whichever loop it comes back to.
        async with on_loop(server, 0, "42"):
            async with on_loop(server, 1, "45"):
                told += [("online", "45", 3)]
                await events.until(told)
            told += [("offline", "45", 2)]
            await events.until(told)
        told += [("offline", "42", 1)]
        await events.until(told)
        assert (counter(server, "presence_online_total"), counter(server, "presence_offline_total")) == (4, 3)
        assert await here.heard() == []
        assert len(await there.heard()) == 1, "the other one's marker"


async def test_users_of_a_killed_loop_have_their_time_to_come_back(start_loops, redis):
    server, events = start_loops("--events", "stream:evt", "--offline-seconds", 4, redis=redis), Events(redis)
    async with on_loop(server, 0, "43") as bystander, contextlib.AsyncExitStack() as stack:
        told = [("online", "43", 1)]
        await events.until(told)
        for users, sub in enumerate(["42", "44", "45"], 2):
            await stack.enter_async_context(on_loop(server, 1, sub))
            told += [("online", sub, users)]
            await events.until(told)
        async with on_loop(server, 0, "45"):
            kill(server, 1)
            async with on_loop(server, 1, "42"):
                told += [("offline", "44", 3)]
                await events.until(told)
                assert redis.command("ZCARD", "oneloop:{evt}:nodes") == 1
                assert counter(server, "presence_users") == 3
                kill(server, 1)
                async with on_loop(server, 0, "42"), on_loop(server, 1, "46"):
                    await events.until(told + [("online", "46", 4)])
        assert await bystander.heard() == []


@contextlib.contextmanager
def listening(redis, channel):
    """Reads a channel: `next_answer()`, and `rest()` when nothing else can come."""
    with contextlib.closing(redis.publisher()) as back_end:
        back_end.command("SUBSCRIBE", channel)

        def rest():
            redis.command("PUBLISH", channel, '"rest"')
            return list(iter(next_answer, "rest"))

        def next_answer():
            return json.loads(back_end.reply()[2])

        next_answer.rest = rest
        yield next_answer


def counts(receipt):
    return tuple(receipt.get(name, 0) for name in ("queued", "written", "dropped", "pending"))


async def test_a_receipt_is_that_of_all_loops(start_loops, redis):
    server = start_loops("--topics", "news", "--receipts", "receipts", redis=redis)
    with listening(redis, "receipts") as next_receipt:
        async with on_each_loop(server, "42") as clients, on_loop(server, 1, "43") as bystander:
            node = clients[0].welcome["conn"].split("-")[0]
            server.publish("user.42", 1)
            messages = [await client.next() for client in clients]
            assert len({message["id"] for message in messages}) == 1
            assert next_receipt() == {
                "topic": "user.42", "id": messages[0]["id"], "node": node,
                "queued": LOOPS, "written": LOOPS, "dropped": 0,
            }
            server.publish("user.44", 1)
            assert counts(next_receipt()) == (0, 0, 0, 0)
            for number in range(500):
                server.publish("news", number)
            assert [counts(next_receipt()) for _ in range(500)] == [(LOOPS + 1, LOOPS + 1, 0, 0)] * 500
            assert [(await bystander.next())["data"] for _ in range(500)] == list(range(500))
            assert next_receipt.rest() == []
    assert counter(server, "receipts_total") == 502 and counter(server, "receipts_pending_total") == 0


async def test_an_entry_of_a_stream_has_one_receipt(start_loops, redis):
    server = start_loops("--streams", "pub", redis=redis)
    with listening(redis, "mine") as next_receipt:
        async with on_each_loop(server, "42") as clients, on_loop(server, 0, "43") as bystander:
            redis.command("XADD", "pub", "*", "topic", "user.42", "data", "1")
            entry = redis.command("XADD", "pub", "*", "topic", "user.42", "data", "2", "receipt", "mine")
            receipt = next_receipt()
            assert (receipt["stream"], counts(receipt)) == (entry, (LOOPS, LOOPS, 0, 0))
            for client in clients:
                assert [(await client.next())["data"] for _ in range(2)] == [1, 2]
            assert bystander.connection.close_code is None and next_receipt.rest() == []


@contextlib.asynccontextmanager
async def slow_client(server, loop):
    """A client of this loop that reads nothing behind its welcome."""
    async with on_loop(server, loop, "slow", options={"max_queue": 1}) as client:
        yield client
        client.connection.transport.abort()


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_receipt_waits_for_the_slowest_of_all_loops(start_loops, redis, is_killed):
    server = start_loops("--topics", "news", "--receipts", "receipts", "--receipt-seconds", 60 if is_killed else 1,
                         "--backlog-bytes-max", "64MiB", redis=redis)
    messages = 60
    with listening(redis, "receipts") as next_receipt:
        async with on_loop(server, 0, "43") as bystander, slow_client(server, 1):
            for _ in range(messages):
                server.publish("news", LARGE)
                assert (await bystander.next())["topic"] == "news"
            if is_killed:
                kill(server, 1)
            told = [counts(await asyncio.to_thread(next_receipt)) for _ in range(messages)]
            assert bystander.connection.close_code is None
    left = (2, 1, 1, 0) if is_killed else (2, 1, 0, 1)
    # A loop that is killed before it knows of a message had no client for it.
    told = [counts for counts in told if not is_killed or counts != (1, 1, 0, 0)]
    assert set(told) == {(2, 2, 0, 0), left}
    assert counter(server, "receipts_total") == messages
    assert (counter(server, "receipts_pending_total") == 0) == is_killed


async def test_receipts_go_on_while_loops_are_killed(start_loops, redis):
    server = start_loops("--topics", "news", "--receipts", "receipts", redis=redis)
    count = 2000
    with listening(redis, "receipts") as next_receipt:
        async with on_loop(server, 0, "43") as bystander:
            for number in range(count):
                server.publish("news", number)
                if number % 500 == 250:
                    kill(server, 1)
            told = [counts(await asyncio.to_thread(next_receipt)) for _ in range(count)]
            assert [(await bystander.next())["data"] for _ in range(count)] == list(range(count))
            assert told == [(1, 1, 0, 0)] * count and next_receipt.rest() == []


async def test_a_count_is_one_number_for_all_loops(start_loops, redis):
    server = start_loops("--topics", "news", "--control", "ctl", redis=redis)

    def order(topic):
        words = {"op": "count", "topic": topic, "reply": "answers"}
        assert redis.command("PUBLISH", "ctl", json.dumps(words)) == 1

    with listening(redis, "answers") as next_answer:
        async with on_each_loop(server, "42") as clients, on_loop(server, 1, "43") as bystander:
            node = clients[0].welcome["conn"].split("-")[0]
            for topic, listeners in [("user.42", 2), ("news", 3), ("user.44", 0)]:
                order(topic)
                assert next_answer() == {"topic": topic, "listeners": listeners, "node": node}
            await bystander.connection.close()
            kill(server, 1)
            for _ in range(50):
                order("user.42")
            assert [next_answer()["listeners"] for _ in range(50)] == [1] * 50
            assert next_answer.rest() == []
            assert await clients[0].heard() == []
            with contextlib.suppress(ConnectionClosed):
                await clients[1].connection.close()


@pytest.fixture(params=["alone", "with Redis"])
def redis_or_none(request):
    return request.getfixturevalue("redis") if request.param == "with Redis" else None


MEMBERS = ["--members", "room.*", "--may", "room.*"]


async def enter_room(client, room="room.7"):
    """Subscribes a client to a room. Returns the list of its members, which the client watches from then on."""
    assert (await client.ask(op="subscribe", topic=room))["op"] == "subscribed"
    return await client.ask(op="members", topic=room)


async def until_members(client, users, expected, room="room.7"):
    """Applies changes to a list until it is the expected one."""
    async with asyncio.timeout(20):
        while users != expected:
            frame = await client.next()
            assert (frame["op"], frame["topic"]) == ("members", room), frame
            users = set(frame["users"]) if "users" in frame else (users | set(frame["joined"])) - set(frame["left"])
    return users


async def test_a_room_has_its_members_at_all_loops(start_loops, redis_or_none):
    redis = redis_or_none
    server = start_loops(*MEMBERS, redis=redis)
    async with on_loop(server, 1, "zoe") as bystander, on_loop(server, 0, "yan") as silent:
        assert (await enter_room(bystander, "room.8"))["users"] == ["zoe"]
        await silent.ask(op="subscribe", topic="room.9")
        async with on_loop(server, 0, "42") as here, on_loop(server, 1, "43") as there:
            first = await enter_room(here)
            assert (first["users"], first["count"]) == (["42"], 1)
            far = set((await enter_room(there))["users"])
            await until_members(there, far, {"42", "43"})
            users = await until_members(here, {"42"}, {"42", "43"})
            # A second connection of a user is no second member, whichever loop it is at.
            async with on_loop(server, 1, "42") as second:
                await until_members(second, set((await enter_room(second))["users"]), {"42", "43"})
                await here.ask(op="unsubscribe", topic="room.7")
                async with on_loop(server, 0, "44") as other:
                    await until_members(other, set((await enter_room(other))["users"]), {"42", "43", "44"})
                    await until_members(there, {"42", "43"}, {"42", "43", "44"})
                await until_members(there, {"42", "43", "44"}, {"42", "43"})
            await until_members(there, {"42", "43"}, {"43"})
            users = set((await enter_room(here))["users"])
            await until_members(here, users, {"42", "43"})
            if redis:
                assert redis.command("ZRANGE", "oneloop:{pub.members}:in:room.7", 0, -1) == ["43", "42"]
                assert redis.command("ZCARD", "oneloop:{pub.members}:nodes") == 1
            assert await bystander.heard() == [] and await silent.heard() == []
            kill(server, 1)
            # Nobody waits for the members of a loop that ended, and it is no node of its own.
            await until_members(here, {"42", "43"}, {"42"})
            async with on_loop(server, 1, "45") as back:
                await until_members(back, set((await enter_room(back))["users"]), {"42", "45"})
                await until_members(here, {"42"}, {"42", "45"})
            assert await silent.heard() == []
    if redis:
        await asyncio.to_thread(
            eventually, lambda: redis.command("EXISTS", "oneloop:{pub.members}:in:room.7") == 0, "no member is left")


async def test_a_list_that_is_cut_keeps_its_members(start_loops):
    server = start_loops(*MEMBERS, "--members-max", 2)
    async with on_loop(server, 1, "x") as x, on_loop(server, 0, "y") as y, on_loop(server, 0, "zoe") as bystander:
        await enter_room(x)
        await until_members(y, set((await enter_room(y))["users"]), {"x", "y"})
        await until_members(x, {"x"}, {"x", "y"})
        async with on_loop(server, 1, "a") as a:
            first = await enter_room(a)
            for client in [x, y]:
                frame = await client.next()
                assert (frame["joined"], frame["left"], frame["count"]) == ([], [], 3)
            assert len(first["users"]) == 2 and "x" in first["users"]
        for client in [x, y]:
            assert (await client.next())["count"] == 2
        assert await bystander.heard() == []


async def test_lists_are_right_in_the_end_over_three_loops(start_loops, redis_or_none):
    """Users come, go, subscribe and unsubscribe, and loops are killed."""
    chance = random.Random(16)
    server = start_loops(*MEMBERS, loops=3, redis=redis_or_none)
    async with contextlib.AsyncExitStack() as stack:
        present = []
        for step in range(120):
            match chance.randrange(6):
                case 0 | 1:
                    client = await stack.enter_async_context(server.client(str(chance.randrange(5))))
                    present.append((client, set()))
                case 2 if present:
                    client, _ = present.pop(chance.randrange(len(present)))
                    await client.connection.close()
                case 3 if step in (40, 41, 42, 80, 81, 82):
                    kill(server, chance.randrange(3))
                case _ if present:
                    client, rooms = chance.choice(present)
                    room = f"room.{chance.randrange(2)}"
                    op = "unsubscribe" if room in rooms else "subscribe"
                    with contextlib.suppress(ConnectionClosed):
                        await client.ask(op=op, topic=room)
                        rooms ^= {room}
        for room in ("room.0", "room.1"):
            for loop in range(3):
                async with on_loop(server, loop, "watcher") as watcher:
                    users = set((await enter_room(watcher, room))["users"])
                    alive = [(client, rooms) for client, rooms in present if client.connection.close_code is None]
                    expected = {client.sub for client, rooms in alive if room in rooms} | {"watcher"}
                    await until_members(watcher, users, expected, room)
