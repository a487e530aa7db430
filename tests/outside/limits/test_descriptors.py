"""Descriptors run out: accepting rests, those who are there notice nothing, and it goes on."""

import asyncio
import contextlib
import os
import resource

import pytest
from helpers.process import eventually, oneloop_under
from helpers.raw_client import Raw, head
from helpers.resp_client import Publisher
from helpers.server import counter
from helpers.tokens import token

CLIENTS = 32
# Descriptors reserved for everything else, and for publishers by default.
RESERVE = 64 + 64


def under(descriptors):
    return ["prlimit", f"--nofile={descriptors}:{descriptors}"]


@pytest.mark.one_loop("each process has so many descriptors")
async def test_the_descriptor_limit_bounds_the_clients(start):
    server = start(wrapper=under(CLIENTS + RESERVE))
    async with server.client("43") as bystander, server.many_clients(CLIENTS - 1) as crowd:
        assert (await server.refusal(token("late")))[0] == 503
        # Far more than there are descriptors: each is answered or dropped, and takes nothing from the others.
        with contextlib.ExitStack() as ends:
            for _ in range(4 * CLIENTS):
                ends.enter_context(Raw(server))
            with contextlib.closing(Publisher(*server.publishers)) as publisher:
                assert publisher.command("PUBLISH", "pub.user.user7", 7) == 1
            assert await crowd[7].heard() == [("user.user7", 7)]
            refused = 'http_responses_total{status="503"}'
            eventually(lambda: counter(server, refused) > 4 * CLIENTS - 40, "those who came last make the others go")
            assert counter(server, "descriptors_exhausted_total") == 0
        assert await bystander.heard() == []


@pytest.mark.one_loop("each process has so many descriptors")
def test_more_clients_than_descriptors_are_named(start):
    server = start("--clients-max", 1000, wrapper=under(CLIENTS + RESERVE))
    server.wait_for_log(f"clients_max is 1000.*room for {CLIENTS} clients.*ulimit -n")


def test_no_room_for_any_client_is_named():
    done = oneloop_under(under(RESERVE), "--listen", "127.0.0.1:0", "--publishers", "127.0.0.1:0")
    assert done.returncode == 2 and "ulimit -n" in done.stderr, done


class Operator:
    """A connection to the admin listener that is made long before it asks."""

    def __init__(self, server):
        host, _, port = server.line("admin").removeprefix("http://").rstrip("/").rpartition(":")
        self.raw = Raw(server, address=(host, int(port)))

    def metrics(self):
        with self.raw as raw:
            raw.send(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
            while raw.more():
                pass
            return raw.input.decode()


def knock(server, ends):
    raw = ends.enter_context(Raw(server))
    raw.send(head(server, bearer=token("many")))
    return raw


@pytest.mark.one_loop("each process has so many descriptors")
async def test_without_a_descriptor_accepting_rests_and_goes_on(start):
    server = start("--head-seconds", 300)
    with contextlib.ExitStack() as ends:
        async with server.client("43") as bystander, server.client("44") as other:
            operators = [Operator(server) for _ in range(2)]
            assert server.publish("user.nobody", 1) == 0
            descriptors = f"/proc/{server.process.pid}/fd"
            before = len(os.listdir(descriptors))
            turns = counter(server, "turns_total")
            # A descriptor that is freed later would let a client in.
            eventually(lambda: len(os.listdir(descriptors)) == before, "that connection is gone")
            held = max(map(int, os.listdir(descriptors))) + 1
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (held, held))
            # Some descriptors below that are free; a connection beyond them is answered on the spare one.
            statuses = [101]
            while statuses[-1] == 101:
                statuses.append(knock(server, ends).answer()[0])
                assert len(statuses) < 50
            assert statuses[-1] == 503
            # Further ones wait, and are told so one by one. Not for luck: whether it spins meanwhile is what is tested.
            for _ in range(2):
                assert (await asyncio.to_thread(knock(server, ends).answer))[0] == 503
            assert server.publish("user.43", "meanwhile") == 1
            assert await bystander.heard() == [("user.43", "meanwhile")]
            text = operators[0].metrics()
            assert counter(server, "descriptors_exhausted_total", text) == 3
            assert counter(server, "turns_total", text) < turns + 100
            # The operator's descriptor is free again: the next one is let in at once, and the one after it is not.
            assert knock(server, ends).answer()[0] == 101
            waiting = knock(server, ends)
            await other.connection.close()
            assert waiting.answer()[0] in (101, 503)
            operators[1].raw.socket.close()
            assert await bystander.heard() == []
