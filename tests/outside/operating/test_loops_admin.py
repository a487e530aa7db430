"""The admin listener of several loops: one server in its sums, and each loop beside them."""

import contextlib
import json
import os
import re
import signal

import pytest
from helpers.process import eventually, oneloop, run
from helpers.raw_client import Raw
from helpers.tokens import token
from prometheus_client.parser import text_string_to_metric_families

LOOPS = ("0", "1")


def samples(server):
    """Each series with its value: (name, labels) → number."""
    text = server.admin("/metrics")[2]
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in found}


def workers(server):
    pid = server.process.pid
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return [int(child) for child in children.read().split()]


def of_each(found, name):
    return [found.get((f"oneloop_loop_{name}", loop)) for loop in LOOPS]


def whole(server):
    """The server, once both loops answer."""
    eventually(lambda: of_each(samples(server), "up") == [1, 1], "both loops answer")
    return server


@pytest.fixture
def server(start):
    return whole(start("--loops", "2", "--topics", "news"))


async def test_the_sums_are_those_of_all_loops_and_each_is_shown(server):
    async with server.many_clients(30), server.client("42") as client:
        found = samples(server)
        assert found["oneloop_clients",] == 31 == sum(of_each(found, "clients"))
        assert of_each(found, "up") == [1, 1] and of_each(found, "restarts_total") == [0, 0]
        assert found["oneloop_loop_clients", "parent"] == 0 == found["oneloop_publishers",]
        resident = [*of_each(found, "resident_memory_bytes"),
                    found["oneloop_loop_resident_memory_bytes", "parent"]]
        assert all(1 << 20 < each < 1 << 26 for each in resident)
        assert found["process_resident_memory_bytes",] == sum(resident)
        assert all(turns > 0 for turns in of_each(found, "turn_seconds_count"))
        before = found
        server.publish("user.42", 1)
        assert (await client.next())["data"] == 1

        def came():
            found = samples(server)
            grown = [found[name,] - before[name,]
                     for name in ("oneloop_messages_total", "oneloop_deliveries_total")]
            return grown == [1, 1]

        eventually(came, "a message counts once, though each loop sees it")


async def test_promtool_and_the_parser_find_nothing_to_mend(server):
    async with server.many_clients(3):
        text = server.admin("/metrics")[2]
    done = run("promtool", "check", "metrics", input=text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    families = list(text_string_to_metric_families(text))
    assert len(families) == len({family.name for family in families}) > 60
    series = [(s.name, *sorted(s.labels.items())) for family in families for s in family.samples]
    assert len(series) == len(set(series))


async def test_counts_outlive_a_loop_and_its_successor_is_shown(server):
    async with server.many_clients(20):
        before = samples(server)
        os.kill(workers(server)[0], signal.SIGKILL)
        eventually(lambda: sum(of_each(samples(server), "restarts_total")) == 1, "it is replaced")
        eventually(lambda: of_each(samples(server), "up") == [1, 1], "its successor answers")
        after = samples(server)
        assert after["oneloop_opened_total",] >= before["oneloop_opened_total",]
        assert after["process_cpu_seconds_total",] >= before["process_cpu_seconds_total",]
        assert after["oneloop_clients",] == sum(of_each(after, "clients"))
    assert server.admin("/readyz")[0] == 200


async def test_a_loop_that_stands_still_is_marked_and_holds_up_nobody(server):
    worker = workers(server)[1]
    os.kill(worker, signal.SIGSTOP)
    try:
        # Answered while it stands still: nobody waits for it.
        found = samples(server)
        assert sorted(of_each(found, "up")) == [0, 1]
        assert None not in of_each(found, "clients"), "the latest values are kept"
        assert json.loads(server.admin("/clients")[2]) == {"clients": [], "incomplete": True}
        assert server.admin("/readyz")[0] == server.admin("/healthz")[0] == 200
    finally:
        os.kill(worker, signal.SIGCONT)
    eventually(lambda: of_each(samples(server), "up") == [1, 1], "it goes on")
    assert json.loads(server.admin("/clients")[2]) == {"clients": []}


async def test_the_deepest_backlogs_of_all_loops_are_listed(start):
    server = whole(start("--loops", "2", "--backlog-bytes-max", "64MiB"))
    with contextlib.ExitStack() as ends:
        slow = [ends.enter_context(Raw(server, receive_buffer=4096)) for _ in range(12)]
        for number, client in enumerate(slow):
            client.upgrade(token(f"slow{number}"))
        for number in range(len(slow)):
            for _ in range(20 + number):
                server.publish(f"user.slow{number}", "x" * 200_000)

        def told():
            clients = json.loads(server.admin("/clients")[2])["clients"]
            return clients if len(clients) == 10 else None

        clients = eventually(told, "ten are listed")
        sizes = [client["bytes"] for client in clients]
        assert sizes == sorted(sizes, reverse=True) and min(sizes) > 1_000_000
        assert len({client["conn"] for client in clients}) == 10


async def test_top_has_a_line_for_each_loop(server):
    async with server.many_clients(4):
        done = oneloop("top", "--once", "--admin", server.line("admin"))
    assert done.returncode == 0 and done.stderr == ""
    assert re.search(r"^  clients +4 open ", done.stdout, re.MULTILINE)
    rows = re.findall(r"^  (parent|0|1) +(\d+) clients   [\d,]+ %   [\d.]+ MB   \S+( ms)? p99   0 restarts$",
                      done.stdout, re.MULTILINE)
    assert [row[0] for row in rows] == ["parent", *LOOPS], done.stdout
    assert sum(int(row[1]) for row in rows) == 4
