"""Limits over all clients together: `unfinished_total_bytes_max`, `backlog_total_bytes_max`."""

import contextlib
import json

import pytest
from helpers.process import eventually
from helpers.raw_client import TEXT, Raw, frame, head
from helpers.server import counter
from helpers.tokens import token

MIB = 1 << 20


@pytest.mark.one_loop("each has a part of the bound")
async def test_clients_that_leave_messages_unfinished_hold_no_more_than_the_bound(start):
    server = start("--unfinished-total-bytes-max", "4MiB")
    before = server.resident_kilobytes()
    async with server.client("good") as good:
        with contextlib.ExitStack() as ends:
            # Oldest first: each holds 60 KB, in all four times the bound.
            message = frame(TEXT, "x" * 60_000)
            raws = []
            for number in range(280):
                raw = ends.enter_context(Raw(server))
                raw.upgrade(token(f"half{number}"))
                raw.send(message[:-1])
                raws.append(raw)
            eventually(lambda: counter(server, "unfinished_shed_total") >= 200, "the oldest are closed")
            _, code, reason = raws[0].frames_to_close()
            assert code == 4003 and reason["retry"] > 0
            # The sum lies below the bound again, so the latest are still there, and may finish.
            raws[-1].send(message[-1:])
            _, code, _ = raws[-1].frames_to_close()
            assert code == 4502, "a whole message, which is no command"
            assert server.resident_kilobytes() - before < 12 * 1024
            server.publish("user.good", "still here")
            assert await good.heard() == [("user.good", "still here")]
        server.wait_for_log(r"unfinished_total_bytes_max \(4194304 bytes\) is exceeded")


async def test_whoever_holds_less_than_half_of_an_equal_share_is_left_alone(start):
    server = start("--unfinished-total-bytes-max", "1MiB")
    async with server.client("good") as good:
        with contextlib.ExitStack() as ends:
            small = ends.enter_context(Raw(server))
            small.upgrade(token("small"))
            small.send(frame(TEXT, "ping")[:-1])
            heads = ends.enter_context(Raw(server))
            heads.send(head(server, bearer=token("late"))[:-2])
            for number in range(80):
                raw = ends.enter_context(Raw(server))
                raw.upgrade(token(f"half{number}"))
                raw.send(frame(TEXT, "x" * 60_000)[:-1])
            eventually(lambda: counter(server, "unfinished_shed_total") >= 60, "the large ones are closed")
            heads.send(b"\r\n")
            assert heads.answer()[0] == 101
        assert await good.heard() == []


async def test_half_heads_count_and_are_refused_with_503(start):
    server = start("--unfinished-total-bytes-max", "1MiB", "--head-bytes-max", "64KiB")
    async with server.client("good") as good:
        with contextlib.ExitStack() as ends:
            raws = []
            for _ in range(40):
                raw = ends.enter_context(Raw(server))
                raw.send(head(server, bearer="x" * 60_000)[:-1])
                raws.append(raw)
            eventually(lambda: counter(server, "unfinished_shed_total") > 0, "the oldest are refused")
            assert raws[0].answer()[0] == 503
        assert await good.heard() == []


@pytest.mark.one_loop("each has a part of the bound")
async def test_backlogs_in_all_are_bounded_and_the_deepest_are_closed(start):
    server = start("--backlog-total-bytes-max", "16MiB", "--backlog-bytes-max", "64MiB")
    async with server.client("good") as good:
        with contextlib.ExitStack() as ends:
            slow = [ends.enter_context(Raw(server, receive_buffer=4096)) for _ in range(8)]
            for number, raw in enumerate(slow):
                raw.upgrade(token(f"slow{number}"))
            # A second client that does not read, with little queued beyond the kernel's buffer.
            shallow = ends.enter_context(Raw(server, receive_buffer=4096))
            shallow.upgrade(token("shallow"))
            for number in range(160):
                server.publish(f"user.slow{number % 8}", f"{number:05}" * 180_000)
            server.publish("user.shallow", "x" * 100_000)
            eventually(lambda: counter(server, "backlogs_shed_total") > 0, "the deepest are closed")
            assert counter(server, 'closes_total{code="4000"}') == counter(server, "backlogs_shed_total")
            assert server.resident_kilobytes() < 40 * 1024
            opcode, payload = shallow.frame()
            while b'"op"' in payload:
                opcode, payload = shallow.frame()
            assert opcode == TEXT and len(payload) > 100_000
            server.publish("user.good", 1)
            assert await good.heard() == [("user.good", 1)]
        server.wait_for_log(r"backlog_total_bytes_max \(16777216 bytes\) is exceeded")


