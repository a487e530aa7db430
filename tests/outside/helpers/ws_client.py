"""A WebSocket client of oneloop.v1 that checks each frame it receives."""

import asyncio
import itertools
import json

from websockets.exceptions import ConnectionClosed

from helpers.process import DEADLINE

MARKERS = itertools.count(1)


class Client:
    """A welcomed client; it checks that ids rise from message to message."""

    def __init__(self, server, connection, sub):
        self.server, self.connection, self.sub = server, connection, sub
        self.welcome, self.id = None, ""

    async def send(self, text=None, **command):
        await self.connection.send(text if text is not None else json.dumps(command))

    async def frame(self):
        """The next frame as it is: str or bytes."""
        async with asyncio.timeout(DEADLINE):
            return await self.connection.recv()

    async def next(self):
        """The next frame as JSON."""
        frame = await self.frame()
        assert isinstance(frame, str), frame
        message = json.loads(frame)
        if "id" in message and message.get("op") != "sent":
            assert message["id"] > self.id, f"{message} does not rise over {self.id}"
            self.id = message["id"]
        return message

    async def ask(self, **command):
        """Sends a command and returns the next frame."""
        await self.send(**command)
        return await self.next()

    async def heard(self):
        """Everything received so far: (topic, data) for a message, the object for anything else.

        A marker on the client's own topic comes last, so nothing can still be on its way."""
        marker = {"marker": next(MARKERS)}
        self.server.publish(f"user.{self.sub}", marker)
        heard = []
        while (message := await self.next()).get("data") != marker:
            plain = set(message) == {"topic", "id", "data"}
            heard.append((message["topic"], message["data"]) if plain else message)
        assert message["topic"] == f"user.{self.sub}", message
        return heard

    async def closed(self):
        return await closed(self.connection)


async def closed(connection):
    """The server's close, with nothing before it: (code, reason as JSON or None)."""
    async with asyncio.timeout(DEADLINE):
        try:
            frame = await connection.recv()
        except ConnectionClosed as end:
            assert end.rcvd is not None, "it ended without a close frame"
            return end.rcvd.code, json.loads(end.rcvd.reason) if end.rcvd.reason else None
    raise AssertionError(f"a frame before the end: {frame!r}")


async def all_heard(client, last):
    """Messages as (topic, data), anything else as it is, up to the message with that data."""
    found = []
    while True:
        message = await client.next()
        plain = set(message) == {"topic", "id", "data"}
        found.append((message["topic"], message["data"]) if plain else message)
        if message.get("data") == last:
            return found
