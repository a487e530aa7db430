"""Twenty seconds of every fault that a Redis has, under publishing, and the ledger afterwards."""

import asyncio
import os
import random

from helpers.outage_check import QUICK, ups
from helpers.publisher_ledger import PublisherLedger
from helpers.redis_faults import USER, RedisFaults
from helpers.tcp_proxy import TcpProxy

SECONDS = 20
CLIENTS = 20


async def test_a_storm_costs_nothing_outside_of_its_gaps(start, start_redis):
    """Each message that Redis passed on reaches its subscribers once, in order, or lies in a gap."""
    seed = int(os.environ.get("ONELOOP_STORM_SEED") or random.randrange(2**32))
    print(f"ONELOOP_STORM_SEED={seed}")
    redises = [start_redis("--user", *USER) for _ in range(2)]
    with TcpProxy(redises[0]) as proxy:
        url = f"redis://push:pass@127.0.0.1:{proxy.port}"
        server = start("--redis", url, "--topics", "news", *QUICK, redis=proxy)
        async with server.many_clients(CLIENTS) as clients:
            before, resident = ups(server), server.resident_kilobytes()
            listeners = [asyncio.create_task(listen(client)) for client in clients]
            faults = RedisFaults(seed, server, proxy, redises)
            # The last client has nothing of its own: a bystander.
            ledger = PublisherLedger(proxy, [client.sub for client in clients[:-1]])
            try:
                with ledger:
                    await asyncio.to_thread(faults.run, SECONDS)
                for client in clients:
                    assert server.publish(f"user.{client.sub}", "the end") == 1
                heard = await asyncio.gather(*listeners)
            finally:
                for listener in listeners:
                    listener.cancel()
            gaps = ups(server) - before
            assert [one.count("gap") for one in heard] == [gaps] * CLIENTS
            lost = ledger.check({client.sub: one for client, one in zip(clients, heard)})
            answers, more = ledger.answers, server.resident_kilobytes() - resident
            print(f"{len(faults.seen)} faults: {' '.join(faults.seen)}\n"
                  f"{len(answers)} messages: {answers.count(0)} to nobody, {answers.count(None)} not "
                  f"said; {sum(map(len, heard))} heard, {lost} lost in {gaps} gaps; {more} KB more")


async def listen(client):
    """The messages of a client up to the end: numbers, and gaps."""
    heard = []
    while (message := await client.next()).get("data") != "the end":
        heard.append(message["data"] if "data" in message else message["op"])
    return heard
