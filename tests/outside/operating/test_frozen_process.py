"""A process that was stopped closes no client for silence meanwhile."""

import asyncio
import signal


async def test_a_frozen_server_pings_before_it_calls_anyone_silent(start):
    server = start("--ping-seconds", 1, "--silence-seconds", 3)
    async with server.client("42") as client, server.client("43") as bystander:
        server.signal(signal.SIGSTOP)
        # Not for luck: the test is a pause longer than the silence that is allowed.
        await asyncio.sleep(5)
        server.signal(signal.SIGCONT)
        server.publish("user.42", "awake")
        assert await client.heard() == [("user.42", "awake")]
        assert await bystander.heard() == []
