"""Clients on the loops of a server, and the processes of these."""

import asyncio
import contextlib
import re

from helpers.process import DEADLINE
from websockets.exceptions import InvalidStatus

# As many as tests start if they do not say otherwise.
LOOPS = 2


def loop_of(client):
    """The number of the loop, from the name of the connection."""
    # The successors of a loop's first process have names with their number.
    return int(client.welcome["conn"].split("-")[1].split("x")[0])


def processes(server):
    """The latest process of each loop, by its number."""
    return {int(loop): int(pid) for loop, pid in re.findall(r"loop (\d+) is process (\d+)", server.log())}


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextlib.asynccontextmanager
async def on_each_loop(server, sub, loops=LOOPS, **claims):
    """Clients of a user, one on each loop."""
    async with contextlib.AsyncExitStack() as stack:
        found = {}
        async with asyncio.timeout(DEADLINE):
            while len(found) < loops:
                connection = server.client(sub, **claims)
                client = await connection.__aenter__()
                if loop_of(client) in found:
                    # Closed in good order, it is no subscriber any more when this returns.
                    await connection.__aexit__(None, None, None)
                else:
                    stack.push_async_exit(connection)
                    found[loop_of(client)] = client
        yield [found[loop] for loop in sorted(found)]


@contextlib.asynccontextmanager
async def on_loop(server, loop, sub, **options):
    """A client of a user on this loop."""
    async with asyncio.timeout(DEADLINE):
        while True:
            connection = server.client(sub, **options)
            try:
                client = await connection.__aenter__()
            except InvalidStatus as refused:
                # One that was given up here may still count for its address at another loop.
                assert refused.response.status_code == 429
                await asyncio.sleep(0.01)
                continue
            if loop_of(client) == loop:
                break
            # It may have more to read than a close would wait for.
            client.connection.transport.abort()
            await connection.__aexit__(None, None, None)
    try:
        yield client
    finally:
        await connection.__aexit__(None, None, None)
