"""The end: SIGTERM sends every client away with a slot of its own, and it never takes too long."""

import asyncio
import os
import signal
import subprocess

import pytest
from helpers.process import BINARY, DEADLINE, environment, eventually, oneloop
from helpers.raw_client import Raw
from helpers.server import counter
from helpers.tokens import SECRET, token

# More than the kernel's buffers of one connection ever hold.
STUCK_BYTES, STUCK_PAYLOAD = 24_000_000, "x" * 240_000
DEEP = ["--backlog-frames-max", 100_000, "--backlog-bytes-max", "64MiB"]


def stuck_client(server, sub="stuck"):
    """A client with a backlog that it never reads."""
    raw = Raw(server, receive_buffer=4096)
    raw.upgrade(token(sub))
    for _ in range(STUCK_BYTES // len(STUCK_PAYLOAD)):
        assert server.publish(f"user.{sub}", STUCK_PAYLOAD) == 1
    return raw


@pytest.mark.parametrize("count, per_second", [(20, 10), (200, 100)])
async def test_every_client_is_sent_away_with_a_slot_of_its_own(start, count, per_second):
    server = start("--drain-seconds", 10, "--drain-per-second", per_second)
    async with server.many_clients(count) as clients:
        server.signal()
        retries = []
        for client in clients:
            code, reason = await client.closed()
            assert code == 1001
            assert set(reason) == {"retry"}
            retries.append(reason["retry"])
        first, apart = min(retries), 1000 // per_second
        assert 0 <= first <= apart
        assert sorted(retries) == list(range(first, first + count * apart, apart))
    assert await asyncio.to_thread(server.process.wait, DEADLINE) == 0


async def test_what_was_published_before_is_still_delivered(start):
    server = start("--drain-seconds", 10)
    async with server.client("42") as client, server.client("43") as bystander:
        for number in range(200):
            server.publish("user.42", number)
        server.signal()
        assert [(await client.next())["data"] for _ in range(200)] == list(range(200))
        assert (await client.closed())[0] == 1001
        assert (await bystander.closed())[0] == 1001


async def test_with_nobody_there_it_ends_at_once(start):
    server = start("--drain-seconds", 3600)
    server.signal()
    assert await asyncio.to_thread(server.process.wait, DEADLINE) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
async def test_new_connections_are_refused_meanwhile(start, number):
    server = start("--drain-seconds", 3, *DEEP)
    with stuck_client(server):
        async with server.client("43") as client:
            server.signal(number)
            assert (await client.closed())[0] == 1001
        # Every client, the one that does not read too.
        assert counter(server, 'closes_total{code="1001"}') == 2
        assert server.process.poll() is None
        with pytest.raises(OSError):
            async with server.dial(token()):
                pass
        assert await asyncio.to_thread(server.process.wait, DEADLINE) == 0


async def test_a_client_that_never_reads_is_cut_in_the_end(start):
    server = start("--drain-seconds", 1, *DEEP)
    with stuck_client(server), Raw(server) as silent, Raw(server):
        silent.upgrade(token())  # reads nothing and answers nothing from now on
        server.signal()
        assert await asyncio.to_thread(server.process.wait, DEADLINE) == 0


async def test_a_second_signal_ends_it_at_once(start):
    server = start("--drain-seconds", 3600, *DEEP)
    with stuck_client(server):
        async with server.client("43") as client:
            server.signal()
            assert (await client.closed())[0] == 1001
        assert server.process.poll() is None
        server.signal()
        await asyncio.to_thread(server.process.wait, DEADLINE)
        assert "panicked" not in server.log()
        server.process.returncode = 0  # of a hasty end nothing is promised


async def test_readyz_is_red_while_it_drains(start):
    server = start("--drain-seconds", 3, *DEEP)
    with stuck_client(server):
        async with server.client("43") as client:
            server.signal()
            assert (await client.closed())[0] == 1001
        try:
            assert not server.ready()
        except OSError:
            pass  # closed as well: no balancer takes that for ready
        await asyncio.to_thread(server.process.wait, DEADLINE)


def test_an_address_in_use_ends_it_with_status_1(start):
    server = start()
    for flag in ["--listen", "--publishers", "--admin"]:
        addresses = {"--listen": "127.0.0.1:0", "--publishers": "127.0.0.1:0"}
        addresses[flag] = server.host
        done = oneloop(*[word for pair in addresses.items() for word in pair])
        assert done.returncode == 1
        assert server.host in done.stderr, done.stderr
        assert "panicked" not in done.stderr


def test_a_log_that_nobody_reads_blocks_nothing(tmp_path):
    """Its stderr is a full pipe; it must still serve and end."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * 65536)
    except BlockingIOError:
        pass
    os.set_blocking(write, True)
    output = tmp_path / "out"
    with output.open("wb") as out:
        process = subprocess.Popen(
            [BINARY, "--listen", "127.0.0.1:0", "--publishers", "127.0.0.1:0", "--log", "debug"],
            stdout=out, stderr=write, env=environment(ONELOOP_JWT_SECRET=SECRET))
    try:
        eventually(lambda: "try" in output.read_text(), "it starts with a full log")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(read)
        os.close(write)


async def test_a_signal_of_log_rotation_harms_nobody(start):
    server = start()
    async with server.client("42") as client, server.client("43") as bystander:
        server.signal(signal.SIGUSR1)
        eventually(lambda: "has no meaning" in server.log(), "the line in the log")
        assert server.publish("user.42", 1) == 1
        assert (await client.next())["data"] == 1
        assert await bystander.heard() == []
