"""A minute of a server's life, with ups and downs, as the dashboard's panels show it: printed as JSON for draw.cjs."""

import asyncio
import contextlib
import json
import math
import random
import sys
import time

from helpers.grafana import dashboard, legend
from helpers.process import eventually
from helpers.prometheus import Prometheus, filled
from helpers.raw_client import Raw
from helpers.redis_server import Redis
from helpers.server import Server, counter
from helpers.streams import add
from helpers.tokens import token

SECONDS = 70
# Grafana's own rule is four scrapes.
RATE_INTERVAL = "4s"


class Life:
    """Activity at the server, by the seconds since it began."""

    def __init__(self, redis, server):
        self.redis, self.server = redis, server
        self.random, self.begin = random.Random(1), time.monotonic()
        self.clients, self.names = {}, 0
        self.is_up = True

    async def run(self):
        async with asyncio.TaskGroup() as group:
            for part in (self.come_and_go, self.publish, self.refused, self.slow, self.outage):
                group.create_task(part())
        await asyncio.gather(*(connection.close() for connection in self.clients.values()))

    def seconds(self):
        return time.monotonic() - self.begin

    async def ticks(self, pause):
        """The seconds, again and again until it is over."""
        while (now := self.seconds()) < SECONDS:
            yield now
            await asyncio.sleep(pause)

    async def come_and_go(self):
        async for now in self.ticks(0.2):
            wanted = 40 + 8 * min(now, 20) + 120 * math.sin(now / 6) * (now > 12)
            for _ in range(min(20, max(0, int(wanted) - len(self.clients)))):
                await self.come()
            while len(self.clients) > max(wanted, 20) + 10:
                _, connection = self.clients.popitem()
                await connection.close()

    async def come(self):
        self.names += 1
        name = f"user{self.names}"
        connection = self.clients[name] = await self.server.dial(token(name, may=["room.*"]))
        await connection.send(json.dumps({"op": "subscribe", "topic": f"room.{self.names % 9}"}))
        asyncio.get_running_loop().create_task(read(connection))

    async def publish(self):
        async for now in self.ticks(0.1):
            if not self.is_up or not self.clients:
                continue
            for _ in range(int(6 + 4 * math.sin(now / 3))):
                name = self.random.choice(list(self.clients))
                self.server.publish(f"user.{name}", {"order": self.names, "state": "paid"})
            add(self.redis, f"room.{self.random.randrange(9)}", "said in a room")
            # Broadcasts: some all the time, many for some seconds.
            for _ in range(4 if 30 < now < 38 else int(self.random.random() < 0.3)):
                self.server.publish("news", {"text": "x" * self.random.randrange(100, 400)})

    async def refused(self):
        async for now in self.ticks(0.25):
            if 16 < now < 28:
                await self.server.refusal("no token")

    async def slow(self):
        """Clients that read nothing, until they are closed for it."""
        async for now in self.ticks(3):
            if not (18 < now < 32 or 58 < now) or not self.is_up:
                continue
            before = counter(self.server, 'closes_total{code="4000"}')
            with Raw(self.server, receive_buffer=4096) as raw:
                raw.upgrade(token("slow"))
                while counter(self.server, 'closes_total{code="4000"}') == before:
                    # Some at a time: each look is a request, which is counted too.
                    for _ in range(8):
                        self.server.publish("user.slow", "x" * 100_000)
                    await asyncio.sleep(0.25)

    async def outage(self):
        await asyncio.sleep(46)
        self.is_up = False
        self.redis.kill()
        self.server.forget_publisher()
        await asyncio.sleep(5)
        await asyncio.to_thread(self.redis.revive)
        await asyncio.to_thread(self.server.wait_ready)
        self.is_up = True


async def read(connection):
    async for _ in connection:
        pass


def panels(prometheus, begin, end):
    """The dashboard's panels with what Prometheus answers for those seconds."""
    for panel in dashboard()["panels"]:
        lines = []
        for target in panel.get("targets", []):
            expression = filled(target["expr"], interval=RATE_INTERVAL)
            for series in prometheus.query_range(expression, begin, end, 1):
                points = [(at - begin, float(value)) for at, value in series["values"]]
                points = [[at, value] for at, value in points if math.isfinite(value)]
                lines.append({"legend": legend(target, series["metric"]), "points": points})
        defaults = panel.get("fieldConfig", {}).get("defaults", {})
        yield {
            "type": panel["type"], "title": panel["title"], "place": panel["gridPos"],
            "unit": defaults.get("unit"), "lines": lines,
            "stacked": "stacking" in defaults.get("custom", {}),
            "words": {value: option["text"] for mapping in defaults.get("mappings", [])
                      for value, option in mapping["options"].items()},
        }


def main(directory):
    with contextlib.ExitStack() as ends:
        redis = Redis("--appendonly", "yes")
        ends.callback(redis.end)
        server = Server("--topics", "news", "--streams", "pub", "--redis-backoff-ms-max", "500",
                        redis=redis)
        ends.callback(server.stop)
        server.wait_ready()
        prometheus = Prometheus(directory, server)
        ends.callback(prometheus.end)
        eventually(lambda: len(prometheus.query("up")) == 1, "prometheus has scraped the server")
        begin = time.time()
        asyncio.run(Life(redis, server).run())
        # A rate is known from the second scrape on.
        begin, end = begin + 3, begin + SECONDS
        json.dump({"begin": begin, "seconds": end - begin,
                   "panels": list(panels(prometheus, begin, end))}, sys.stdout)


main(sys.argv[1])
