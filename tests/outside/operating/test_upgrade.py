"""An upgrade: another process takes every connection over, and if it cannot, this one goes on."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import time
from pathlib import Path

import pytest
from helpers.event_stream import Stream
from helpers.outage_check import QUICK, audience, ups
from helpers.process import BINARY, DEADLINE, eventually, oneloop
from helpers.raw_client import Raw, head
from helpers.resp_client import Publisher
from helpers.server import counter, unix_stream
from helpers.systemd import Supervisor, variables
from helpers.tokens import token
from helpers.upgrade import DEEP, OTHER, UNDER, Publishing, Successor, received, upgrade


@pytest.mark.parametrize("has_redis", [False, True])
@pytest.mark.parametrize("version", [None, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_nobody_notices_an_upgrade(begin, request, authority, has_redis, version):
    redis = request.getfixturevalue("redis") if has_redis else None
    server = begin("--deflate", "all", *DEEP, redis=redis, authority=authority if version else None)
    if version:
        server.tls.minimum_version = server.tls.maximum_version = version
    options = {"compression": "deflate"}
    async with (
        server.client("42") as client, server.client("44", options=options) as deflated,
        server.client("43", topics=[]) as bystander,
    ):
        await client.send(op="subscribe", topic="user.42")
        await client.next()
        stream = Stream(server, "45")
        assert stream.next()["op"] == "welcome"
        conn = client.welcome["conn"]
        with Publishing(server, "news") as publishing:
            for _ in range(3):
                publishing.wait_for()
                await asyncio.to_thread(upgrade, server)
            publishing.wait_for()
        expected = list(range(publishing.count))
        for one in (client, deflated, bystander):
            assert await received(one, len(expected)) == expected
        heard = await asyncio.to_thread(lambda: [stream.next()["data"] for _ in expected])
        assert heard == expected
        # The new process serves them, and knows who they are.
        server.forget_publisher()
        assert server.publish("user.42", "own") == 1
        assert (await client.next())["data"] == "own"
        assert (await client.ask(op="topics"))["topics"] == ["news", "user.42"]
        assert await bystander.heard() == []
        async with server.client("46", since=client.id) as newcomer:
            assert newcomer.welcome["resumed"], "the cursor is still good"
            assert newcomer.welcome["conn"].split("-")[0] == conn.split("-")[0]


async def test_a_slow_client_gets_its_backlog_from_the_new_process(begin):
    server = begin(*DEEP)
    payload, count = "x" * 100_000, 100
    slow = Raw(server, receive_buffer=4096)
    slow.upgrade(token("slow"))
    async with server.client("43") as bystander:
        for number in range(count):
            assert server.publish("user.slow", f'"{number}{payload}"') == 1
        server.forget_publisher()
        await asyncio.to_thread(upgrade, server)
        frames = await asyncio.to_thread(lambda: [slow.frame()[1] for _ in range(count)])
        found = [int(re.search(rb'"data":"(\d+)x', frame)[1]) for frame in frames]
        assert found == list(range(count))
        assert await bystander.heard() == []
    slow.socket.close()


async def test_a_publisher_in_the_middle_of_a_command_goes_on(begin):
    server = begin()
    async with server.client("42") as client, server.client("43") as bystander:
        publisher = Publisher(*server.publishers)
        subscriber = Publisher(*server.publishers)
        assert subscriber.command("SUBSCRIBE", "pub.user.42")[:2] == ["subscribe", "pub.user.42"]
        command = b"*3\r\n$7\r\nPUBLISH\r\n$11\r\npub.user.42\r\n$3\r\n123\r\n"
        publisher.socket.sendall(command[:30])
        assert server.publish("user.42", 1) == 2
        server.forget_publisher()
        assert (await client.next())["data"] == 1
        await asyncio.to_thread(upgrade, server)
        publisher.socket.sendall(command[30:])
        assert publisher.reply() == 2
        assert (await client.next())["data"] == 123
        assert await bystander.heard() == []
        publisher.close()
        subscriber.close()


async def test_a_unix_socket_stays_in_its_place(begin, tmp_path):
    path = tmp_path / "listen"
    server = begin(listen=f"unix:{path}")
    async with server.client("42") as client:
        await asyncio.to_thread(upgrade, server)
        assert path.is_socket()
        async with server.client("43", options={"sock": unix_stream(path)}) as newcomer:
            server.publish("user.42", 1)
            assert (await client.next())["data"] == 1
            assert await newcomer.heard() == []
    server.forget_publisher()
    server.signal()
    server.process.wait()
    assert not path.exists(), "the one that ends last removes the file"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_session_tickets_are_good_at_the_new_process(begin, start, authority, version):
    server = begin(authority=authority)
    bystander = start(authority=authority)
    server.tls.minimum_version = server.tls.maximum_version = version

    def visit(at, session=None):
        """Visits with a session: (whether it was resumed, the next session)."""
        with socket.create_connection(at.address, DEADLINE) as stream, server.tls.wrap_socket(
                stream, server_hostname=at.address[0], session=session) as secured:
            # The tickets of TLS 1.3 come before the answer.
            secured.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert secured.recv(4096).startswith(b"HTTP/1.1 200 ")
            return secured.session_reused, secured.session

    reused, session = visit(server)
    assert not reused
    for _ in range(2):
        await asyncio.to_thread(upgrade, server)
        reused, session = visit(server, session)
        assert reused
    assert not visit(bystander, session)[0], "another server has other keys"


GREETING = "import os, time; os.write(0, b'oneloop\\n' + (2).to_bytes(4, 'little'))"
FAILURES = {
    "missing": (None, "cannot be started"),
    "ends": ("exit 3", "has ended"),
    "refuses the settings": (f'exec {BINARY} "$@" --nonsense', "has ended"),
    "cannot have the same routes": (f'exec {BINARY} "$@" --prefix other.', "an upgrade cannot change prefix"),
    "dies while it takes over": (f'exec python3 -c "{GREETING}; os.read(0, 10); os._exit(1)"', "has ended"),
    "hangs while it takes over": (f'exec python3 -c "{GREETING}; time.sleep(60)"', "does not answer"),
    "hangs at once": ("exec sleep 60", "does not answer"),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_if_the_new_process_fails_the_old_one_goes_on(begin, program, failure):
    script, said = FAILURES[failure]
    server = begin(*DEEP)
    program.unlink()
    if script:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    async with server.client("42") as client, server.client("43") as bystander:
        with Publishing(server, "user.42") as publishing:
            publishing.wait_for()
            os.kill(server.process.pid, signal.SIGUSR2)
            await asyncio.to_thread(server.wait_for_log, "everybody stays connected")
            publishing.wait_for()
        assert said in server.log()
        assert await received(client, publishing.count) == list(range(publishing.count))
        assert await bystander.heard() == []
        # The next attempt is a new one.
        program.unlink(missing_ok=True)
        program.symlink_to(BINARY)
        server.forget_publisher()
        await asyncio.to_thread(upgrade, server)
        server.publish("user.42", "new")
        assert (await client.next())["data"] == "new"
        assert await bystander.heard() == []


def other_build(program, version=None):
    """Puts a second build there, which reads and writes another version of the state if one is named."""
    assert OTHER.exists(), "the tests need a debug build beside the binary: cargo build"
    variable = f"STATE_VERSION={version}" if version else "-u STATE_VERSION"
    program.unlink()
    program.write_text(f'#!/bin/sh\nexec env {variable} {OTHER} "$@"\n')
    program.chmod(0o755)


async def test_another_version_is_refused_both_ways(start, program):
    new, other = start("--topics", "news", wrapper=(*UNDER, program)), program.with_name("other")
    other.write_text(f'#!/bin/sh\nexec env -u STATE_VERSION {BINARY} "$@"\n')
    other.chmod(0o755)
    other_build(program, version=7)
    # The binary's own name stands before the flags: this wrapper runs the other build in its place.
    wrapper = ("bash", "-c", f'shift; exec -a "$0" {OTHER} "$@"', other)
    old = start("--topics", "news", wrapper=wrapper, variables={"STATE_VERSION": "7"})
    for server, said in (
        (new, r"it reads version 7 of the state, and this process writes \d\b"),
        (old, r"it reads version \d of the state, and this process writes 7"),
    ):
        async with server.client("42") as client, server.client("43") as bystander:
            os.kill(server.process.pid, signal.SIGUSR2)
            await asyncio.to_thread(server.wait_for_log, said)
            await asyncio.to_thread(server.wait_for_log, "everybody stays connected")
            server.publish("user.42", 1)
            assert (await client.next())["data"] == 1
            assert await bystander.heard() == []


async def test_another_build_of_the_same_version_takes_over_and_hands_over(begin, program):
    server = begin()
    async with server.client("42") as client, server.client("43") as bystander:
        other_build(program)
        await asyncio.to_thread(upgrade, server)
        program.write_text(f'#!/bin/sh\nexec {BINARY} "$@"\n')
        await asyncio.to_thread(upgrade, server)
        server.forget_publisher()
        server.publish("user.42", 1)
        assert (await client.next())["data"] == 1
        assert await bystander.heard() == []


async def test_systemd_is_told_of_the_new_main_process(begin, program):
    with contextlib.closing(Supervisor(is_abstract=True)) as supervisor:
        server = begin(variables=variables(supervisor, WATCHDOG_USEC="100000"))
        old = server.process.pid
        assert supervisor.next("READY=1") and supervisor.sender == old
        async with server.client("42") as client, server.client("43") as bystander:
            await asyncio.to_thread(upgrade, server)
            new = server.process.pid
            # The old one says so before it ends, and the new one says nothing before that: systemd would not listen.
            assert supervisor.next("MAINPID") == f"MAINPID={new}" and supervisor.sender == old
            supervisor.next("")
            assert supervisor.said[-1] == "READY=1\nSTATUS=2 clients" and supervisor.sender == new
            assert supervisor.next("WATCHDOG") and supervisor.sender == new
            program.unlink()
            script(program, "exit 3")
            server.signal(signal.SIGUSR2)
            await asyncio.to_thread(server.wait_for_log, "everybody stays connected")
            for _ in range(3):
                assert supervisor.next("WATCHDOG") and supervisor.sender == new
            assert [text for text in supervisor.said if "MAINPID" in text] == [f"MAINPID={new}"]
            server.publish("user.42", 1)
            assert (await client.next())["data"] == 1
            assert await bystander.heard() == []


def proxied(source):
    """A header of the PROXY protocol, version 2."""
    rest = socket.inet_aton(source) + socket.inet_aton("127.0.0.1") + struct.pack("!HH", 1, 2)
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x11, len(rest)) + rest


async def test_addresses_count_on_as_proxies_name_them(begin):
    server = begin("--proxies", "127.0.0.1", "--proxy-protocol", "v2", "--clients-per-address-max", 2)

    def come(source, sub):
        raw = Raw(server)
        raw.send(proxied(source) + head(server, bearer=token(sub)))
        return raw

    def welcomed(raw):
        assert raw.answer()[0] == 101 and json.loads(raw.frame()[1])["op"] == "welcome"
        return raw

    first, second = welcomed(come("192.0.2.1", "1")), welcomed(come("192.0.2.1", "2"))
    # Its header is not whole when the process changes.
    half, before = Raw(server), counter(server, "received_bytes_total")
    half.send(proxied("192.0.2.2")[:20])
    eventually(lambda: counter(server, "received_bytes_total") >= before + 20, "it was read")
    await asyncio.to_thread(upgrade, server)
    with come("192.0.2.1", "3") as third:
        assert third.answer()[0] == 429
    half.send(proxied("192.0.2.2")[20:] + head(server, bearer=token("4")))
    welcomed(half)
    second.socket.close()
    eventually(lambda: counter(server, "clients") == 2, "one has gone")
    third = welcomed(come("192.0.2.1", "3"))
    assert server.publish("user.1", 1) == 1
    assert json.loads(first.frame()[1])["data"] == 1
    for raw in (first, half, third):
        raw.socket.close()


async def test_a_revoked_token_stays_revoked(begin):
    server, now = begin("--control", "ctl"), int(time.time())
    bearer = token("42", iat=now - 60)
    async with server.client("42", bearer=bearer) as client, \
            server.client("43", iat=now - 60) as bystander:
        words = json.dumps({"op": "revoke", "sub": "42", "before": now - 30})
        assert server.publisher.command("PUBLISH", "ctl", words) == 1
        assert (await client.closed())[0] == 4500
        await asyncio.to_thread(upgrade, server)
        status, _, body = await server.refusal(bearer)
        assert status == 401 and json.loads(body)["reason"] == "revoked"
        async with server.client("42", iat=now) as later:
            server.forget_publisher()
            assert server.publish("user.42", 1) == 1
            assert await later.heard() == [("user.42", 1)]
        # One that came before stays who he is: his own token is revoked by the new process.
        words = json.dumps({"op": "revoke", "sub": "43", "before": now - 30})
        assert server.publisher.command("PUBLISH", "ctl", words) == 1
        assert (await bystander.closed())[0] == 4500


@pytest.mark.parametrize("failure", ["ends", "cannot listen", "cannot have the same routes"])
async def test_a_failed_upgrade_leaves_a_unix_socket_in_its_place(begin, program, tmp_path, failure):
    path = tmp_path / "listen"
    server = begin(listen=f"unix:{path}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        script(program.with_name("new"), {
            "ends": "exit 3",
            # It has been given the listeners by then.
            "cannot listen": f'exec {BINARY} "$@" --admin 127.0.0.1:{taken.getsockname()[1]}',
            "cannot have the same routes": f'exec {BINARY} "$@" --prefix other.',
        }[failure]).rename(program)
        before = path.stat().st_ino
        async with server.client("42") as client:
            os.kill(server.process.pid, signal.SIGUSR2)
            await asyncio.to_thread(server.wait_for_log, "everybody stays connected")
            assert path.is_socket() and path.stat().st_ino == before
            async with server.client("43", options={"sock": unix_stream(path)}) as newcomer:
                server.publish("user.42", 1)
                assert (await client.next())["data"] == 1
                assert await newcomer.heard() == []


def command(server, *arguments):
    """`oneloop upgrade` of this server."""
    return oneloop("upgrade", "--pid", server.process.pid, *arguments)


def script(path, last):
    """A program with the version of a oneloop that accepts the settings, and does this instead of serving."""
    path.write_text(
        "#!/bin/sh\n"
        'case "$*" in --version) echo "oneloop 9.9 (a script)"; exit ;; *--check) exit ;; esac\n'
        f"{last}\n"
    )
    path.chmod(0o755)
    return path


async def test_the_command_puts_a_binary_in_place_and_says_who_serves(begin, program, tmp_path):
    server, new = begin(), tmp_path / "next"
    program.unlink()
    shutil.copy(BINARY, program)
    shutil.copy(BINARY, new)
    before = program.stat().st_ino
    async with server.client("42") as client, server.client("43") as bystander:
        for number, binary in enumerate(([new], [])):
            done = await asyncio.to_thread(command, server, *binary)
            assert done.returncode == 0, done.stderr
            pids = re.match(r"process (\d+) has taken over from (\d+): oneloop \d", done.stdout)
            assert int(pids[2]) == server.process.pid
            server.process = Successor(int(pids[1]))
            server.forget_publisher()
            server.publish("user.42", number)
            assert (await client.next())["data"] == number
        assert await bystander.heard() == []
    assert program.stat().st_ino != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["next", "oneloop"]


@pytest.mark.parametrize("last, said", [
    ("exit 3", "exit status: 3"),
    ("exec sleep 60", "it does not answer"),
])
async def test_a_binary_that_fails_leaves_its_place_to_the_old_one(begin, program, tmp_path, last, said):
    server = begin()
    async with server.client("42") as client, server.client("43") as bystander:
        done = await asyncio.to_thread(command, server, script(tmp_path / "next", last))
        assert done.returncode == 1, done.stdout
        assert f"process {server.process.pid} goes on: the new process has ended" in done.stderr
        assert said in done.stderr, "the old process' own words"
        server.publish("user.42", 1)
        assert (await client.next())["data"] == 1
        assert await bystander.heard() == []
    assert program.resolve() == Path(BINARY).resolve()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["next", "oneloop"]


async def test_nothing_is_started_that_other_users_could_have_put_there(begin, program, tmp_path):
    server = begin()
    async with server.client("42") as client, server.client("43") as bystander:
        tmp_path.chmod(0o777)
        done = await asyncio.to_thread(command, server)
        assert done.returncode == 2 and f"anybody may write to {tmp_path}" in done.stderr
        tmp_path.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(tmp_path, 65534, -1)
            done = await asyncio.to_thread(command, server)
            assert done.returncode == 2 and f"{tmp_path} belongs to user 65534" in done.stderr
            os.chown(tmp_path, 0, -1)
        server.publish("user.42", 1)
        assert (await client.next())["data"] == 1
        assert await bystander.heard() == []
    assert "upgrade" not in server.log()


async def test_of_two_commands_at_once_the_second_does_nothing(begin, program, tmp_path):
    server = begin()
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    os.mkfifo(gate)
    slow = script(tmp_path / "slow", "exit 3")
    slow.write_text(slow.read_text().replace('echo "oneloop', f'touch {mark}; read it < {gate}; echo "oneloop'))
    async with server.client("42") as client, server.client("43") as bystander:
        first = asyncio.create_task(asyncio.to_thread(command, server, slow))
        await asyncio.to_thread(eventually, mark.exists, "the first command tries its binary")
        before = sorted(tmp_path.iterdir())
        for arguments in ([], [BINARY]):
            done = await asyncio.to_thread(command, server, *arguments)
            assert (done.returncode, done.stdout) == (2, ""), done.stderr
            assert f"another upgrade of a program in {tmp_path} is under way" in done.stderr
        assert sorted(tmp_path.iterdir()) == before
        assert "upgrade" not in server.log()
        gate.write_text("go on\n")
        assert (await first).returncode == 1
        done = await asyncio.to_thread(command, server)
        assert done.returncode == 0, done.stderr
        server.process = Successor(int(done.stdout.split()[1]))
        server.forget_publisher()
        server.publish("user.42", 1)
        assert (await client.next())["data"] == 1
        assert await bystander.heard() == []


async def test_variables_of_the_server_are_not_those_of_the_command(begin, tmp_path):
    mark = tmp_path / "mark"
    server = begin(variables={"MARK": "seen"})
    new = script(tmp_path / "next", "exit 3")
    new.write_text(new.read_text().replace('echo "oneloop', f'echo "$MARK" > {mark}; echo "oneloop'))
    done = await asyncio.to_thread(command, server, new)
    assert done.returncode == 1 and mark.read_text() == "\n"


async def test_nothing_is_tried_with_a_binary_that_cannot_serve(begin, program, tmp_path):
    server = begin()
    refusing = script(tmp_path / "refusing", "exit 3")
    refusing.write_text(refusing.read_text().replace("*--check) exit", "*--check) echo no such prefix >&2; exit 2"))
    async with server.client("42") as client, server.client("43") as bystander:
        for binary, said in (
            (refusing, "refuses the settings of process"), ("/bin/true", "is no oneloop"),
            ("/nowhere", "cannot be copied"), (tmp_path, "cannot be copied"),
        ):
            done = await asyncio.to_thread(command, server, binary)
            assert (done.returncode, done.stdout) == (2, ""), done.stderr
            assert said in done.stderr
        server.publish("user.42", 1)
        assert (await client.next())["data"] == 1
        assert await bystander.heard() == []
    assert "upgrade" not in server.log()
    assert program.resolve() == Path(BINARY).resolve()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["oneloop", "refusing"]
    done = oneloop("upgrade", "--pid", os.getpid())
    assert done.returncode == 2 and "no oneloop that serves" in done.stderr


async def test_the_primary_of_sentinels_is_known_to_the_new_process(begin, trio):
    server = begin(*QUICK, redis=trio)
    async with audience(server) as clients:
        connections = trio.primary().command("CLIENT", "LIST", "TYPE", "pubsub")
        await asyncio.to_thread(upgrade, server)
        # The connection is the same one: nothing can have been missed.
        number = re.search(r"id=(\d+) .*name=oneloop ", connections)[1]
        assert f"id={number} " in trio.primary().command("CLIENT", "LIST", "TYPE", "pubsub")
        clients.ups = ups(server)
        await clients.hears()
        server.forget_publisher()
        await asyncio.to_thread(trio.fail_over)
        await clients.is_back()
        await clients.hears(gaps=1)


async def test_a_stream_goes_on_and_nobody_comes_or_goes(begin, redis):
    server = begin(*DEEP, "--streams", "orders", "--events", "stream:here", "--offline-seconds", 0, redis=redis)
    back_end = redis.publisher()
    async with server.client("42") as client, server.client("43") as bystander:
        eventually(lambda: back_end.command("XLEN", "here") == 2, "both are online")
        with Publishing(server, "user.42", stream="orders") as adding:
            for _ in range(3):
                await asyncio.to_thread(upgrade, server)
                server.wait_ready()
        count = adding.count
        assert await received(client, count) == list(range(count))
        assert await bystander.heard() == []
        # A user comes once the new process has told of those that were there.
        async with server.client("44"):
            eventually(lambda: back_end.command("XLEN", "here") == 3, "the third is online")
        # Each of them leaves once, and nobody left before. What the last process but one reported ends after 15 seconds.
        await client.connection.close()
        eventually(lambda: back_end.command("XLEN", "here") == 5, "two are offline")
        events = back_end.command("XRANGE", "here", "-", "+")
        assert [fields[fields.index("event") + 1] for _, fields in events] == ["online"] * 3 + ["offline"] * 2
    back_end.close()


async def test_messages_of_zeromq_are_taken_on_by_the_new_process(begin):
    zmq = pytest.importorskip("zmq")
    server = begin(*DEEP, "--zeromq", "tcp://127.0.0.1:0")
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.connect(server.line("zeromq"))
        async with server.client("42") as client, server.client("43") as bystander:
            count = 0
            for _ in range(3):
                upgrading = asyncio.create_task(asyncio.to_thread(upgrade, server))
                while not upgrading.done():
                    push.send_multipart([b"pub.user.42", str(count).encode()])
                    count += 1
                    await asyncio.sleep(0.001)
                await upgrading
            server.forget_publisher()
            assert await received(client, count) == list(range(count))
            assert await bystander.heard() == []


@pytest.mark.parametrize("has_redis", [False, True])
async def test_members_are_listed_on(begin, request, has_redis):
    redis = request.getfixturevalue("redis") if has_redis else None
    server = begin("--members", "news", redis=redis)
    async with server.client("43") as bystander, server.client("42") as client:
        assert (await client.ask(op="members", topic="news", ref=1))["users"] == ["42", "43"]
        await asyncio.to_thread(upgrade, server)
        listed = await client.next()
        # Nobody but the other one is reported before.
        while len(listed["users"]) < 2:
            listed["users"] = sorted(listed["users"] + (await client.next())["joined"])
        assert (listed["op"], listed["users"]) == ("members", ["42", "43"])
        async with server.client("44"):
            assert (await client.next())["joined"] == ["44"]
        assert (await client.next())["left"] == ["44"]
        assert (await client.ask(op="topics"))["topics"] == ["news", "user.42"]
        server.forget_publisher()
        assert await bystander.heard() == []
