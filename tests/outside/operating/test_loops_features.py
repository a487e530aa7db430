"""Features over several loops: a back end cannot tell how many there are."""

import asyncio
import contextlib
import os
import signal

import pytest
from helpers.loops import LOOPS, on_loop, processes
from helpers.process import eventually
from helpers.server import counter


@pytest.fixture
def start_loops(start):
    def start_loops(*flags, loops=LOOPS, **options):
        return start("--loops", loops, *flags, **options)

    return start_loops


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
