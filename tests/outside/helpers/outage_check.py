"""Clients over an outage of Redis: each gets one `gap`, and every message outside of it in order, once."""

import asyncio
import contextlib
import re

from helpers.process import brief, eventually

# With these an outage is noticed within two seconds, and over 100 ms after Redis is back at most.
QUICK = ["--redis-silence-seconds", 1, "--redis-timeout-seconds", 1, "--redis-backoff-ms-max", 100]


def ups(server):
    """The number of times that the subscription at Redis came up."""
    return int(re.search(r"^oneloop_source_ups_total (\d+)$", server.admin("/metrics")[2], re.M)[1])


class Audience:
    """Clients with messages of their own, and one more, the bystander, who must get none."""

    def __init__(self, server, clients, nodes):
        self.server, (self.bystander, *self.clients) = server, clients
        self.ups, self.number, self.nodes = ups(server), 0, nodes

    def publish(self, rounds=3):
        """Publishes to each client in turn, and returns the messages that each must receive."""
        expected = {client: [] for client in self.clients}
        for _ in range(rounds):
            for client in self.clients:
                self.number += 1
                assert self.server.publish(f"user.{client.sub}", self.number) == self.nodes
                expected[client].append((f"user.{client.sub}", self.number))
        return expected

    async def hears(self, gaps=0, before=None):
        """Checks that each client receives the messages of `before`, `gaps` gaps, and new messages."""
        expected = self.publish()
        for client in self.clients:
            said = (before or {}).get(client, [])
            heard = await client.heard()
            plain = [one["op"] if isinstance(one, dict) else one for one in heard]
            assert plain == said + ["gap"] * gaps + expected[client], heard
        heard = await self.bystander.heard()
        assert [one["op"] for one in heard] == ["gap"] * gaps, heard

    async def is_served(self):
        """While Redis is away: red, alive, and there for its clients."""
        await asyncio.to_thread(self.server.wait_ready, False)
        assert self.server.admin("/healthz")[0] == 200
        for client in [self.bystander, *self.clients]:
            assert await client.ask(op="ping") == {"op": "pong"}

    async def is_back(self, outages=1):
        """Waits until the subscription came up `outages` times since the last call."""
        self.ups += outages
        await asyncio.to_thread(
            eventually, lambda: ups(self.server) >= self.ups, f"the link is up {self.ups} times")
        assert self.server.ready() and self.server.admin("/healthz")[0] == 200


@contextlib.contextmanager
def about(what):
    """A failure in here says what it is about."""
    try:
        yield
    except AssertionError as error:
        error.add_note(f"about {brief(what)}")
        raise


@contextlib.asynccontextmanager
async def audience(server, count=4, nodes=1):
    """`nodes`: the servers that subscribe where this one does."""
    async with server.many_clients(count) as clients:
        audience = Audience(server, clients, nodes)
        await audience.hears()
        yield audience
        # No client was disconnected, and the subscription was never lost unnoticed.
        assert ups(server) == audience.ups
        await audience.hears()
