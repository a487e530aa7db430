"""Receipts: a publisher is told the outcome of its messages."""

import asyncio
import contextlib
import json

import pytest
from helpers.process import oneloop
from helpers.raw_client import Raw
from helpers.server import counter
from helpers.tokens import token
from websockets.exceptions import ConnectionClosed

# Large topics have another fan-out.
CROWD = 70

LARGE = json.dumps("x" * 200_000)


@contextlib.contextmanager
def listening(redis, channel="receipts"):
    """Reads receipts: `next_receipt()`."""
    with contextlib.closing(redis.publisher()) as back_end:
        back_end.command("SUBSCRIBE", channel)
        yield lambda: json.loads(back_end.reply()[2])


def counts(receipt):
    names = ("queued", "written", "dropped", "pending")
    return tuple(receipt.get(name, 0) for name in names)


async def test_a_receipt_says_who_was_written_to(start, redis):
    server = start("--receipts", "receipts", redis=redis)
    with listening(redis) as next_receipt:
        async with server.client("43") as bystander, server.client("42") as client:
            server.publish("user.42", 1)
            message, receipt = await client.next(), next_receipt()
            node = client.welcome["conn"].split("-")[0]
            assert receipt == {
                "topic": "user.42", "id": message["id"], "node": node,
                "queued": 1, "written": 1, "dropped": 0,
            }
            server.publish("user.44", 1)
            assert counts(next_receipt()) == (0, 0, 0, 0)
            server.publish("a..b", "no topic, so no receipt")
            assert await bystander.heard() == []
            assert next_receipt()["topic"] == "user.43", "of the marker"
    assert counter(server, "receipts_total") == 3


async def test_each_node_says_what_it_did(start, redis):
    nodes = [start("--topics", "news", "--receipts", "receipts", redis=redis) for _ in range(2)]
    with listening(redis) as next_receipt:
        async with nodes[0].client("1"), nodes[0].client("2"), nodes[1].client("3"):
            nodes[0].publish("news", 1)
            receipts = [next_receipt() for _ in nodes]
    assert sorted(map(counts, receipts)) == [(1, 1, 0, 0), (2, 2, 0, 0)]
    assert len({receipt["node"] for receipt in receipts}) == 2


@pytest.mark.parametrize("others", [0, CROWD])
async def test_who_does_not_read_is_pending(start, redis, others):
    server = start("--topics", "news", "--receipts", "receipts", "--receipt-seconds", 1,
                   redis=redis)
    total = others + 2
    with listening(redis) as next_receipt, Raw(server, receive_buffer=4096) as slow:
        slow.upgrade(token("slow"))
        async with server.many_clients(others) as crowd, server.client("43") as bystander:
            readers = [asyncio.create_task(read_on(client)) for client in crowd]
            # Until the sockets between them are full.
            for _ in range(100):
                server.publish("news", LARGE)
                assert (await bystander.next())["topic"] == "news"
                told = counts(await asyncio.to_thread(next_receipt))
                assert told[0] == total == sum(told[1:])
                if told[1] < total:
                    break
            assert told[2] == 0 < told[3]
        await asyncio.gather(*readers)
    assert counter(server, "receipts_pending_total") == 1


@pytest.mark.parametrize("others", [0, CROWD])
async def test_who_is_gone_is_dropped_for(start, redis, others):
    server = start("--topics", "news", "--receipts", "receipts", "--receipt-seconds", 60,
                   "--backlog-bytes-max", "64MiB", redis=redis)
    total, messages = others + 2, 60
    with listening(redis) as next_receipt, Raw(server, receive_buffer=4096) as slow:
        slow.upgrade(token("slow"))
        async with server.many_clients(others) as crowd, server.client("43") as bystander:
            readers = [asyncio.create_task(read_on(client)) for client in crowd]
            for number in range(messages):
                # The first one fits into the socket of the client that does not read.
                server.publish("news", LARGE if number else "small")
                assert (await bystander.next())["topic"] == "news"
            slow.socket.close()
            told = [counts(await asyncio.to_thread(next_receipt)) for _ in range(messages)]
        await asyncio.gather(*readers)
    assert set(told) == {(total, total, 0, 0), (total, total - 1, 1, 0)}
    assert counter(server, "receipts_pending_total") == 0


async def read_on(client):
    with contextlib.suppress(ConnectionClosed):
        while True:
            await client.connection.recv()


async def test_an_entry_names_the_channel_of_its_receipt(start, redis):
    server = start("--streams", "pub", redis=redis)
    with listening(redis, "mine") as next_receipt:
        async with server.client("43") as bystander, server.client("42") as client:
            redis.command("XADD", "pub", "*", "topic", "user.42", "data", "1")
            words = ("topic", "user.42", "data", "2", "receipt", "mine")
            entry = redis.command("XADD", "pub", "*", *words)
            assert [(await client.next())["data"] for _ in range(2)] == [1, 2]
            receipt = next_receipt()
            assert (receipt["id"], receipt["stream"]) == (client.id, entry)
            assert counts(receipt) == (1, 1, 0, 0)
            assert await bystander.heard() == []
    assert counter(server, "receipts_total") == 1


async def test_an_acl_that_lacks_the_channel_is_named(start, redis):
    redis.command("ACL", "SETUSER", "bob", "on", ">secret", "~*", "&pub.*", "+@all")
    flags = ("--redis", redis.url_of("bob:secret"), "--receipts", "receipts")
    server = start(*flags, redis=redis)
    async with server.client("43") as bystander, server.client("42") as client:
        server.publish("user.42", 1)
        assert (await client.next())["data"] == 1, "the message itself is delivered"
        server.wait_for_log("refuses receipts.*NOPERM.*publish")
        assert await bystander.heard() == []
    assert "bob" not in server.log()


async def test_a_receipt_on_a_topic_has_no_receipt(start, redis):
    """Without a prefix, every channel is a topic."""
    server = start("--receipts", "receipts", "--prefix", "", "--topics", "receipts", redis=redis)
    async with server.client("42") as client:
        redis.command("PUBLISH", "user.42", "1")
        frames = [await client.next() for _ in range(2)]
        assert [frame["topic"] for frame in frames] == ["user.42", "receipts"]
        assert counts(frames[1]["data"]) == (1, 1, 0, 0)
        redis.command("PUBLISH", "user.42", "2")
        assert [(await client.next())["topic"] for _ in range(2)] == ["user.42", "receipts"]
    assert counter(server, "receipts_total") == 2


@pytest.mark.parametrize("flags, why", [
    (["--receipts", "r"], "needs a Redis"),
    (["--receipts", "r", "--control", "r", "--redis", "redis://127.0.0.1"], "channel of orders"),
    (["--receipts", "pub.r", "--redis", "redis://127.0.0.1"], "begins with the prefix"),
])
def test_receipts_that_cannot_be_are_settings_errors(flags, why):
    done = oneloop("--check", *flags)
    assert done.returncode == 2 and why in done.stderr
