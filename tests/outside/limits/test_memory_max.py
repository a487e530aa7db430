"""`memory_max`: one limit for all memory of the process, for every kind of client."""

import asyncio
import contextlib
import re
import threading
import time

import pytest
from helpers.process import eventually
from helpers.raw_client import TEXT, Raw, frame, head
from helpers.server import counter
from helpers.tokens import token

MIB = 1 << 20
CEILING = 48 * MIB


@contextlib.contextmanager
def watched(server):
    """Looks at the resident memory all the time; yields a list whose only element is the most that was seen."""
    most, over = [0], threading.Event()

    def watch():
        while not over.is_set():
            most[0] = max(most[0], server.resident_kilobytes() * 1024)
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def slow_reader(server, sub):
    """A client that is welcomed and then reads nothing."""
    raw = Raw(server, receive_buffer=4096)
    raw.upgrade(token(sub))
    return raw


@pytest.mark.one_loop("each has a part of the memory")
async def test_a_hostile_mix_stays_below_the_ceiling_and_who_behaves_misses_nothing(start):
    server = start("--topics", "news", "--memory-max", "48MiB", "--backlog-bytes-max", "64MiB")
    async with server.client("good") as good:
        with watched(server) as most, contextlib.ExitStack() as ends:
            slow = [ends.enter_context(slow_reader(server, f"slow{number}")) for number in range(30)]
            # Half a message each, which is never finished.
            half = frame(TEXT, "x" * 60_000)[:-1]
            for number in range(400):
                raw = ends.enter_context(Raw(server))
                with contextlib.suppress(EOFError, AssertionError, OSError):
                    raw.upgrade(token(f"half{number}"))
                    raw.send(half)
            # Half a head each.
            for number in range(200):
                raw = ends.enter_context(Raw(server))
                with contextlib.suppress(OSError):
                    raw.send(head(server, bearer="x" * 7000)[:-1])
            expected = []
            # In all ten times the ceiling, and for each more than the kernel takes over for a client that does not read.
            for number in range(len(slow) * 20):
                # Of its own for each: a frame that many share is held once.
                payload = f"{number:05}" * 180_000
                server.publish(f"user.slow{number % len(slow)}", payload)
                server.publish("user.good", {"number": number})
                expected.append(("user.good", {"number": number}))
            assert await good.heard() == expected
            metrics = server.admin("/metrics")[2]
            assert int(re.search(r"oneloop_memory_shed_total (\d+)", metrics)[1]) > 0
            assert int(re.search(r"oneloop_memory_exceeded_total (\d+)", metrics)[1]) > 0
            assert server.process.poll() is None
        assert most[0] <= CEILING * 1.1, f"{most[0] / MIB:.1f} MiB"
        assert most[0] >= CEILING * 0.7, "the ceiling was never near"
        server.wait_for_log(r"memory_max \(50331648 bytes\) is exceeded")

        # New clients are let in again after those have gone.
        def let_in():
            with contextlib.suppress(AssertionError, EOFError, OSError), Raw(server) as raw:
                return raw.upgrade(token("late"))
        eventually(let_in, "a new client is let in")
        assert await good.heard() == []


async def test_whoever_is_shed_is_told_to_come_back(start):
    server = start("--memory-max", "24MiB", "--backlog-bytes-max", "64MiB", "--send-buffer-bytes", "64KiB")
    async with server.client("bystander") as bystander:
        with Raw(server, receive_buffer=4096) as slow:
            slow.upgrade(token("slow"))
            # Not beyond its close: one that is closed and does not read is cut off when memory is short again.
            eventually(lambda: server.publish("user.slow", "x" * 500_000) == 0, "the backlog is closed")
            assert counter(server, 'closes_total{code="4003"}') == 1
            frames, code, reason = await asyncio.to_thread(slow.frames_to_close)
            assert code == 4003 and reason["retry"] > 0
            assert len(frames) <= 1, "no more than what was on the wire in part"
        assert await bystander.heard() == []


def test_without_the_setting_nothing_is_shed(server):
    with Raw(server, receive_buffer=4096) as slow:
        slow.upgrade(token("slow"))
        assert server.publish("user.slow", "x" * 1_000_000) == 1
        metrics = server.admin("/metrics")[2]
        assert "oneloop_memory_exceeded_total 0" in metrics
