"""Features of several loops after an upgrade: what spans all loops knows the clients that were handed over."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl

import pytest
from helpers.loops import LOOPS, loop_of, on_each_loop, on_loop, processes
from helpers.process import DEADLINE, eventually, oneloop
from helpers.server import counter
from helpers.tokens import token
from helpers.upgrade import DEEP, Publishing, Successor, received, upgrade
from test_loops_features import Events, counts, listening
from test_loops_limits import Crowd, Guests
from test_loops_upgrade import begin_loops, bystanders, wait_for_loops  # noqa: F401


async def test_a_user_is_online_on_and_offline_once(begin_loops, redis):
    server, events = begin_loops("--events", "stream:evt", "--offline-seconds", 1, redis=redis), Events(redis)
    async with on_loop(server, 0, "43") as here, on_loop(server, 1, "43"):
        told = [("online", "43", 1)]
        await events.until(told)
        async with on_each_loop(server, "42") as clients:
            told += [("online", "42", 2)]
            await events.until(told)
            for _ in range(2):
                await asyncio.to_thread(upgrade, server)
                wait_for_loops(server)
            async with on_loop(server, 1, "44"):
                told += [("online", "44", 3)]
                await events.until(told)
                eventually(lambda: counter(server, "presence_users") == 3, "all are known")
            told += [("offline", "44", 2)]
            await events.until(told)
            await clients[0].connection.close()
        # The reports of the process before end after 15 seconds, and with them what they tell of this user.
        told += [("offline", "42", 1)]
        await events.until(told)
        assert redis.command("HGETALL", "oneloop:{evt}:here") == ["43", "1"]
        assert here.connection.close_code is None
    await events.until([*told, ("offline", "43", 0)])
    assert "cannot be read" not in server.log()


async def test_a_loop_killed_after_an_upgrade_takes_its_users_along(begin_loops, redis):
    server, events = begin_loops("--events", "stream:evt", "--offline-seconds", 2, redis=redis), Events(redis)
    async with on_loop(server, 0, "43") as bystander, on_loop(server, 1, "42"), on_loop(server, 1, "44"):
        eventually(lambda: len(events.all()) == 3, "all are online")
        await asyncio.to_thread(upgrade, server)
        wait_for_loops(server)
        eventually(lambda: counter(server, "presence_users") == 3, "all are known")
        pid = processes(server)[1]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: processes(server)[1] != pid, "another one")
        async with on_loop(server, 0, "42"):
            eventually(lambda: len(events.all()) == 4, "the other one is offline")
            assert events.all()[3] == ("offline", "44", 2)
            assert await bystander.heard() == []
    assert "cannot be read" not in server.log()


async def test_members_of_all_loops_are_listed_on(begin_loops, redis):
    server = begin_loops("--members", "news", redis=redis)
    async with on_loop(server, 0, "42") as client, on_loop(server, 1, "43") as other:
        eventually(lambda: redis.command("ZCARD", "oneloop:{pub.members}:in:news") == 2, "both are members")
        assert sorted((await client.ask(op="members", topic="news", ref=1))["users"]) == ["42", "43"]
        for _ in range(2):
            await asyncio.to_thread(upgrade, server)
            wait_for_loops(server)
            listed = await client.next()
            assert (listed["op"], listed["users"]) == ("members", ["42", "43"])
        async with on_loop(server, 1, "44"):
            assert (await client.next())["joined"] == ["44"]
        assert (await client.next())["left"] == ["44"]
        assert other.connection.close_code is None


async def test_receipts_and_counts_are_those_of_all_loops_before_and_after(begin_loops, redis):
    server = begin_loops(*DEEP, "--receipts", "receipts", "--control", "ctl", "--topics", "news", redis=redis)
    with listening(redis, "receipts") as next_receipt, listening(redis, "answers") as next_answer:
        async with on_each_loop(server, "42") as clients, bystanders(server) as others:
            with Publishing(server, "news") as publishing:
                for _ in range(8):
                    publishing.wait_for()
                    await asyncio.to_thread(upgrade, server)
                publishing.wait_for()
            count = publishing.count
            for client in [*clients, *others]:
                assert await received(client, count) == list(range(count))
            told = [await asyncio.to_thread(next_receipt) for _ in range(count)]
            assert next_receipt.rest() == []
            assert {receipt["queued"] for receipt in told} == {2 * LOOPS}
            assert {receipt["dropped"] for receipt in told} == {0}
            for topic, listeners in [("user.42", LOOPS), ("news", 2 * LOOPS), ("user.44", 0)]:
                words = {"op": "count", "topic": topic, "reply": "answers"}
                redis.command("PUBLISH", "ctl", json.dumps(words))
                assert next_answer()["listeners"] == listeners
            for client in others:
                assert await client.heard() == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_each_loop_knows_its_session_tickets(begin_loops, authority, version):
    server = begin_loops(authority=authority)
    server.tls.minimum_version = server.tls.maximum_version = version

    def visit(session=None):
        """Visits with a session: (whether it was resumed, the next session)."""
        with socket.create_connection(server.address, DEADLINE) as stream, server.tls.wrap_socket(
                stream, server_hostname=server.address[0], session=session) as secured:
            secured.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert secured.recv(4096).startswith(b"HTTP/1.1 200 ")
            return secured.session_reused, secured.session

    async with on_each_loop(server, "42") as clients:
        session = visit()[1]
        for _ in range(2):
            await asyncio.to_thread(upgrade, server)
            # At the loop that made it.
            eventually(lambda: visit(session)[0], "it is resumed")
        server.forget_publisher()
        assert server.publish("user.42", 1) == LOOPS
        for client in clients:
            assert (await client.next())["data"] == 1


async def test_an_address_has_as_many_connections_as_before(begin_loops):
    most = 8
    server = begin_loops("--clients-per-address-max", most, "--proxies", "127.0.0.1")
    bystander, crowd = Crowd(server, "192.0.2.8"), Crowd(server)
    assert await bystander.connect()
    await crowd.fill(most)
    for _ in range(2):
        await asyncio.to_thread(upgrade, server)
        wait_for_loops(server)
        assert await crowd.settle() == most, "nobody had to go"
        await asyncio.gather(*(crowd.connect() for _ in range(most)))
        assert await crowd.settle() == most
        await crowd.open.pop().connection.close()
        await crowd.fill(most)
    assert bystander.open[0].connection.close_code is None
    await asyncio.gather(crowd.end(), bystander.end())


@pytest.mark.parametrize("loops", [2, 3])
async def test_places_stay_where_their_clients_are(begin_loops, loops):
    """One loop has more clients than its part: the others may not have as many as theirs."""
    most = 60
    server = begin_loops("--clients-max", most, loops=loops)
    guests = Guests(server)
    async with on_loop(server, 1, "42") as bystander:
        await guests.gather_at(0, most * 2 // 3)
        full = await guests.fill() + 1
        assert full <= most
        for _ in range(2):
            # They come while all processes are replaced.
            upgrading = asyncio.create_task(asyncio.to_thread(upgrade, server))
            while not upgrading.done():
                await asyncio.gather(*(guests.connect() for _ in range(20)))
            await upgrading
            await asyncio.gather(*(guests.connect() for _ in range(20)))
            assert all(client.connection.close_code is None for client in guests.open), "nobody is closed"
            assert most - 2 * loops <= await guests.fill() + 1 <= most
        server.forget_publisher()
        server.publish("user.42", "end")
        assert await bystander.heard() == [("user.42", "end")]
        await guests.end()


async def test_one_session_is_left_of_those_that_come_meanwhile(begin_loops):
    server = begin_loops("--single-session", "true")
    async with on_loop(server, 1, "43") as bystander:
        for number in range(6):
            found = []

            async def come():
                with contextlib.suppress(Exception):
                    connection = await server.dial(token("42"))
                    found.append(await server.enter(connection, "42"))

            async with on_loop(server, number % LOOPS, "42") as first:
                upgrading = asyncio.create_task(asyncio.to_thread(upgrade, server))
                while not upgrading.done():
                    await asyncio.gather(*(come() for _ in range(2)))
                await upgrading
                everybody = [first, *found]
                async with asyncio.timeout(DEADLINE):
                    while True:
                        await asyncio.sleep(0.05)
                        left = [client for client in everybody if client.connection.close_code is None]
                        if len(left) <= 1:
                            break
                assert len(left) == 1
                for client in everybody:
                    await client.connection.close()
        assert bystander.connection.close_code is None


async def test_the_command_upgrades_all_loops(begin_loops):
    server = begin_loops()
    async with on_each_loop(server, "42") as clients, bystanders(server) as others:
        before = processes(server)
        done = await asyncio.to_thread(oneloop, "upgrade", "--pid", server.process.pid)
        assert done.returncode == 0, done.stderr
        server.process.wait(DEADLINE)
        server.process = Successor(int(done.stdout.split()[1]))
        after = processes(server)
        assert not set(before.values()) & set(after.values())
        server.forget_publisher()
        assert server.publish("user.42", 1) == LOOPS
        for client in clients:
            assert (await client.next())["data"] == 1
        for client in others:
            assert await client.heard() == []
        # A loop that does not serve yet: the command says at once that nothing was done.
        os.kill(after[1], signal.SIGKILL)
        done = await asyncio.to_thread(oneloop, "upgrade", "--pid", server.process.pid)
        assert done.returncode != 0
        eventually(lambda: processes(server)[1] != after[1], "another one")
