"""An upgrade of several loops: each hands its clients over at the same message, or all go on as before."""

import asyncio
import contextlib
import os
import random
import re
import signal
import ssl
import threading
from pathlib import Path

import pytest
from helpers.event_stream import Stream
from helpers.loops import LOOPS, is_alive, loop_of, on_each_loop, on_loop, processes
from helpers.process import BINARY, DEADLINE, eventually
from helpers.resp_client import Publisher
from helpers.server import counter, unix_stream
from helpers.systemd import Supervisor, variables
from helpers.tokens import token
from helpers.upgrade import DEEP, OTHER, Publishing, Successor, received, upgrade
from websockets.exceptions import ConnectionClosed, InvalidMessage


@pytest.fixture
def begin_loops(begin):
    """Starts servers of several loops that an upgrade replaces, once all loops serve."""
    def begin_loops(*flags, loops=LOOPS, **options):
        server = begin("--loops", loops, *flags, **options)
        wait_for_loops(server)
        return server
    return begin_loops


def wait_for_loops(server):
    """An upgrade is refused while a loop does not serve."""
    eventually(lambda: sum(counter(server, f'loop_up{{loop="{loop}"}}') for loop in range(LOOPS)) == LOOPS,
               "all loops serve")


@contextlib.asynccontextmanager
async def bystanders(server):
    """Clients of all loops that hear `news`, and nothing else."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(on_loop(server, loop, f"by{loop}")) for loop in range(LOOPS)]


@pytest.mark.parametrize("has_redis", [False, True])
@pytest.mark.parametrize("version", [None, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_nobody_notices_an_upgrade_of_several_loops(begin_loops, request, authority, has_redis, version):
    redis = request.getfixturevalue("redis") if has_redis else None
    server = begin_loops("--deflate", "all", *DEEP, redis=redis, authority=authority if version else None)
    if version:
        server.tls.minimum_version = server.tls.maximum_version = version
    old = processes(server)
    async with (
        on_each_loop(server, "42") as clients, bystanders(server) as others,
        on_each_loop(server, "44", options={"compression": "deflate"}) as deflated,
    ):
        for client in clients:
            await client.send(op="subscribe", topic="user.42")
            await client.next()
        streams = [Stream(server, f"s{number}") for number in range(4)]
        for stream in streams:
            assert stream.next()["op"] == "welcome"
        with Publishing(server, "news") as publishing:
            for _ in range(3):
                publishing.wait_for()
                await asyncio.to_thread(upgrade, server)
            publishing.wait_for()
        expected = list(range(publishing.count))
        for client in [*clients, *others, *deflated]:
            assert await received(client, len(expected)) == expected
        for stream in streams:
            assert await asyncio.to_thread(lambda: [stream.next()["data"] for _ in expected]) == expected
        # The new processes serve them, and know who they are.
        server.forget_publisher()
        assert not any(map(is_alive, old.values()))
        assert server.publish("user.42", "own") == (1 if redis else LOOPS)
        for client in clients:
            assert (await client.next())["data"] == "own"
            assert (await client.ask(op="topics"))["topics"] == ["news", "user.42"]
        for client in others:
            assert await client.heard() == []
        # A cursor is good at every loop, and so are the names of loops and connections.
        for loop in range(LOOPS):
            async with on_loop(server, loop, f"5{loop}", since=clients[0].id) as newcomer:
                assert newcomer.welcome["resumed"]
                assert newcomer.welcome["conn"].split("-")[:2] == clients[loop].welcome["conn"].split("-")[:2]
    new = processes(server)
    server.signal()
    eventually(lambda: not any(map(is_alive, new.values())), "no process is left")


async def test_entries_of_a_stream_are_neither_lost_nor_repeated(begin_loops, redis):
    server = begin_loops(*DEEP, "--streams", "orders", "--patterns", "pub.chat.*", redis=redis)
    async with on_each_loop(server, "42") as clients, bystanders(server) as others:
        with Publishing(server, "user.42", stream="orders") as adding:
            for _ in range(3):
                adding.wait_for()
                await asyncio.to_thread(upgrade, server)
                server.wait_ready()
            adding.wait_for()
        expected = list(range(adding.count))
        for client in clients:
            assert await received(client, len(expected)) == expected
        for client in clients:
            async with on_loop(server, 1 - loop_of(client), "60", since=client.id) as newcomer:
                assert newcomer.welcome["resumed"]
        redis.publisher().command("XADD", "orders", "*", "topic", "news", "data", '"last"')
        for client in [*clients, *others]:
            assert (await client.next())["data"] == "last"


async def test_publishers_in_the_middle_of_a_command_go_on(begin_loops):
    server = begin_loops(*DEEP)
    async with on_each_loop(server, "42") as clients, bystanders(server) as others:
        publisher, subscriber = Publisher(*server.publishers), Publisher(*server.publishers)
        assert subscriber.command("SUBSCRIBE", "pub.user.42")[:2] == ["subscribe", "pub.user.42"]
        command = b"*3\r\n$7\r\nPUBLISH\r\n$11\r\npub.user.42\r\n$3\r\n123\r\n"
        publisher.socket.sendall(command[:30])
        await asyncio.to_thread(upgrade, server)
        publisher.socket.sendall(command[30:])
        assert publisher.reply() == 1 + LOOPS, "clients of both loops and a subscriber at the port"
        assert subscriber.reply() == ["message", "pub.user.42", "123"]
        for client in clients:
            assert (await client.next())["data"] == 123
        for client in others:
            assert await client.heard() == []
        publisher.close()
        subscriber.close()


async def test_limits_and_orders_hold_over_all_loops_after_an_upgrade(begin_loops):
    server = begin_loops("--single-session", "true", "--clients-per-user-max", 2, "--control", "ctl")
    async with on_loop(server, 0, "42") as first, on_loop(server, 1, "43") as bystander:
        await asyncio.to_thread(upgrade, server)
        server.forget_publisher()
        assert first.connection.close_code is None, "it did not come anew"
        async with on_loop(server, 1, "42") as second:
            assert (await first.closed())[0] == 4503
            name = second.welcome["conn"]
            assert server.publisher.command("PUBLISH", "ctl", f'{{"op":"kick","conn":"{name}"}}') == 1
            assert (await second.closed())[0] == 4504
        assert await bystander.heard() == []


async def test_a_user_has_as_many_connections_as_before(begin_loops):
    # Room for those that search for a loop, and have left without the parent's knowing it yet.
    server = begin_loops("--clients-per-user-max", LOOPS + 4)
    async with contextlib.AsyncExitStack() as stack:
        clients = await stack.enter_async_context(on_each_loop(server, "42"))
        others = await stack.enter_async_context(bystanders(server))
        await asyncio.to_thread(upgrade, server)
        server.forget_publisher()
        # Clients that come at the same moment to different loops are in no order, so any two of them are too many.
        newcomers = [await stack.enter_async_context(server.dial(token("42"))) for _ in range(6)]
        await asyncio.to_thread(
            eventually, lambda: sum(one.close_code == 4003 for one in newcomers) == 2, "two are refused")
        assert server.publish("user.42", '"all"') == LOOPS + 4
        for client in clients:
            assert (await client.next())["data"] == "all"
        for client in others:
            assert await client.heard() == []


async def test_a_unix_socket_stays_in_its_place(begin_loops, tmp_path):
    path = tmp_path / "listen"
    server = begin_loops(listen=f"unix:{path}")
    async with server.client("42") as client:
        for _ in range(2):
            await asyncio.to_thread(upgrade, server)
            assert path.is_socket()
        async with server.client("43", options={"sock": unix_stream(path)}) as newcomer:
            server.forget_publisher()
            server.publish("user.42", 1)
            assert (await client.next())["data"] == 1
            assert await newcomer.heard() == []
    server.forget_publisher()
    server.signal()
    server.process.wait()
    assert not path.exists(), "the one that ends last removes the file"


async def test_the_service_manager_follows(begin_loops):
    with contextlib.closing(Supervisor(is_abstract=True)) as supervisor:
        server = begin_loops(variables=variables(supervisor))
        supervisor.next("READY=1")
        async with on_each_loop(server, "42"):
            await asyncio.to_thread(upgrade, server)
            assert supervisor.next("MAINPID=").split("=")[1] == str(server.process.pid)
            supervisor.next("READY=1")
            for pid in processes(server).values():
                assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()


async def test_the_parent_shows_all_loops_after_an_upgrade(begin_loops):
    server = begin_loops()
    async with on_each_loop(server, "42"), bystanders(server):
        await asyncio.to_thread(upgrade, server)
        wait_for_loops(server)
        eventually(lambda: counter(server, "clients") == 2 * LOOPS, "all clients are shown")
        # Killed, a new worker is replaced as any other, by the history and the key of cursors of its parent.
        before = processes(server)
        os.kill(before[0], signal.SIGKILL)
        eventually(lambda: processes(server)[0] != before[0], "another process")
    server.forget_publisher()
    async with on_loop(server, 1, "42") as client:
        server.publish("news", 1)
        await client.next()
        server.publish("news", 2)
        async with on_loop(server, 0, "43", since=client.id) as newcomer:
            assert newcomer.welcome["resumed"] and (await newcomer.next())["data"] == 2


GREETING = "import os, time; os.write(0, b'oneloop\\n' + (2).to_bytes(4, 'little'))"
FAILURES = {
    "missing": (None, "cannot be started"),
    "ends": ("exit 3", "has ended"),
    "refuses the settings": (f'exec {BINARY} "$@" --nonsense', "has ended"),
    "another number of loops": (f'exec {BINARY} "$@" --loops 3', "an upgrade cannot change loops"),
    "one loop": (f'exec {BINARY} "$@" --loops 1', "an upgrade cannot change loops"),
    "another version": (f'STATE_VERSION=7 exec {OTHER} "$@"', "it reads version 7 of the state"),
    "dies before it is ready": (f'exec python3 -c "{GREETING}; os.read(0, 10); os._exit(1)"', "has ended"),
    "dies while it takes over": (
        f'exec python3 -c "{GREETING}; os.read(0, 10); os.write(0, b\'R\'); os.read(0, 9999); os._exit(1)"',
        "does not answer|has ended"),
    "hangs while it takes over": (
        f'exec python3 -c "{GREETING}; os.read(0, 10); os.write(0, b\'R\'); time.sleep(60)"', "does not answer"),
    "hangs at once": ("exec sleep 60", "does not answer"),
    # Its workers are given more sockets of clients than that.
    "a worker cannot take over": (f'ulimit -n 90; exec {BINARY} "$@"', "does not take over"),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_if_the_new_process_fails_all_loops_go_on(begin_loops, program, failure):
    assert OTHER.exists(), "the tests need a debug build beside the binary: cargo build"
    script, said = FAILURES[failure]
    server = begin_loops(*DEEP, "--publishers-max", 4)
    old = processes(server)
    program.unlink()
    if script:
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(0o755)
    async with (
        on_each_loop(server, "42") as clients, bystanders(server) as others, server.many_clients(200) as crowd,
    ):
        with Publishing(server, "user.42") as publishing:
            publishing.wait_for()
            os.kill(server.process.pid, signal.SIGUSR2)
            await asyncio.to_thread(server.wait_for_log, "everybody stays connected")
            publishing.wait_for()
        assert re.search(said, server.log()), server.log()
        assert processes(server) == old and all(map(is_alive, old.values()))
        expected = list(range(publishing.count))
        for client in clients:
            assert await received(client, len(expected)) == expected
        # The next attempt is a new one.
        program.unlink(missing_ok=True)
        program.symlink_to(BINARY)
        server.forget_publisher()
        await asyncio.to_thread(upgrade, server)
        server.publish("news", "new")
        for client in [*clients, *others, *crowd]:
            assert (await client.next())["data"] == "new"
        for client in others:
            assert await client.heard() == []


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_worker_that_refuses_its_settings_or_hangs_changes_nothing(begin_loops, program, tmp_path, hangs):
    """The settings are a pipe: the new parent reads good ones, and its workers others, or none."""
    server = begin_loops(*DEEP)
    settings = tmp_path / "settings.toml"
    os.mkfifo(settings)
    program.unlink()
    program.write_text(f'#!/bin/bash\nexec {BINARY} "$@" --config {settings}\n')
    program.chmod(0o755)

    def write():
        settings.write_text("drain_per_second = 100\n")
        if not hangs:
            for _ in range(LOOPS):
                settings.write_text('control = "other"\n')

    old = processes(server)
    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    async with on_each_loop(server, "42") as clients, bystanders(server) as others:
        with Publishing(server, "user.42") as publishing:
            os.kill(server.process.pid, signal.SIGUSR2)
            await asyncio.to_thread(server.wait_for_log, "everybody stays connected")
            publishing.wait_for()
        expected = list(range(publishing.count))
        for client in clients:
            assert await received(client, len(expected)) == expected
        assert processes(server) == old and all(map(is_alive, old.values()))
        for client in others:
            assert await client.heard() == []
    eventually(lambda: not is_awaited(settings), "no worker waits for its settings any more")


def is_awaited(pipe):
    """Lets those go on that wait for a writer. Returns whether there were any."""
    with contextlib.suppress(OSError):
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return True
    return False


async def test_one_loop_cannot_become_two(begin, program):
    server = begin()
    program.unlink()
    program.write_text(f'#!/bin/bash\nexec {BINARY} "$@" --loops 2\n')
    program.chmod(0o755)
    async with server.client("42") as client, server.client("43") as bystander:
        os.kill(server.process.pid, signal.SIGUSR2)
        await asyncio.to_thread(server.wait_for_log, "everybody stays connected")
        assert "an upgrade cannot change loops" in server.log()
        server.publish("user.42", 1)
        assert (await client.next())["data"] == 1
        assert await bystander.heard() == []


@pytest.mark.parametrize("has_redis", [False, True])
async def test_lists_of_members_are_whole_after_an_upgrade(begin_loops, request, has_redis):
    """Nobody leaves a list because a loop has not told yet who its clients are."""
    redis = request.getfixturevalue("redis") if has_redis else None
    server = begin_loops("--members", "room.*", "--may", "room.*", redis=redis)
    async with contextlib.AsyncExitStack() as stack:
        subs = [f"u{number}" for number in range(40)]
        clients = [await stack.enter_async_context(on_loop(server, number % LOOPS, sub))
                   for number, sub in enumerate(subs)]
        others = await stack.enter_async_context(bystanders(server))
        for client in clients:
            assert (await client.ask(op="subscribe", topic="room.7"))["op"] == "subscribed"
        watching = clients[:2 * LOOPS]
        for client in watching:
            users = set((await client.ask(op="members", topic="room.7"))["users"])
            while users != set(subs):
                frame = await client.next()
                users = set(frame["users"]) if "users" in frame else (users | set(frame["joined"])) - set(frame["left"])
        for _ in range(3):
            await asyncio.to_thread(upgrade, server)
            for client in watching:
                frame = await client.next()
                assert (frame["op"], frame["topic"], frame["count"]) == ("members", "room.7", len(subs)), frame
                assert set(frame["users"]) == set(subs)
        # The new parent knows where each of them is.
        await clients[-1].ask(op="unsubscribe", topic="room.7")
        await clients[-2].connection.close()
        for client in watching:
            users = set(subs)
            while users != set(subs[:-2]):
                frame = await client.next()
                users = (users | set(frame["joined"])) - set(frame["left"])
        for client in [*others, *clients[2 * LOOPS:-2]]:
            assert await client.heard() == []
        server.forget_publisher()
        await asyncio.to_thread(wait_for_loops, server)
        os.kill(processes(server)[0], signal.SIGKILL)
        users = set(subs[:-2])
        while users != {sub for number, sub in enumerate(subs[:-2]) if number % LOOPS == 1}:
            frame = await watching[1].next()
            users = (users | set(frame["joined"])) - set(frame["left"])


def family(pid):
    """A process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(one for child in children for one in family(int(child)))]


