"""Limits hold over all loops as over those of one: on users, addresses and all clients."""

import asyncio
import contextlib
import os
import signal

import pytest
from helpers.loops import LOOPS, loop_of, on_each_loop, on_loop, processes
from helpers.process import DEADLINE, eventually
from helpers.tokens import token
from websockets.exceptions import ConnectionClosed, InvalidStatus


async def close_code(connection):
    """The code with which the server closes it."""
    with contextlib.suppress(ConnectionClosed):
        async with asyncio.timeout(DEADLINE):
            async for _ in connection:
                pass
    return connection.close_code


async def is_open(connection, seconds=0.3):
    """Whether it stays open for a while."""
    try:
        async with asyncio.timeout(seconds):
            async for _ in connection:
                pass
    except TimeoutError:
        return True
    except ConnectionClosed:
        pass
    return False


async def test_a_reload_that_limits_users_counts_those_who_are_there(start_loops, tmp_path):
    file = tmp_path / "oneloop.toml"
    file.write_text("")
    server = start_loops("--config", file)
    async with on_each_loop(server, "42") as clients, on_each_loop(server, "43") as bystanders:
        file.write_text("clients_per_user_max = 2\n")
        server.signal(signal.SIGHUP)
        async with asyncio.timeout(DEADLINE):
            while True:
                async with server.dial(token("42")) as third:
                    if not await is_open(third):
                        assert third.close_code == 4003
                        break
        file.write_text("")
        server.signal(signal.SIGHUP)
        async with asyncio.timeout(DEADLINE):
            while True:
                async with server.dial(token("42")) as third:
                    if await is_open(third):
                        break
        for client in [*clients, *bystanders]:
            assert client.connection.close_code is None


async def test_a_reload_that_allows_one_session_holds_over_all_loops(start_loops, tmp_path):
    file = tmp_path / "oneloop.toml"
    file.write_text('[[route]]\npath = "/ws"\n')
    server = start_loops("--config", file)
    async with on_each_loop(server, "42") as clients, on_each_loop(server, "43") as bystanders:
        file.write_text('[[route]]\npath = "/ws"\nsingle_session = true\n')
        server.signal(signal.SIGHUP)
        ends = [asyncio.create_task(close_code(client.connection)) for client in clients]
        async with asyncio.timeout(DEADLINE):
            while not all(end.done() for end in ends):
                async with on_loop(server, 0, "42"):
                    await asyncio.sleep(0.1)
        assert [end.result() for end in ends] == [4503, 4503]
        for client in bystanders:
            assert client.connection.close_code is None


SOURCE = "192.0.2.7"


class Crowd:
    """Clients of one address, by a proxy, and what became of each that tried to connect."""

    def __init__(self, server, source=SOURCE):
        self.server, self.source, self.count, self.open = server, source, 0, []

    async def connect(self):
        """Connects one more. Returns whether it is let in, for the time being."""
        self.count += 1
        sub = f"{self.source}-{self.count}"
        dial = self.server.dial(token(sub), headers={"X-Forwarded-For": self.source})
        try:
            client = await self.server.enter(await dial, sub)
        except InvalidStatus as refused:
            assert refused.response.status_code == 429
            return False
        self.open.append(client)
        return True

    async def settle(self):
        """Leaves those that are still open after a while."""
        await asyncio.gather(*(is_open(client.connection) for client in self.open))
        gone = [client for client in self.open if client.connection.close_code is not None]
        assert all(client.connection.close_code in (4003, 1006) for client in gone)
        self.open = [client for client in self.open if client not in gone]
        return len(self.open)

    async def fill(self, most):
        """Connects one after another until there are as many as may be, at more than one loop."""
        async with asyncio.timeout(DEADLINE):
            while len(self.open) < most or len({loop_of(client) for client in self.open}) < 2:
                if len(self.open) == most:
                    await self.open.pop().connection.close()
                if not await self.connect():
                    await asyncio.sleep(0.02)
        assert await self.settle() == most
        for _ in range(12):
            assert not await self.connect(), "whichever loop it comes to"
        assert await self.settle() == most, "and nobody else had to go"

    async def end(self):
        await asyncio.gather(*(client.connection.close() for client in self.open))


