"""/metrics is read by Prometheus' own parser, follows its conventions, and is true."""

import os
import time

from helpers.process import eventually
from helpers.raw_client import TEXT, Raw, frame
from helpers.streams import STREAM, add, heard
from helpers.tokens import token
from helpers.ws_client import closed
from prometheus_client.parser import text_string_to_metric_families

RESULTS = ("opened", "refused", "rejected", "abandoned")


def families(server):
    status, headers, text = server.admin("/metrics")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return list(text_string_to_metric_families(text))


def samples(server):
    """Each series with its value: (name, labels) → number."""
    found = [sample for family in families(server) for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in found}


def handshakes(server):
    all_of_them = samples(server)
    return [all_of_them["oneloop_handshakes_total", result] for result in RESULTS]


async def test_the_parser_of_prometheus_finds_a_family_for_each_sample(server):
    async with server.client("42"):
        text = server.admin("/metrics")[2]
        found = list(text_string_to_metric_families(text))
        declared = [line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE")]
        assert len(declared) == len(found) == len({name for name, _ in declared})
        series = [(s.name, *sorted(s.labels.items())) for family in found for s in family.samples]
        assert len(series) == len(set(series)) > 60
        for family in found:
            assert family.documentation.endswith("."), family
            assert family.type in ("counter", "gauge", "histogram"), family
            assert family.name.startswith(("oneloop_", "process_")), family
        for name, kind in declared:
            assert name.endswith("_total") == (kind == "counter"), name
            if kind == "histogram":
                assert name.endswith("_seconds"), name
            assert not set(name.split("_")) & {"ms", "millis", "micros", "kb", "mb", "percent"}, name


async def test_the_process_is_described_as_the_kernel_sees_it(server):
    async with server.client("42"):
        found = samples(server)
        process = f"/proc/{server.process.pid}"
        resident = found["process_resident_memory_bytes",]
        assert abs(resident / 1024 - server.resident_kilobytes()) < 512
        assert found["process_max_fds",] == os.sysconf("SC_OPEN_MAX")
        # Kernels from 6.2 on tell the number without a list. The connection that asked may linger.
        if os.stat("/proc/self/fd").st_size > 0:
            listed = len(os.listdir(f"{process}/fd"))
            assert found["process_open_fds",] in (listed, listed + 1)
        else:
            assert "process_open_fds" not in {name for name, *_ in found}
        with open(f"{process}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        assert 0 <= found["process_cpu_seconds_total",] <= cpu
        assert time.time() - 600 < found["process_start_time_seconds",] < time.time() + 5
        assert found["oneloop_build_info", version(found)] == 1


def version(found):
    return next(label for name, *label in found if name == "oneloop_build_info")[0]


async def test_a_handshake_counts_once_by_its_result(server):
    async with server.client("43") as bystander:
        before = handshakes(server)
        assert before == [1, 0, 0, 0]
        await server.refusal("no token")
        async with server.dial("no token", place="query") as connection:
            assert (await closed(connection))[0] == 4500
        with Raw(server) as raw:
            raw.send(b"GET /ws HT")
        eventually(lambda: handshakes(server)[3] == 1, "it was given up")
        assert handshakes(server) == [1, 1, 1, 1]
        assert samples(server)["oneloop_handshakes_under_way",] == 0
        # The operator's own requests are none.
        assert await bystander.heard() == []


async def test_what_waits_for_clients_is_counted(start):
    server = start("--topics", "news", "--backlog-bytes-max", "64MiB")
    async with server.client("43") as bystander:
        idle = samples(server)
        # A small buffer, so that what is sent waits in the server.
        with Raw(server, receive_buffer=4096) as slow:
            slow.upgrade(token("42"))
            for _ in range(20):
                server.publish("user.42", "x" * 1_000_000)
            full = samples(server)
            assert full["oneloop_backlog_frames",] > idle["oneloop_backlog_frames",]
            waits = full["oneloop_backlog_bytes",] - idle["oneloop_backlog_bytes",]
            assert 5_000_000 < waits < 22_000_000
            assert full["oneloop_memory_bytes", "backlogs"] == full["oneloop_backlog_bytes",]

        def is_empty():
            return samples(server)["oneloop_backlog_bytes",] <= idle["oneloop_backlog_bytes",]

        eventually(is_empty, "nothing waits any more")
        assert await bystander.heard() == []


async def test_what_clients_leave_unfinished_is_counted(server):
    async with server.client("43") as bystander:
        with Raw(server) as raw:
            raw.upgrade(token("42"))
            raw.send(frame(TEXT, "x" * 30_000)[:20_000])
            eventually(
                lambda: samples(server)["oneloop_unfinished_bytes",] >= 19_000, "it is counted"
            )
            assert samples(server)["oneloop_memory_bytes", "unfinished"] < 70_000
        eventually(lambda: samples(server)["oneloop_unfinished_bytes",] == 0, "it is gone")
        assert await bystander.heard() == []


async def test_memory_of_connections_is_told_while_there_are_any(server):
    name = "oneloop_memory_bytes_per_connection",
    assert name not in samples(server)
    async with server.many_clients(300):
        found = samples(server)
        assert found["oneloop_clients",] == 300
        grown = found[name] * 300
        # Far from what one costs: pages of slots and the first of everything are in it.
        assert 0 < grown < found["process_resident_memory_bytes",]
        assert found["oneloop_memory_bytes", "slots"] >= 300 * 40
        assert found["oneloop_memory_bytes", "memberships"] >= 600 * 24


async def test_the_age_of_entries_is_measured(start, redis):
    server = start(*STREAM, redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        add(redis, "user.42", 1)
        assert await heard(redis, client) == [("user.42", 1)]
        found = samples(server)
        assert found["oneloop_stream_lag_seconds_count",] == 2
        assert found["oneloop_stream_lag_seconds_sum",] < 60
        assert await heard(redis, bystander) == []


async def test_an_entry_with_an_id_of_its_own_is_as_old_as_can_be(start, redis):
    redis.command("XADD", "pub", "1-1", "topic", "user.42", "data", "0")
    server = start(*STREAM, redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        redis.command("XADD", "pub", "1-2", "topic", "user.42", "data", "1")
        assert (await client.next())["data"] == 1
        found = samples(server)
        assert found["oneloop_stream_lag_seconds_sum",] == 86_400
        assert await heard(redis, bystander) == []