@pytest.mark.parametrize("seed", range(6))
async def test_processes_that_are_killed_meanwhile_lose_no_message(begin_loops, seed):
    """Any process but the old parent is killed at any moment: clients come back by their cursors, or notice nothing."""
    chance = random.Random(seed)
    server = begin_loops(*DEEP)
    found = [[] for _ in range(12)]

    async def listen(sub, heard):
        since = None
        while True:
            with contextlib.suppress(ConnectionClosed, InvalidMessage, OSError, EOFError, TimeoutError):
                async with server.client(sub, since=since) as client:
                    assert since is None or client.welcome["resumed"], client.welcome
                    since = client.welcome["id"]
                    while True:
                        message = await client.next()
                        assert message["topic"] == "news", message
                        heard.append(message["data"])
                        since = message["id"]
                        if message["data"] == "end":
                            return
            await asyncio.sleep(0.01)

    listeners = [asyncio.create_task(listen(f"u{number}", heard)) for number, heard in enumerate(found)]
    with Publishing(server, "news") as publishing:
        publishing.wait_for()
        for _ in range(5):
            wait_for_loops(server)
            lines = len(server.log().splitlines())
            os.kill(server.process.pid, signal.SIGUSR2)
            await asyncio.sleep(chance.random() * 0.3)
            victims = [pid for pid in family(server.process.pid) if pid != server.process.pid]
            if victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(victims), signal.SIGKILL)

            def outcome():
                log = "\n".join(server.log().splitlines()[lines:])
                return re.search(r"process (\d+) has taken over|stays connected", log)

            done = await asyncio.to_thread(eventually, outcome, "the end of the upgrade")
            if done[1]:
                await asyncio.to_thread(server.process.wait, DEADLINE)
                server.process = Successor(int(done[1]))
        publishing.wait_for()
    server.forget_publisher()
    server.publish("news", '"end"')
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*listeners)
    for heard in found:
        first = heard[0] if heard[0] != "end" else publishing.count
        assert heard == [*range(first, publishing.count), "end"], "nothing lost, nothing twice"
