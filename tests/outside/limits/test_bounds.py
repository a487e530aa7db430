"""Clients that reach a limit: each gets its answer, and the others notice nothing."""

import asyncio
import contextlib
import json
import statistics
import time

import pytest
from helpers.process import DEADLINE, eventually
from helpers.raw_client import CLOSE, PING, PONG, TEXT, Raw, frame
from helpers.resp_client import Publisher
from helpers.server import counter
from helpers.tokens import token
from websockets.exceptions import ConnectionClosed

# Together more than the kernel's buffers of one connection ever hold (6 MB to send by default).
STUCK_PAYLOAD, STUCK_COUNT_MAX = "x" * 60_000, 2_000


async def test_a_slow_reader_is_closed_and_others_are_not_disturbed(start):
    server = start("--topics", "news", "--backlog-frames-max", 64)
    async with server.client("43") as fast:
        with Raw(server, receive_buffer=4096) as slow:
            slow.upgrade(token("42"))
            sent = 0
            while server.publish("user.42", STUCK_PAYLOAD):
                assert server.publish("news", sent) >= 1
                assert (await fast.next())["data"] == sent
                sent += 1
                assert sent < STUCK_COUNT_MAX, "the slow reader is never closed"
            frames, code, _ = slow.frames_to_close()
            assert code == 4000
            # The messages that it did get are whole and in order, without a hole.
            news = [m["data"] for m in map(json.loads, (payload for _, payload in frames))
                    if m["topic"] == "news"]
            assert news == list(range(len(news)))
            slow.send(frame(CLOSE))
        assert counter(server, 'closes_total{code="4000"}') == 1
        assert await fast.heard() == []


async def test_the_backlog_is_bounded_in_bytes_too(start):
    server = start("--backlog-bytes-max", 300_000)
    async with server.client("43") as bystander:
        with Raw(server, receive_buffer=4096) as slow:
            slow.upgrade(token("42"))
            eventually(lambda: server.publish("user.42", STUCK_PAYLOAD) == 0, "it is closed")
            assert slow.frames_to_close()[1] == 4000
        assert counter(server, 'closes_total{code="4000"}') == 1
        assert await bystander.heard() == []


async def test_a_burst_within_the_bounds_is_delivered_whole(start):
    server = start("--topics", "news")
    async with server.client("42") as client, server.client("43") as bystander:
        for number in range(1000):
            server.publisher.send("PUBLISH", "pub.user.42", number)
        for _ in range(1000):
            assert server.publisher.reply() == 1
        assert await client.heard() == [("user.42", number) for number in range(1000)]
        assert await bystander.heard() == []


async def test_one_that_never_answers_is_pinged_and_closed(start):
    server = start("--ping-seconds", 1, "--silence-seconds", 3)

    def endure():
        with Raw(server) as silent:
            silent.upgrade(token("42"))
            frames, code, _ = silent.frames_to_close()
            return {opcode for opcode, _ in frames}, code

    async with server.client("43") as alive:
        # In a thread: the library answers the other's pings meanwhile.
        assert await asyncio.to_thread(endure) == ({PING}, 4001)
        assert counter(server, "pings_total") >= 2
        assert counter(server, 'closes_total{code="4001"}') == 1
        assert await alive.heard() == []


LIVES = {"pong": frame(PONG), "text": frame(TEXT, "ping"), "ping": frame(PING)}


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES.keys())
def test_any_inbound_byte_counts_as_life(start, life):
    server = start("--ping-seconds", 1, "--silence-seconds", 3)
    with Raw(server) as alive, Raw(server) as silent:
        alive.upgrade(token("1"))
        silent.upgrade(token("2"))
        while (got := silent.frame())[0] == PING:
            alive.send(life)
        assert got[0] == CLOSE
        # It must be there still, and answer; what else came are pings and answers.
        alive.send(frame(PING, "last"))
        while (got := alive.frame()) != (PONG, b"last"):
            assert got[0] != CLOSE, got


async def test_a_single_session_replaces_the_older_one(start, tmp_path):
    config = tmp_path / "oneloop.toml"
    config.write_text('[[route]]\npath = "/ws"\nsingle_session = true\n')
    server = start("--config", config)
    async with server.client("43") as bystander, server.client("42") as older:
        async with server.client("42") as newer:
            assert (await older.closed())[0] == 4503
            assert server.publish("user.42", 1) == 1
            assert await newer.heard() == [("user.42", 1)]
        assert await bystander.heard() == []


@pytest.mark.parametrize("place", ["header", "subprotocol", "query", "frame"])
async def test_a_user_may_have_so_many_connections(start, place):
    server = start("--clients-per-user-max", 2)
    async with server.client("43") as other, server.client("42") as one, server.client("42"):
        with pytest.raises(ConnectionClosed) as end:
            async with server.client("42", place=place) as late:
                # Another loop knows of the others in a moment.
                await late.frame()
        assert end.value.rcvd.code == 4003
        assert json.loads(end.value.rcvd.reason)["retry"] > 0
        assert server.publish("user.42", 1) == 2
        assert await one.heard() == [("user.42", 1)]
        async with server.client("44") as another:
            assert await another.heard() == []
        assert await other.heard() == []
    async with server.client("42") as later:
        assert await later.heard() == []