@pytest.mark.parametrize("loops", [2, 3])
async def test_an_address_has_so_many_connections_over_all_loops(start_loops, loops):
    most = 8
    server = start_loops("--clients-per-address-max", most, "--proxies", "127.0.0.1", loops=loops)
    bystander, crowd = Crowd(server, "192.0.2.8"), Crowd(server)
    assert await bystander.connect()
    await asyncio.gather(*(crowd.connect() for _ in range(5 * most)))
    assert await crowd.settle() <= most, "those that came together were closed"
    await crowd.fill(most)
    before = processes(server)
    os.kill(before[1], signal.SIGKILL)
    eventually(lambda: processes(server)[1] != before[1], "another process")
    await crowd.settle()
    await crowd.fill(most)
    server.publish(f"user.{bystander.source}-1", "end")
    if loop_of(bystander.open[0]) != 1:
        assert await bystander.open[0].heard() == [(f"user.{bystander.source}-1", "end")]
    await asyncio.gather(crowd.end(), bystander.end())


async def test_a_peer_has_so_many_connections_over_all_loops(start_loops):
    server = start_loops("--clients-per-address-max", 2)
    here = {"local_addr": ("127.0.0.2", 0)}
    async with on_loop(server, 1, "43") as bystander, contextlib.AsyncExitStack() as stack:
        for loop in range(LOOPS):
            await stack.enter_async_context(on_loop(server, loop, "42", options=here))
        for _ in range(12):
            assert (await server.refusal(token("42"), **here))[0] == 429
        assert await bystander.heard() == []


class Guests:
    """Clients that come one after another, and are told when the server is full."""

    def __init__(self, server):
        self.server, self.count, self.open = server, 0, []

    async def connect(self):
        self.count += 1
        sub = f"guest{self.count}"
        try:
            client = await self.server.enter(await self.server.dial(token(sub)), sub)
        except InvalidStatus as refused:
            assert refused.response.status_code == 503
            return None
        self.open.append(client)
        return client

    async def gather_at(self, loop, most):
        """Lets clients come, and stay if they come to this loop, until so many are there. None may be refused."""
        async with asyncio.timeout(DEADLINE):
            while len(self.open) < most:
                client = await self.connect()
                assert client, f"refused as number {len(self.open) + 1}"
                if loop_of(client) != loop:
                    self.open.remove(client)
                    await client.connection.close()

    async def fill(self):
        """Lets clients come until many in a row were refused. Returns how many are there."""
        refused = 0
        async with asyncio.timeout(DEADLINE):
            while refused < 25:
                refused = 0 if await self.connect() else refused + 1
        return len(self.open)

    async def end(self):
        await asyncio.gather(*(client.connection.close() for client in self.open))


@pytest.mark.parametrize("loops", [2, 3])
async def test_a_client_is_refused_when_all_loops_together_are_full(start_loops, loops):
    most = 150
    server = start_loops("--clients-max", most, loops=loops)
    guests = Guests(server)
    async with on_loop(server, 1, "42") as bystander:
        await guests.gather_at(0, most * 8 // 10)
        assert most - 2 * loops <= await guests.fill() + 1 <= most
        before = processes(server)
        os.kill(before[0], signal.SIGKILL)
        eventually(lambda: processes(server)[0] != before[0], "another process")
        guests.open = [client for client in guests.open if loop_of(client) != 0]
        # They come to the loops that are there, and to the new one.
        await guests.gather_at(1, most * 8 // 10)
        assert most - 2 * loops <= await guests.fill() + 1 <= most + 1
        server.publish("user.42", "end")
        assert await bystander.heard() == [("user.42", "end")]
        await guests.end()


async def test_a_reload_changes_the_number_of_clients_over_all_loops(start_loops, tmp_path):
    file = tmp_path / "oneloop.toml"
    file.write_text("")
    server = start_loops("--config", file)
    guests = Guests(server)

    async def reload(text):
        file.write_text(text)
        count = server.log().count("the settings were read again")
        server.signal(signal.SIGHUP)
        eventually(lambda: server.log().count("the settings were read again") > count, "a reload")

    async def fills_to(fewest, most):
        """Whether no more than so many are there; a loop may read the settings a little later."""
        async with asyncio.timeout(DEADLINE):
            while not fewest <= await guests.fill() <= most:
                while len(guests.open) > fewest - 4:
                    await guests.open.pop().connection.close()

    async with on_each_loop(server, "42") as bystanders:
        await guests.gather_at(0, 30)
        await reload("clients_max = 20\n")
        async with asyncio.timeout(DEADLINE):
            while await guests.connect():
                await asyncio.sleep(0.02)
        assert all(client.connection.close_code is None for client in guests.open), "nobody is closed"
        await reload("clients_max = 50\n")
        await fills_to(44, 48)
        await reload("")
        await guests.gather_at(0, 60)
        server.publish("user.42", "end")
        for bystander in bystanders:
            assert (await bystander.next())["data"] == "end"
        await guests.end()
