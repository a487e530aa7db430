"""Several loops are one server: from outside nobody can tell which of them a client is at."""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
from helpers.loops import LOOPS, is_alive, loop_of, on_each_loop, on_loop, processes
from helpers.process import DEADLINE, eventually, oneloop
from helpers.resp_client import Publisher
from helpers.server import counter
from helpers.systemd import Supervisor, variables
from helpers.tokens import token
from websockets.exceptions import ConnectionClosed

TOPICS = ["--topics", "news"]


async def test_a_message_reaches_the_clients_of_all_loops_and_nobody_else(start_loops):
    server = start_loops(*TOPICS)
    async with on_each_loop(server, "42") as clients, on_each_loop(server, "43") as bystanders:
        assert server.publish("user.42", {"n": 1}) == LOOPS
        assert server.publish("news", [2]) == 2 * LOOPS
        assert server.publish("user.44", 3) == 0
        for client in clients:
            assert (await client.next())["data"] == {"n": 1}
            assert (await client.next())["data"] == [2]
        for bystander in bystanders:
            assert (await bystander.next())["data"] == [2]


async def test_pipelined_publishers_are_told_the_receivers_on_all_loops_in_order(start_loops):
    server = start_loops(*TOPICS)
    count = 3000
    async with on_each_loop(server, "42") as clients:
        with contextlib.closing(Publisher(*server.publishers)) as publisher:
            for number in range(count):
                publisher.send("PUBLISH", "pub.user.42" if number % 3 else "pub.user.7", str(number))
                if number % 100 == 0:
                    publisher.send("PING")
            for number in range(count):
                assert publisher.reply() == (LOOPS if number % 3 else 0), number
                if number % 100 == 0:
                    assert publisher.reply() == "+PONG"
            publisher.send("MULTI")
            publisher.send("PUBLISH", "pub.user.42", '"last"')
            publisher.send("PING")
            publisher.send("EXEC")
            assert [publisher.reply() for _ in range(4)] == ["+OK", "+QUEUED", "+QUEUED", [LOOPS, "+PONG"]]
        for client in clients:
            expected = [number for number in range(count) if number % 3] + ["last"]
            assert [(await client.next())["data"] for _ in expected] == expected


@pytest.mark.over_tls
async def test_with_redis_all_loops_hear_it(start_loops, redis):
    server = start_loops(*TOPICS, redis=redis)
    async with on_each_loop(server, "42") as clients, on_each_loop(server, "43") as bystanders:
        for number in range(100):
            assert server.publish("user.42", number) == 1, "Redis counts subscriptions"
        for client in clients:
            assert [(await client.next())["data"] for _ in range(100)] == list(range(100))
            assert await client.heard() == [] if loop_of(client) == 0 else True
        server.publish("news", "all")
        for bystander in bystanders:
            assert (await bystander.next())["data"] == "all"


async def test_a_cursor_is_good_at_every_loop(start_loops):
    server = start_loops(*TOPICS)
    async with on_loop(server, 0, "42") as client:
        server.publish("news", 1)
        since = (await client.next())["id"]
    for number in range(2, 30):
        server.publish("news", number)
    for loop in range(LOOPS):
        # Another user for each: the last message of `heard` is in the history, too.
        async with on_loop(server, loop, f"5{loop}", since=since) as client:
            assert client.welcome["resumed"]
            assert [(await client.next())["data"] for _ in range(28)] == list(range(2, 30))
            assert await client.heard() == []


async def test_a_new_worker_has_the_history_of_the_server(start_loops):
    server = start_loops(*TOPICS, "--log", "debug")
    async with on_loop(server, 0, "42") as client:
        server.publish("news#k", 0)
        since = (await client.next())["id"]
        for number in range(1, 20):
            server.publish("news#k" if number % 2 else "news", number)
    before = processes(server)
    os.kill(before[1], signal.SIGKILL)
    eventually(lambda: processes(server)[1] != before[1], "another process")
    expected = [*range(2, 20, 2), 19]
    async with on_loop(server, 1, "42", since=since) as client:
        assert client.welcome["resumed"]
        assert [(await client.next())["data"] for _ in expected] == expected
        server.publish("news", "live")
        assert (await client.next())["data"] == "live"