async def test_an_address_may_have_so_many_connections(start):
    server = start("--clients-per-address-max", 2)
    async with server.client("1") as one:
        async with server.client("2"):
            status, headers, _ = await server.refusal(token("3"))
            assert status == 429
            assert await one.heard() == []
        eventually_admitted(server)
        assert await one.heard() == []


@pytest.mark.one_loop("each has a place at least")
async def test_the_server_has_so_many_clients(start):
    server = start("--clients-max", 2)
    async with server.client("1") as one:
        async with server.client("2"):
            status, headers, body = await server.refusal(token("3"))
            assert status == 503
            assert "retry-after" in headers or "retry" in body
        eventually_admitted(server)
        assert await one.heard() == []


def eventually_admitted(server):
    """A place is free again once the server has seen the other go."""
    def admitted():
        with Raw(server) as raw:
            try:
                raw.upgrade(token("3"))
            except (AssertionError, EOFError, OSError):
                return False
            raw.send(frame(CLOSE))
            return True
    eventually(admitted, "a freed place is given again")


async def test_so_many_handshakes_each_second_and_none_lost(start):
    server = start("--handshakes-per-second-max", 20)
    async with server.many_clients(50) as clients:
        server.publish("user.user7", 1)
        assert await clients[7].heard() == [("user.user7", 1)]
        assert await clients[8].heard() == []
    assert counter(server, "accepts_held_back_total") > 0


async def test_all_that_wait_at_once_are_accepted(start):
    """More at once than `accepts_per_turn`: an accept loop that stops must go on by itself."""
    server = start("--accepts-per-turn", 4)
    sockets = [Raw(server) for _ in range(200)]
    try:
        for number, raw in enumerate(sockets):
            raw.upgrade(token(f"user{number}"))
    finally:
        for raw in sockets:
            raw.socket.close()


async def test_a_broadcast_beyond_the_flush_budget_reaches_all(start):
    server = start("--topics", "news", "--flush-clients-per-turn", 3)
    async with server.many_clients(50) as clients:
        assert server.publish("news", "all") == 50
        for client in clients:
            assert (await client.next())["data"] == "all"
        assert await clients[0].heard() == []


# `PUBLISH` to a topic without a subscriber: its answer is `:0`.
PUBLISH, ANSWER = b"*3\r\n$7\r\nPUBLISH\r\n$10\r\npub.nobody\r\n$1\r\nx\r\n", b":0\r\n"


async def test_a_publisher_that_never_reads_its_answers_stalls_nobody(start):
    # The history counts separately from the publisher.
    server = start("--history-bytes-max", "0")
    block = PUBLISH * 1000
    publisher = Publisher(*server.publishers)
    publisher.socket.settimeout(1)

    def flood():
        """Sends until nothing more is taken; how many bytes were."""
        sent = 0
        with contextlib.suppress(TimeoutError):
            while True:
                sent += publisher.socket.send(block[sent % len(block):])
        return sent

    with contextlib.closing(publisher):
        async with server.client("42") as client:
            before = server.resident_kilobytes()
            flooding = asyncio.create_task(asyncio.to_thread(flood))
            waits = []
            while not flooding.done():
                begun = time.monotonic()
                assert await client.ask(op="ping") == {"op": "pong"}
                waits.append(time.monotonic() - begun)
                await asyncio.sleep(0.03)  # below the bound of commands per second
            # A loop that it stalls answers none of them; one on a busy machine is late now and then.
            assert len(waits) > 1 and statistics.median(waits) < 0.5, waits
            assert server.resident_kilobytes() < before + 4096
            # Nothing was lost: once it reads, it has an answer to each command.
            whole, cut = divmod(await flooding, len(PUBLISH))
            publisher.socket.settimeout(DEADLINE)
            answers = await asyncio.to_thread(publisher.input.read, whole * len(ANSWER))
            assert answers == ANSWER * whole
            publisher.socket.sendall(PUBLISH[cut:] if cut else b"")
            assert not cut or publisher.reply() == 0
            assert publisher.command("PUBLISH", "pub.user.42", "end") == 1
            assert await client.heard() == [("user.42", "end")]


async def test_one_that_pings_and_never_reads_costs_no_memory(start):
    server = start("--backlog-frames-max", 64, "--backlog-bytes-max", 65536)
    async with server.client("43") as bystander:
        before = server.resident_kilobytes()
        with Raw(server, receive_buffer=4096) as raw:
            raw.upgrade(token("42"))
            raw.socket.settimeout(1)
            # It is closed, or no longer read from, or its pings are skipped: all are well.
            with contextlib.suppress(OSError):
                for _ in range(1_000):
                    raw.send(frame(PING, "x" * 125) * 100)
            assert await bystander.heard() == []
            assert server.resident_kilobytes() < before + 4096
