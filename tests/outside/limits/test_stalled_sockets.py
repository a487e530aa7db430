"""A client whose socket takes nothing: closed with 4000 in time, and the kernel keeps nothing of it."""

import json
import time

from pathlib import Path

from helpers.process import eventually
from helpers.raw_client import TEXT, Raw, frame, head
from helpers.server import counter
from helpers.tokens import token

# Well above the kernel's buffers of one connection, below `backlog_bytes_max`.
PAYLOAD = "x" * 300_000


def send_queue(server, raw):
    """Bytes in the server's send queue for that client; None once there is no such socket, not even a closed one."""
    ours, theirs = (f":{port:04X}" for port in (server.address[1], raw.socket.getsockname()[1]))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if local.endswith(ours) and remote.endswith(theirs):
            return int(queues.split(":")[0], 16)
    return None


def stalled(server):
    return counter(server, "stalled_total")


async def test_a_client_that_takes_nothing_is_closed_and_reset(start):
    server = start("--stalled-seconds", 1)
    async with server.client("other") as bystander:
        with Raw(server, receive_buffer=4096) as raw:
            raw.upgrade(token("deaf"))
            for number in range(2):
                assert server.publish("user.deaf", PAYLOAD) == 1
            eventually(lambda: stalled(server) == 1, "it is given up")
            assert counter(server, 'closes_total{code="4000"}') == 1
            # The socket was never closed on this side, so what waits there could have stayed for minutes.
            eventually(lambda: send_queue(server, raw) is None, "the kernel let go")
            eventually(lambda: counter(server, "clients") == 1, "its place is free")
        assert await bystander.heard() == []


async def test_answering_pings_does_not_save_a_client_that_takes_nothing(start):
    server = start("--stalled-seconds", 2)
    with Raw(server, receive_buffer=4096) as raw:
        raw.upgrade(token("deaf"))
        for _ in range(2):
            server.publish("user.deaf", PAYLOAD)

        def given_up():
            raw.send(frame(10, b"still here"))
            return stalled(server) == 1

        eventually(given_up, "it is given up")


async def test_a_replay_that_nobody_reads_has_an_end(start):
    server = start("--stalled-seconds", 1)
    async with server.client("deaf") as before, server.client("other") as bystander:
        server.publish("user.deaf", 0)
        since = (await before.next())["id"]
        for _ in range(10):
            server.publish("user.deaf", PAYLOAD)
            await before.next()
        with Raw(server, receive_buffer=4096) as raw:
            raw.send(head(server, path=f"/ws?since={since}", bearer=token("deaf")))
            eventually(lambda: stalled(server) == 1, "it is given up")
            eventually(lambda: send_queue(server, raw) is None, "the kernel let go")
        assert await bystander.heard() == []


async def test_whoever_reads_a_little_all_the_time_stays(start):
    server = start("--stalled-seconds", 2)
    with Raw(server, receive_buffer=4096) as raw:
        raw.upgrade(token("slow"))
        for _ in range(3):
            server.publish("user.slow", PAYLOAD)
        # Three times as long as a full socket is waited for.
        until = time.monotonic() + 6
        while time.monotonic() < until:
            raw.take(10_000)
            time.sleep(0.1)
        assert stalled(server) == 0
        raw.send(frame(TEXT, '{"op":"ping"}'))


async def test_the_kernel_takes_no_more_than_the_setting(start):
    server = start("--send-buffer-bytes", "16KiB", "--stalled-seconds", 0)
    with Raw(server, receive_buffer=4096) as raw:
        raw.upgrade(token("deaf"))
        for _ in range(3):
            server.publish("user.deaf", PAYLOAD)
        eventually(lambda: send_queue(server, raw), "something waits")
        assert send_queue(server, raw) <= 2 * 16 * 1024
        # A frame that is larger than the buffer comes whole nevertheless.
        for _ in range(3):
            opcode, payload = raw.frame()
            assert (opcode, json.loads(payload)["data"]) == (TEXT, PAYLOAD)