async def test_a_killed_loop_is_replaced_and_its_clients_lose_nothing(start_loops):
    """Clients come back by their cursors while messages go on; those of the other loop notice nothing."""
    server = start_loops(*TOPICS, "--log", "debug")
    count = 40
    sent, stop, welcomed = [], asyncio.Event(), asyncio.Barrier(count + 1)
    chance = random.Random(16)

    async def publish():
        while not stop.is_set():
            server.publish("news", len(sent))
            sent.append(len(sent))
            await asyncio.sleep(0.002)

    async def listen(sub, found):
        since, drops, last = None, 0, None
        while True:
            try:
                async with server.client(sub, since=since) as client:
                    is_first = since is None
                    assert is_first or client.welcome["resumed"], client.welcome
                    since = client.welcome["id"]
                    if is_first:
                        await welcomed.wait()
                    while True:
                        message = await client.next()
                        assert message.get("topic") == "news", message
                        found.append(message["data"])
                        since, last = message["id"], message["data"]
                        if last == "end":
                            return drops
            except (ConnectionError, OSError, asyncio.IncompleteReadError, EOFError):
                drops += 1
            except Exception as error:
                if "Connection" not in type(error).__name__ and "Invalid" not in type(error).__name__:
                    raise
                drops += 1
            await asyncio.sleep(0.01)

    found = [[] for _ in range(count)]
    listeners = [asyncio.create_task(listen(f"u{number}", heard)) for number, heard in enumerate(found)]
    async with asyncio.timeout(DEADLINE):
        await welcomed.wait()
    publishing = asyncio.create_task(publish())
    for _ in range(6):
        before = processes(server)
        loop = chance.choice(sorted(before))
        os.kill(before[loop], signal.SIGKILL)
        end = time.monotonic() + DEADLINE
        while processes(server)[loop] == before[loop]:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
    stop.set()
    await publishing
    server.publish("news", '"end"')
    async with asyncio.timeout(DEADLINE):
        drops = [await listener for listener in listeners]
    assert sum(drops) > 0, "some were at the loops that were killed"
    for heard in found:
        assert heard == [*range(len(sent)), "end"], "nothing lost, nothing twice"


async def test_one_signal_drains_all_loops_at_one_pace(start_loops):
    count, per_second = 60, 100
    server = start_loops("--drain-seconds", 10, "--drain-per-second", per_second)
    async with server.many_clients(count) as clients:
        workers = processes(server)
        assert {loop_of(client) for client in clients} == set(range(LOOPS))
        server.signal()
        retries = []
        for client in clients:
            code, reason = await client.closed()
            assert code == 1001
            retries.append(reason["retry"])
        assert len(set(retries)) == count, "each has a slot of its own"
    assert await asyncio.to_thread(server.process.wait, DEADLINE) == 0
    eventually(lambda: not any(map(is_alive, workers.values())), "no process is left")


async def test_a_second_signal_ends_all_at_once(start_loops):
    server = start_loops("--drain-seconds", 600, "--drain-per-second", 1)
    async with on_each_loop(server, "42"):
        workers = processes(server)
        server.signal()
        server.wait_for_log("draining")
        server.signal(signal.SIGINT)
        assert await asyncio.to_thread(server.process.wait, DEADLINE) == 1
    eventually(lambda: not any(map(is_alive, workers.values())), "no process is left")
    server.process.returncode = 0


async def test_without_their_parent_the_loops_end(start_loops):
    server = start_loops()
    async with on_each_loop(server, "42"):
        workers = processes(server)
        server.process.kill()
        await asyncio.to_thread(server.process.wait)
        eventually(lambda: not any(map(is_alive, workers.values())), "no process is left")
    server.process.returncode = 0


async def test_signals_to_a_worker_alone_end_nothing(start_loops):
    server = start_loops()
    async with on_each_loop(server, "42") as clients:
        for pid in processes(server).values():
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        assert server.publish("user.42", 1) == LOOPS
        for client in clients:
            assert (await client.next())["data"] == 1


