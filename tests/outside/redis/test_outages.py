"""A real Redis fails in the ways that Redis has: each outage costs one gap, and nobody is lost."""

import asyncio
import re
import signal
import time

import pytest
from helpers.outage_check import QUICK, audience
from helpers.process import eventually
from helpers.tcp_proxy import TcpProxy

pytestmark = pytest.mark.over_tls

USER = ["ACL", "SETUSER", "push", "on", ">pass", "resetchannels", "&pub.*", "+@all"]
BUSY = """
local function now() local time = redis.call('TIME') return time[1] * 1000000 + time[2] end
local begun = now()
while now() < begun + ARGV[1] * 1000000 do end
"""


def as_user(redis):
    """The address for a server that is the user `push`."""
    redis.command(*USER)
    return ["--redis", redis.url_of("push:pass"), *QUICK]


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "restarted"])
async def test_a_redis_that_ends_and_comes_back(start, redis, ending):
    server = start(*QUICK, redis=redis)
    async with audience(server) as clients:
        for _ in range(2):
            server.forget_publisher()
            redis.process.send_signal(ending)
            redis.process.wait()
            await clients.is_served()
            redis.revive()
            await clients.is_back()
            await clients.hears(gaps=1)


async def test_a_redis_that_stops_and_goes_on(start, redis):
    """A stopped Redis passes its commands on afterwards, to nobody: we have left."""
    server = start(*QUICK, redis=redis)
    async with audience(server) as clients:
        redis.freeze()
        try:
            server.publisher.send("PUBLISH", "pub.user.user0", "in the gap")
            await clients.is_served()
        finally:
            redis.thaw()
        assert server.publisher.reply() in (0, 1)
        await clients.is_back()
        await clients.hears(gaps=1)


async def test_a_redis_that_is_busy_costs_nothing(start, redis):
    """A script holds it for longer than the silence after which it is asked whether it lives."""
    server = start("--redis-silence-seconds", 1, redis=redis)
    async with audience(server) as clients:
        await asyncio.to_thread(redis.command, "EVAL", BUSY, 0, 1.5)
        await clients.hears()


async def test_a_slow_line_costs_nothing(start, redis):
    with TcpProxy(redis) as proxy:
        server = start(*QUICK, redis=proxy)
        async with audience(server, 3) as clients:
            proxy.slow_down(piece=7, pause=0.001)
            await clients.hears()
            proxy.slow_down(piece=65536, pause=0)


async def test_a_connection_killed_time_and_again(start, redis):
    server = start(*QUICK, redis=redis)
    async with audience(server) as clients:
        for _ in range(5):
            assert redis.command("CLIENT", "KILL", "TYPE", "pubsub") == 1
            await clients.is_back()
            await clients.hears(gaps=1)


@pytest.mark.parametrize("taken", [
    ["DELUSER", "push"], ["SETUSER", "push", "resetchannels"], ["SETUSER", "push", "off"],
], ids=["user", "channels", "switch"])
async def test_a_permission_taken_away_and_given_back(start, redis, taken):
    server = start(*as_user(redis), redis=redis)
    async with audience(server) as clients:
        redis.command("ACL", *taken)
        # Of a user who is switched off Redis keeps the connections.
        redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        await clients.is_served()
        redis.command(*USER)
        await clients.is_back()
        await clients.hears(gaps=1)


async def test_a_password_changed_matters_to_the_next_connection(start, redis):
    server = start(*as_user(redis), redis=redis)
    async with audience(server) as clients:
        redis.command("ACL", "SETUSER", "push", "resetpass", ">another")
        await clients.hears()
        redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        await clients.is_served()
        redis.command("ACL", "SETUSER", "push", ">pass")
        await clients.is_back()
        await clients.hears(gaps=1)


async def test_a_redis_without_room_is_asked_in_moderation(start, redis):
    server = start(*QUICK, redis=redis)
    async with audience(server) as clients:
        admin = server.publisher

        def refused():
            stats = admin.command("INFO", "stats")
            return int(re.search(r"rejected_connections:(\d+)", stats)[1])

        admin.command("CONFIG", "SET", "maxclients", 1)
        begun = time.monotonic()
        assert admin.command("CLIENT", "KILL", "TYPE", "pubsub") == 1
        await clients.is_served()
        attempts = await asyncio.to_thread(eventually, lambda: refused() >= 10 and refused(), "tries")
        took = time.monotonic() - begun
        print(f"{attempts} attempts in {took:.2f} s")
        # Each wait but the first is at least a quarter of the longest, which is 100 ms.
        assert took >= (attempts - 1) * 0.025
        admin.command("CONFIG", "SET", "maxclients", 10000)
        await clients.is_back()
        await clients.hears(gaps=1)


async def test_an_output_buffer_that_overflows(start, redis):
    """A server that is stopped until Redis closes its connection gets the messages up to that, and a gap."""
    server = start(*QUICK, redis=redis)
    async with audience(server) as clients:
        one = clients.clients[0]
        redis.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 65536 0 0")
        said = 0
        server.signal(signal.SIGSTOP)
        try:
            while server.publish("filler", "x" * 30_000) == 1:
                said += server.publish(f"user.{one.sub}", said)
        finally:
            server.signal(signal.SIGCONT)
        await clients.is_back()
        heard = 0
        while (message := await one.next()).get("data") == heard:
            heard += 1
        print(f"{said} messages in {said * 30_000} bytes; {said - heard} lost")
        assert message["op"] == "gap" and 0 < heard <= said, message
        for other in [*clients.clients[1:], clients.bystander]:
            assert (await other.next())["op"] == "gap"
        await clients.hears()


@pytest.mark.parametrize("hangs", [False, True], ids=["cut", "hung"])
async def test_failing_over_behind_one_address(start, start_redis, hangs):
    first, second = start_redis(), start_redis()
    with TcpProxy(first) as proxy:
        server = start(*QUICK, redis=proxy)
        async with audience(server) as clients:
            # If connections hang, the first Redis still has ours, and would count us twice.
            for target in [second] if hangs else [second, first]:
                old, server._publisher = server.publisher, None
                proxy.fail_over(target, hangs)
                # The old server lives on, and so do its publishers.
                old.command("PUBLISH", "pub.user.user0", "said to the old one")
                await clients.is_back()
                old.command("PUBLISH", "pub.user.user0", "said to the old one")
                old.close()
                await clients.hears(gaps=1)
