"""Entries of Redis streams, and the flags of a server that reads them."""

import itertools
import json

QUICK = ["--redis-backoff-ms-max", 100, "--redis-timeout-seconds", 2]
STREAM = ["--streams", "pub", *QUICK]
DURABLE = ["--appendonly", "yes", "--appendfsync", "always"]
MARKERS = itertools.count(1)


def add(redis, topic, data, *options, stream="pub", **fields):
    """XADD; what is not text goes as JSON. The id."""
    data = data if isinstance(data, str) else json.dumps(data)
    more = [word for pair in fields.items() for word in pair]
    return redis.command("XADD", stream, *options, "*", "topic", topic, "data", data, *more)


async def heard(redis, client, stream="pub"):
    """Messages that the client has received so far, found by a marker at the end of the stream."""
    marker = {"stream marker": next(MARKERS)}
    add(redis, f"user.{client.sub}", marker, stream=stream)
    found = []
    while (message := await client.next()).get("data") != marker:
        plain = set(message) == {"topic", "id", "data"}
        found.append((message["topic"], message["data"]) if plain else message)
    return found
