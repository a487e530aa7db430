"""Bursts: a client that reads is never closed as slow, even if very much comes at once."""

import asyncio

import pytest


def pipeline(channel, first, count):
    def command(number):
        words = [b"PUBLISH", channel.encode(), str(number).encode()]
        return b"*3\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)

    return b"".join(command(number) for number in range(first, first + count))


async def send(port, data, answers):
    """All at once, and all answers read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    for _ in range(answers):
        assert (await reader.readline()).startswith(b":")
    writer.close()


async def numbers(client, count):
    return [(await client.next())["data"] for _ in range(count)]


@pytest.mark.parametrize("source", ["publishers", "redis"])
async def test_a_burst_above_the_backlogs_bound_reaches_who_reads(start, start_redis, source):
    redis = start_redis() if source == "redis" else None
    server = start("--backlog-frames-max", 100, redis=redis)
    port = redis.port if redis else server.publishers[1]
    async with server.client("43") as bystander, server.client("42") as client:
        burst = asyncio.create_task(send(port, pipeline("pub.user.42", 0, 3000), 3000))
        assert await numbers(client, 3000) == list(range(3000))
        await burst
        assert await bystander.heard() == []


async def test_a_burst_to_many_reaches_each(start):
    server = start("--topics", "news", "--backlog-frames-max", 64, "--flush-clients-per-turn", 10)
    port = server.publishers[1]
    async with server.many_clients(100) as clients:
        burst = asyncio.create_task(send(port, pipeline("pub.news", 0, 500), 500))
        heard = await asyncio.gather(*(numbers(client, 500) for client in clients))
        await burst
        assert all(each == list(range(500)) for each in heard)