async def test_a_reload_reaches_all_loops(start_loops, tmp_path):
    file = tmp_path / "oneloop.toml"
    file.write_text('may = ["a"]\n')
    server = start_loops("--config", file)
    async with on_each_loop(server, "42") as clients:
        for client in clients:
            assert (await client.ask(op="subscribe", topic="b"))["code"] == "forbidden"
        file.write_text('may = ["b"]\n')
        server.signal(signal.SIGHUP)

        async def is_allowed(client):
            return (await client.ask(op="subscribe", topic="b")).get("op") == "subscribed"

        async with asyncio.timeout(DEADLINE):
            for client in clients:
                while not await is_allowed(client):
                    await asyncio.sleep(0.05)
        file.write_text("may = 7\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("the settings stay as they were")
        for client in clients:
            assert (await client.ask(op="unsubscribe", topic="b"))["op"] == "unsubscribed"
            assert await is_allowed(client)
    assert len(re.findall("the settings stay as they were", server.log())) == 1, "it is told once"


@pytest.mark.parametrize("route", ['path = "/ws"\nformat = "raw"\n', 'path = "/other"\n'], ids=["format", "path"])
async def test_a_loop_with_other_routes_does_not_begin(start_loops, tmp_path, route):
    """Clients are handed over between loops by the number of their route."""
    file, right = tmp_path / "oneloop.toml", '[[route]]\npath = "/ws"\n'
    file.write_text(right)
    server = start_loops("--config", file)
    before = processes(server)
    async with on_loop(server, 0, "42") as client:
        file.write_text(f"[[route]]\n{route}")
        os.kill(before[1], signal.SIGKILL)
        await asyncio.to_thread(server.wait_for_log, "the settings have changed since the server started")
        file.write_text(right)
        async with on_loop(server, 1, "43") as other:
            server.publish("user.42", 1)
            assert await client.heard() == [("user.42", 1)]
            assert await other.heard() == []


async def test_a_loop_that_hangs_is_replaced(start_loops):
    server = start_loops(*TOPICS)
    async with on_loop(server, 0, "42") as client:
        before = processes(server)
        os.kill(before[1], signal.SIGSTOP)
        await asyncio.to_thread(server.wait_for_log, "loop 1 .* hangs")
        eventually(lambda: processes(server)[1] != before[1], "another process")
        # The end of a stopped process takes the kernel a moment.
        eventually(lambda: not is_alive(before[1]), "the one that hung has ended")
        server.publish("news", 1)
        assert (await client.next())["data"] == 1


@pytest.mark.parametrize("loops", ["0", "65", "-1", "many", "1.5"])
def test_bad_numbers_are_refused_once(loops):
    done = oneloop("--check", "--loops", loops)
    assert done.returncode == 2
    assert done.stderr.count("a whole number from 1 to 64, or auto") == 1, done.stderr


def test_bad_settings_end_the_start_with_one_message():
    done = oneloop("--loops", "2", "--listen", "127.0.0.1:0", "--publishers", "127.0.0.1:0", "--may", "a..b")
    assert done.returncode == 2
    assert done.stderr.count("a..b") == 1, done.stderr


async def test_a_second_server_at_the_address_is_refused(start_loops):
    server = start_loops()
    address = "{}:{}".format(*server.address)
    done = await asyncio.to_thread(
        oneloop, "--loops", "2", "--listen", address, "--publishers", "127.0.0.1:0")
    assert done.returncode == 1 and "cannot listen on" in done.stderr, done.stderr


async def test_a_token_made_at_the_start_is_good_at_every_loop(start_loops):
    server = start_loops(key=False)
    bearer = server.line("token")
    async with on_each_loop(server, "42", bearer=bearer) as clients:
        assert server.publish("user.42", 1) == LOOPS
        for client in clients:
            assert (await client.next())["data"] == 1
    assert "eyJ" not in server.log()


async def test_one_loop_is_one_process(start):
    server = start("--loops", "1")
    async with server.client("42") as client:
        assert len(client.welcome["conn"].split("-")) == 3, "and its names are as they were"
    assert not processes(server)
    assert counter(server, "clients") == 0


async def test_the_newest_session_is_the_only_one_over_all_loops(start_loops):
    server = start_loops("--single-session", "true", "--clients-per-user-max", 1)
    async with on_loop(server, 0, "43") as bystander:
        async with on_loop(server, 0, "42") as first:
            async with on_loop(server, 1, "42") as second:
                assert (await first.closed())[0] == 4503
                async with on_loop(server, 0, "42") as third:
                    assert (await second.closed())[0] == 4503
                    eventually(lambda: server.publish("user.42", 1) == 1, "one is left")
                    while (await third.next())["data"] != 1:
                        pass
        assert await bystander.heard() == []


async def test_of_sessions_that_begin_together_one_stays(start_loops):
    server = start_loops("--single-session", "true")
    for round_number in range(20):
        sub = f"u{round_number}"
        connections = await asyncio.gather(*(server.dial(token(sub)) for _ in range(6)))
        codes = []

        async def end_of(connection):
            with contextlib.suppress(ConnectionClosed):
                async for _ in connection:
                    pass
            codes.append(connection.close_code)

        ends = [asyncio.create_task(end_of(connection)) for connection in connections]
        async with asyncio.timeout(DEADLINE):
            while len(codes) < len(connections) - 1:
                await asyncio.sleep(0.01)
        assert codes == [4503] * (len(connections) - 1), "the last one of them stays"
        assert server.publish(f"user.{sub}", 1) == 1
        for end, connection in zip(ends, connections):
            await connection.close()
            await end


async def test_a_user_has_no_more_connections_over_all_loops_than_allowed(start_loops):
    server = start_loops("--clients-per-user-max", 3)
    async with contextlib.AsyncExitStack() as stack, on_each_loop(server, "43") as bystanders:
        clients = [await stack.enter_async_context(server.client("42")) for _ in range(3)]
        for _ in range(4):
            async with server.dial(token("42")) as one_more:
                with contextlib.suppress(ConnectionClosed):
                    async with asyncio.timeout(DEADLINE):
                        async for _ in one_more:
                            pass
                assert one_more.close_code == 4003
        await clients.pop().connection.close()
        eventually(lambda: server.publish("user.42", "two") == 2, "one has left")
        async with asyncio.timeout(DEADLINE):
            while True:
                async with server.client("42") as again:
                    await asyncio.sleep(0.1)
                    if again.connection.close_code is None and server.publish("user.42", "three") == 3:
                        break
        for bystander in bystanders:
            assert bystander.connection.close_code is None


async def test_back_ends_command_the_clients_of_all_loops(start_loops):
    server = start_loops("--control", "ctl", *TOPICS)

    def order(**words):
        return server.publisher.command("PUBLISH", "ctl", json.dumps(words))

    async with on_each_loop(server, "42") as clients, on_each_loop(server, "43") as bystanders:
        assert order(op="join", sub="42", topic="room") == LOOPS
        assert server.publish("room", 1) == LOOPS
        for client in clients:
            assert (await client.next())["data"] == 1
        assert order(op="leave", sub="42", topic="room") == LOOPS
        assert server.publish("room", 2) == 0
        assert order(op="kick", conn=clients[1].welcome["conn"]) == 1
        assert (await clients[1].closed())[0] == 4504
        assert order(op="kick", sub="42") == 1
        assert (await clients[0].closed())[0] == 4504
        for bystander in bystanders:
            server.publish("user.43", "still here")
            assert (await bystander.next())["data"] == "still here"


async def test_a_revoked_token_is_refused_by_loops_that_start_later(start_loops):
    server = start_loops("--control", "ctl")
    now = int(time.time())
    old = token("42", iat=now - 100)
    async with on_each_loop(server, "42", bearer=old) as clients:
        order = json.dumps({"op": "revoke", "sub": "42", "before": now - 10})
        assert server.publisher.command("PUBLISH", "ctl", order) == LOOPS
        for client in clients:
            assert (await client.closed())[0] == 4500
    before = processes(server)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: all(processes(server)[loop] != before[loop] for loop in before), "others")
    for _ in range(6):
        status, _, body = await server.refusal(old)
        assert status == 401 and "revoked" in body
    async with server.client("42", iat=now):
        pass


async def test_the_parent_alone_speaks_to_the_service_manager(start_loops):
    with contextlib.closing(Supervisor(is_abstract=True)) as supervisor:
        server = start_loops(variables=variables(supervisor, WATCHDOG_USEC="100000"))
        supervisor.next("READY=1")
        assert len(processes(server)) == LOOPS, "it is ready when all of them are"
        for pid in processes(server).values():
            names = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"NOTIFY_SOCKET" not in names and b"WATCHDOG" not in names
        supervisor.next("WATCHDOG=1")
        async with on_each_loop(server, "42"):
            server.signal()
            supervisor.next("STOPPING=1")
