"""Durable topics: entries of Redis streams reach their subscribers once and in order, through every outage."""

import asyncio
import contextlib
import json
import re

import pytest
from helpers.process import eventually, oneloop
from helpers.server import counter
from helpers.streams import DURABLE, QUICK, STREAM, add, heard

pytestmark = pytest.mark.over_tls


def connection_of(redis, name):
    """The id of the connection that calls itself so."""
    found = re.search(rf"^id=(\d+) .* name={name} ", redis.command("CLIENT", "LIST"), re.MULTILINE)
    return found and found[1]


def cut(redis, name):
    number = eventually(lambda: connection_of(redis, name), f"{name} is connected")
    redis.command("CLIENT", "KILL", "ID", number)


async def test_an_entry_reaches_whom_it_names_and_nobody_else(start, redis):
    server = start(*STREAM, "--topics", "news", redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        add(redis, "user.42", {"paid": True})
        add(redis, "user.4", "for somebody else")
        add(redis, "news", "for all", ignored="field")
        add(redis, "user.42", "last")
        assert await heard(redis, client) == [
            ("user.42", {"paid": True}), ("news", "for all"), ("user.42", "last"),
        ]
        assert await heard(redis, bystander) == [("news", "for all")]
        assert counter(server, "stream_entries_total") == 6
        assert counter(server, "stream_ups_total") == 1


async def test_channels_are_heard_besides(start, redis):
    server = start(*STREAM, redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        server.publish("user.42", 1)
        assert await client.heard() == [("user.42", 1)]
        assert await bystander.heard() == []


async def test_several_streams_each_keep_their_order(start, redis):
    server = start("--streams", "pub,more", *QUICK, redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        for number in range(2000):
            add(redis, "user.42", [number % 2, number], stream=("pub", "more")[number % 2])
        got = [(await client.next())["data"] for _ in range(2000)]
        for stream in 0, 1:
            numbers = [number for of, number in got if of == stream]
            assert numbers == list(range(stream, 2000, 2))
        assert await heard(redis, client) == await heard(redis, bystander) == []


async def test_what_was_there_before_the_start_is_not_sent_again(start, redis):
    add(redis, "user.42", "old")
    server = start(*STREAM, redis=redis)
    async with server.client("42") as client:
        add(redis, "user.42", "new")
        assert await heard(redis, client) == [("user.42", "new")]


async def test_what_is_no_message_is_counted_and_passed_over(start, redis):
    server = start(*STREAM, "--payload-bytes-max", 100, redis=redis)
    async with server.client("42") as client:
        redis.command("XADD", "pub", "*", "data", "1")
        redis.command("XADD", "pub", "*", "topic", "user.42")
        add(redis, "user..42.", "1")
        add(redis, "news..x", "1")
        add(redis, "user.42", "x" * 101)
        add(redis, "user.42", "1", more="x" * 200_000)
        add(redis, "user.42", "good")
        assert await heard(redis, client) == [("user.42", "good")]
        assert counter(server, "messages_malformed_total") == 3
        assert counter(server, "messages_oversized_total") == 2
        add(redis, "user.42", "x" * 101)
    cut(redis, "oneloop-reader")
    eventually(lambda: counter(server, "stream_ups_total") == 2, "it reads again")
    async with server.client("42") as client:
        assert await heard(redis, client) == []
    assert counter(server, "messages_oversized_total") == 3


async def test_a_reader_that_is_cut_misses_nothing_and_nobody_is_told(start, redis):
    server = start(*STREAM, "--topics", "news", redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        sent = []
        for number in range(300):
            add(redis, "user.42", number)
            sent.append(("user.42", number))
            if number % 50 == 25:
                await asyncio.to_thread(cut, redis, "oneloop-reader")
        assert await heard(redis, client) == sent
        assert await heard(redis, bystander) == []
        assert counter(server, "stream_ups_total") > 1
        assert counter(server, "stream_lost_total") == 0


async def test_a_redis_that_is_killed_while_entries_are_added_costs_none(start, start_redis):
    redis = start_redis(*DURABLE)
    server = start(*STREAM, redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        acknowledged, received = [], []

        async def receive():
            while "end" not in received:
                message = await client.next()
                if "topic" in message:
                    received.append(message["data"])

        receiver = asyncio.create_task(receive())
        for burst in range(3):
            for number in range(200):
                if number == 150:
                    redis.kill()
                    await asyncio.to_thread(redis.revive)
                with contextlib.suppress(OSError, ConnectionError):
                    add(redis, "user.42", [burst, number])
                    acknowledged.append([burst, number])
        await asyncio.to_thread(server.wait_ready)
        add(redis, "user.42", "end")
        await asyncio.wait_for(receiver, 30)
        # An entry whose acknowledgement was cut off may be there, too.
        assert [one for one in received if one in acknowledged] == acknowledged
        assert len(received) == len({json.dumps(one) for one in received})
        assert counter(server, "stream_lost_total") == 0
        server.forget_publisher()
        assert [one for one in await heard(redis, bystander) if isinstance(one, tuple)] == []


async def test_a_connection_for_commands_that_is_cut_comes_back(start, redis):
    server = start(*STREAM, redis=redis)
    first = connection_of(redis, "oneloop-commander")
    async with server.client("42") as client:
        redis.command("CLIENT", "KILL", "ID", first)

        def is_back():
            return connection_of(redis, "oneloop-commander") not in (None, first)

        await asyncio.to_thread(eventually, is_back, "it is connected again")
        await asyncio.to_thread(server.wait_ready)
        add(redis, "user.42", 1)
        assert await heard(redis, client) == [("user.42", 1)]
        assert counter(server, "stream_ups_total") == 1


async def test_entries_that_were_trimmed_before_they_were_read_cause_a_gap(start, redis):
    server = start(*STREAM, redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        add(redis, "user.42", 0)
        assert (await client.next())["data"] == 0
        pipeline = redis.publisher()
        # In one transaction, so that the reader cannot come in between.
        for command in [
            ["MULTI"],
            *[["XADD", "pub", "MAXLEN", 2, "*", "topic", "user.42", "data", n] for n in (1, 2, 3, 4)],
            ["EXEC"],
        ]:
            pipeline.command(*command)
        pipeline.close()
        cut(redis, "oneloop-reader")
        eventually(lambda: counter(server, "stream_lost_total") == 1, "the loss is counted")
        found = await heard(redis, client)
        assert ("user.42", 3) in found and ("user.42", 4) in found and ("user.42", 1) not in found
        assert sum(isinstance(one, dict) and one["op"] == "gap" for one in found) == 1
        assert [one["op"] for one in await heard(redis, bystander)] == ["gap"]
        server.wait_for_log("stream pub were trimmed or deleted")


async def test_a_stream_that_is_deleted_is_read_anew(start, redis):
    server = start(*STREAM, "--redis-silence-seconds", 1, redis=redis)
    async with server.client("42") as client:
        add(redis, "user.42", 1)
        assert (await client.next())["data"] == 1
        redis.command("DEL", "pub")
        # The reader looks again when Redis has had nothing for it for a second.
        eventually(lambda: counter(server, "stream_lost_total") == 1, "the loss is counted")
        assert (await client.next())["op"] == "gap"
        redis.command("XADD", "pub", "1-1", "topic", "user.42", "data", "2")
        assert (await client.next())["data"] == 2


async def test_a_quiet_stream_is_not_taken_for_a_dead_one(start, redis):
    server = start("--streams", "pub", "--redis-silence-seconds", 1, "--redis-timeout-seconds", 1,
                   redis=redis)
    def reads():
        found = re.search(r"cmdstat_xread:calls=(\d+)", redis.command("INFO", "commandstats"))
        return int(found[1]) if found else 0

    first = reads()
    await asyncio.to_thread(eventually, lambda: reads() >= first + 3, "it reads on and on")
    assert counter(server, "stream_ups_total") == 1
    async with server.client("42") as client:
        add(redis, "user.42", 1)
        assert await heard(redis, client) == [("user.42", 1)]


async def test_a_redis_that_stands_still_turns_it_red_until_it_wakes(start, redis):
    server = start("--streams", "pub", "--redis-silence-seconds", 1, "--redis-timeout-seconds", 1,
                   "--redis-backoff-ms-max", 100, redis=redis)
    redis.freeze()
    try:
        await asyncio.to_thread(server.wait_ready, False)
        server.wait_for_log("did not answer XREAD")
    finally:
        redis.thaw()
    await asyncio.to_thread(server.wait_ready)
    async with server.client("42") as client:
        add(redis, "user.42", 1)
        assert await heard(redis, client) == [("user.42", 1)]


async def test_a_key_of_another_type_is_named_and_may_be_mended(start, redis):
    redis.command("SET", "pub", "a string")
    server = start(*STREAM, redis=redis, ready=False)
    server.wait_for_log("no stream under the key pub, but something else: DEL it")
    assert server.admin("/readyz")[2].strip() in (
        "no link to Redis", "no link to Redis for streams", "no link to Redis for commands",
    )
    assert server.admin("/healthz")[0] == 200
    redis.command("DEL", "pub")
    await asyncio.to_thread(server.wait_ready)
    async with server.client("42") as client:
        add(redis, "user.42", 1)
        assert await heard(redis, client) == [("user.42", 1)]
    assert server.log().count("no stream under the key") == 1, "the same failure is logged once"


async def test_a_missing_permission_is_mended_as_the_log_says(start, redis):
    redis.command("ACL", "SETUSER", "push", "on", ">pass", "resetkeys", "-@all", "&pub.*",
                  "+psubscribe", "+ping", "+client|setname")
    url = redis.url_of("push:pass")
    server = start("--redis", url, *STREAM, redis=redis, ready=False)
    server.wait_for_log(r"ACL SETUSER <user> ~pub \+xinfo")
    rules = re.search(r"ACL SETUSER <user> (~pub .*?\|setname)", server.log())[1]
    redis.command("ACL", "SETUSER", "push", *rules.split())
    await asyncio.to_thread(server.wait_ready)
    async with server.client("42") as client, server.client("43") as bystander:
        add(redis, "user.42", 1)
        assert await heard(redis, client) == [("user.42", 1)]
        assert await heard(redis, bystander) == []


async def test_the_database_of_the_url_is_the_one_that_is_read(start, redis):
    server = start("--redis", redis.url + "/5", *STREAM, redis=redis)
    async with server.client("42") as client:
        publisher = redis.publisher()
        add(redis, "user.42", "in another database")
        publisher.command("SELECT", 5)
        publisher.command("XADD", "pub", "*", "topic", "user.42", "data", "1")
        publisher.close()
        assert (await client.next())["data"] == 1


async def test_large_entries_arrive_whole_and_in_order(start, redis):
    # They come faster than the client reads: what it is behind waits in the kernel.
    server = start(*STREAM, "--send-buffer-bytes", "4MiB", redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        sizes = [100_000 * (1 + number % 10) for number in range(60)]

        def add_all():
            for number, size in enumerate(sizes):
                add(redis, "user.42", f"{number}:" + "x" * size)

        # It reads meanwhile: a client that does not is slow.
        adding = asyncio.create_task(asyncio.to_thread(add_all))
        for number, size in enumerate(sizes):
            data = (await client.next())["data"]
            assert data.startswith(f"{number}:") and len(data) == size + len(f"{number}:")
        await adding
        assert await heard(redis, bystander) == []
    assert server.resident_kilobytes() < 40_000


def test_streams_without_a_redis_are_a_settings_error():
    done = oneloop("--check", "--streams", "pub")
    assert done.returncode == 2
    assert "streams" in done.stderr and "redis is not" in done.stderr