async def test_a_message_that_many_wait_for_counts_once(start):
    server = start("--backlog-total-bytes-max", "32MiB", "--backlog-bytes-max", "64MiB")
    async with server.client("good", topics=["all"]) as good:
        with contextlib.ExitStack() as ends:
            slow = [ends.enter_context(Raw(server, receive_buffer=4096)) for _ in range(40)]
            for number, raw in enumerate(slow):
                raw.upgrade(token(f"slow{number}", topics=["all"]))
            for number in range(12):
                server.publish("all", f"{number:05}" * 200_000)
                assert (await good.next())["data"][:5] == f"{number:05}"
            # 12 MB for each of 40, and 12 MB in all.
            assert counter(server, "backlogs_shed_total") == 0
            assert counter(server, 'closes_total{code="4000"}') == 0
        assert await good.heard() == []


def listen_to_much(raw, topics=100):
    """Subscribes to topics without another subscriber; the server may have closed the connection."""
    with contextlib.suppress(OSError):
        for number in range(topics):
            name = f"room.{raw.socket.getsockname()[1]}.{number}."
            command = json.dumps({"op": "subscribe", "topic": name.ljust(128, "x")})
            raw.send(frame(TEXT, command))


@pytest.mark.one_loop("each has a part of the bound")
async def test_the_user_whose_memberships_cost_most_makes_room(start):
    server = start("--subscriptions-bytes-max", "1MiB", "--may", "room.*", "--commands-per-second-max", 0)
    async with server.client("good") as good:
        for number in range(50):
            topic = f"room.good.{number}"
            assert (await good.ask(op="subscribe", topic=topic))["op"] == "subscribed"
        with contextlib.ExitStack() as ends:
            raws = []
            for _ in range(80):
                raw = ends.enter_context(Raw(server))
                raw.upgrade(token("greedy"))
                listen_to_much(raw)
                raws.append(raw)
            shed = "memberships_shed_total"
            eventually(lambda: counter(server, shed) > 0, "connections of the greedy one are closed")
            assert counter(server, 'closes_total{code="4003"}') == counter(server, shed)
            async with server.client("late") as late:
                assert (await late.ask(op="subscribe", topic="room.late"))["op"] == "subscribed"
                server.publish("room.late", 1)
                assert await late.heard() == [("room.late", 1)]
            server.publish("room.good.49", 2)
            assert await good.heard() == [("room.good.49", 2)]
        server.wait_for_log(r"subscriptions_bytes_max \(1048576 bytes\) is exceeded")


async def test_memory_max_closes_the_user_who_holds_most_and_lets_others_in(start):
    server = start("--memory-max", "20MiB", "--may", "room.*", "--commands-per-second-max", 0)
    async with server.client("good") as good:
        with contextlib.ExitStack() as ends:
            for _ in range(800):
                try:
                    raw = ends.enter_context(Raw(server))
                    raw.upgrade(token("greedy"))
                except (AssertionError, EOFError, OSError):
                    continue  # refused for the moment
                listen_to_much(raw)
            eventually(lambda: counter(server, "memory_shed_total") > 0, "some are closed")

            def comes_in():
                with Raw(server) as late:
                    late.send(head(server, bearer=token("late")))
                    return late.answer()[0] == 101

            eventually(comes_in, "a newcomer gets in")
            server.publish("user.good", 3)
            assert await good.heard() == [("user.good", 3)]
