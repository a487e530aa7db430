"""Replays of streams are read from Redis in small pages, which delay neither other clients nor Redis."""

import asyncio
import contextlib

import pytest
from helpers.server import counter
from helpers.streams import STREAM, add
from helpers.ws_client import all_heard

ENTRIES, LARGE = 100, "x" * 500_000
CONNECTIONS = 16


def number(redis, name):
    info = redis.command("INFO")
    info = info.decode() if isinstance(info, bytes) else info
    return next(int(line.split(":")[1]) for line in info.splitlines() if line.startswith(name + ":"))


async def test_redis_at_its_limit_takes_whatever_back_ends_add_while_pages_are_read(start, start_redis):
    redis = start_redis("--maxmemory", "256mb", "--maxmemory-policy", "noeviction")
    server = start(*STREAM, "--history-messages-max", "5", redis=redis)
    add(redis, "room.1", "first")
    async with server.client("42") as client, server.client("43", topics=["room.1"]) as honest:
        old, missed = client.welcome["id"], honest.welcome["id"]
    for _ in range(ENTRIES):
        add(redis, "room.1", LARGE)
    add(redis, "room.1", "last")
    before = number(redis, "used_memory_peak")
    async with contextlib.AsyncExitStack() as stack:
        attackers = [
            await stack.enter_async_context(server.client("42", since=old)) for _ in range(CONNECTIONS)
        ]
        assert all(client.welcome["resumed"] for client in attackers)
        bystander = await stack.enter_async_context(server.client("44"))
        for count in range(200):
            # An error would be raised here: `-OOM command not allowed`.
            add(redis, "room.2", count)
        async with server.client("43", since=missed, topics=["room.1"]) as honest:
            heard = [data for _, data in await all_heard(honest, "last")]
            assert heard == [LARGE] * ENTRIES + ["last"]
        # They are still given pages, of which nothing is for them.
        add(redis, "user.44", "end")
        assert await all_heard(bystander, "end") == [("user.44", "end")]
        for attacker in attackers:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(attacker.connection.recv(), 0)
    grown = number(redis, "used_memory_peak") - before
    assert grown < 32 << 20, f"{grown} bytes more"
    assert redis.command("XLEN", "pub") == ENTRIES + 203


async def test_what_a_user_reads_in_vain_is_paced_and_still_comes(start, redis):
    server = start(*STREAM, "--history-messages-max", "5", redis=redis)
    add(redis, "room.1", "first")
    async with server.client("42") as client, server.client("43") as other:
        since, others = client.welcome["id"], other.welcome["id"]
    add(redis, "user.42", "before")
    for _ in range(40):
        add(redis, "room.1", LARGE)
    add(redis, "user.42", "after")
    add(redis, "user.43", "other")
    for _ in range(5):
        add(redis, "room.1", "1")
    async with server.client("42", since=since) as client, server.client("43", since=others) as bystander:
        assert await all_heard(client, "after") == [("user.42", "before"), ("user.42", "after")]
        assert await all_heard(bystander, "other") == [("user.43", "other")]
    assert counter(server, "pages_put_off_total") > 0
    assert counter(server, "page_bytes_total") > 2 * 40 * len(LARGE)


async def test_a_herd_comes_back_in_pages_and_loses_nothing(start, redis):
    server = start(*STREAM, "--history-messages-max", "5", redis=redis)
    add(redis, "room.1", "first")
    async with server.client("42") as client:
        since = client.welcome["id"]
    users = [f"u{user}" for user in range(50)]
    for entry in range(300):
        add(redis, f"user.{users[entry % 50]}", entry)

    async def come_back(user):
        async with server.client(user, since=since) as client:
            last = 250 + int(user[1:])
            heard = [data for _, data in await all_heard(client, last)]
            assert heard == list(range(int(user[1:]), 300, 50)), user

    await asyncio.gather(*map(come_back, users))
    async with server.client("nobody", since=since) as bystander:
        assert await bystander.heard() == []
    looks = counter(server, "requests_total") - counter(server, "pages_total")
    assert looks < 25, f"{looks} looks for 51 clients"


@pytest.mark.parametrize("fields", [("news", "no topic"), ("topic", "bad topic!", "data", "1"), ("topic", "room.1", "data", "x" * 2000)])
async def test_whoever_comes_from_a_node_that_passed_over_an_entry_is_live_elsewhere(start, redis, fields):
    flags = [*STREAM, "--payload-bytes-max", "1000"]
    older = start(*flags, redis=redis)
    add(redis, "user.42", "before")
    redis.command("XADD", "pub", "*", *fields)
    # It begins behind that entry, and its cursors say so.
    newer = start(*flags, redis=redis)
    async with newer.client("42") as client:
        since = client.welcome["id"]
    async with older.client("42", since=since) as client, older.client("43", since=since) as bystander:
        assert client.welcome["resumed"] is bystander.welcome["resumed"] is True
        while "id" not in (pong := await client.ask(op="ping", cursor=True)):
            await asyncio.sleep(0.01)
        assert pong["id"] > client.welcome["id"]
        add(redis, "user.42", "after")
        assert await all_heard(client, "after") == [("user.42", "after")]
        add(redis, "user.43", "end")
        assert await all_heard(bystander, "end") == [("user.43", "end")]
