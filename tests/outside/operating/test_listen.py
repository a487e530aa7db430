"""Addresses for clients: several at once, Unix sockets among them, and the files of these."""

import asyncio
import contextlib
import grp
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from helpers.process import BINARY, HELPERS, environment, eventually, oneloop, run
from helpers.raw_client import Raw, head
from helpers.reverse_proxies import Proxy
from helpers.server import counter
from helpers.settings_file import OLD, Settings
from helpers.tokens import token

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


@pytest.fixture
def path():
    """A path that every user of the machine reaches."""
    with tempfile.TemporaryDirectory(prefix="oneloop-socket-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "socket"


@pytest.fixture
def unix_server(start, path):
    """A server at a Unix socket alone."""
    return start("--topics", "news", listen=f"unix:{path}")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


async def test_all_listeners_serve_the_same_routes(start, path):
    server = start("--topics", "news", listen=f"127.0.0.1:0,unix:{path},127.0.0.2:0")
    urls = server.lines("clients")
    assert [url.split(":")[0] for url in urls] == ["ws", "unix", "ws"]
    assert urls[1] == f"unix:{path}:/ws" and "127.0.0.2" in urls[2]
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for number, url in enumerate(urls):
            server.listens_at(url)
            clients.append(await stack.enter_async_context(server.client(number)))
        server.publish("user.1", "to one")
        server.publish("news", "to all")
        all_heard = [await client.heard() for client in clients]
    assert all_heard == [
        [("news", "to all")], [("user.1", "to one"), ("news", "to all")], [("news", "to all")],
    ]


async def test_a_unix_socket_carries_what_tcp_carries(unix_server):
    """Whole and in order, whatever its buffers hold."""
    server = unix_server
    async with server.client("1") as client, server.client("2") as bystander:
        for size in (1, 125, 65_536, 300_000):
            server.publish("user.1", "x" * size)
        for number in range(500):
            server.publish("user.1", number)
        heard = [data for _, data in await client.heard()]
        assert [len(text) for text in heard[:4]] == [1, 125, 65_536, 300_000]
        assert heard[4:] == list(range(500))
        assert await bystander.heard() == []
        # A message that comes in many pieces, and one above a bound.
        await client.send(json.dumps({"op": "ping", "padding": "x" * 3000}))
        await client.next()
        await client.send("x" * 200_000)
        assert (await client.closed())[0] == 1009
        assert await bystander.heard() == []


async def test_descriptors_that_a_peer_passes_along_are_not_kept(unix_server, path):
    folder = Path(f"/proc/{unix_server.process.pid}/fd")
    async with unix_server.client("2") as bystander:
        before = len(list(folder.iterdir()))
        with Raw(unix_server) as peer, open("/dev/null") as null:
            request = head(unix_server, bearer=token("1"))
            socket.send_fds(peer.socket, [request], [null.fileno()] * 100)
            assert peer.answer()[0] == 101
            peer.frame()
            assert len(list(folder.iterdir())) == before + 1
            unix_server.publish("user.1", 1)
            assert json.loads(peer.frame()[1])["data"] == 1
        assert await bystander.heard() == []


def test_without_room_a_unix_socket_answers_as_tcp_does(start, path):
    server = start("--clients-max", "1", listen=f"unix:{path}")
    with Raw(server) as first, Raw(server) as second:
        first.upgrade(token("1"))
        second.send(head(server, bearer=token("2")))
        assert second.answer()[0] == 503


async def test_a_slow_client_on_a_unix_socket_is_closed_and_others_are_not(start, path):
    server = start("--stalled-seconds", "1", "--topics", "news", listen=f"unix:{path}")
    async with server.client("2") as bystander:
        with Raw(server) as slow:
            slow.upgrade(token("1"))
            # More than its socket takes.
            for _ in range(20):
                server.publish("user.1", "x" * 50_000)
            label = 'closes_total{code="4000"}'
            await asyncio.to_thread(eventually, lambda: counter(server, label) == 1, "it is closed")
        server.publish("user.2", "quick")
        assert await bystander.heard() == [("user.2", "quick")]


async def test_one_that_reads_late_gets_all(start, path):
    """The writable edge of a Unix socket comes when its peer has read most of what it held."""
    server = start(listen=f"unix:{path}")
    async with server.client("2") as bystander:
        with Raw(server) as late:
            late.upgrade(token("1"))
            for number in range(15):
                server.publish("user.1", str(number) + "x" * 50_000)
            await asyncio.to_thread(eventually, lambda: counter(server, "backlog_bytes") > 0, "the socket is full")
            for number in range(15):
                assert json.loads(late.frame()[1])["data"].startswith(str(number) + "x")
        assert await bystander.heard() == []


def test_plain_http_and_health_checks(unix_server, path):
    for where, status in (("/healthz", 200), ("/oneloop.js", 200), ("/nothing", 404)):
        with Raw(unix_server) as raw:
            raw.send(f"GET {where} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert raw.answer()[0] == status


async def test_a_peer_counts_as_this_machine(start, path):
    """As 127.0.0.1: the limit on one address holds, and a proxy that is listed tells of its clients."""
    server = start("--clients-per-address-max", "1", listen=f"unix:{path},127.0.0.1:0")
    line = ["X-Forwarded-For: 192.0.2.1"]
    with Raw(server) as first:
        first.upgrade(token("1"))
        with Raw(server) as second:
            second.send(head(server, bearer=token("2"), extra=line))
            assert second.answer()[0] == 429
        server.listens_at(server.lines("clients")[1])
        with Raw(server) as third:
            third.send(head(server, bearer=token("2")))
            assert third.answer()[0] == 429
    behind = start("--clients-per-address-max", "1", "--proxies", "127.0.0.1", listen=f"unix:{path}2")
    with Raw(behind) as first, Raw(behind) as second, Raw(behind) as third:
        first.upgrade(token("1"), extra=line)
        second.send(head(behind, bearer=token("2"), extra=line))
        assert second.answer()[0] == 429
        third.upgrade(token("2"), extra=["X-Forwarded-For: 192.0.2.2"])


async def test_the_proxy_protocol_works_over_a_unix_socket(start, path):
    server = start("--proxies", "127.0.0.1", "--proxy-protocol", "v2", "--clients-per-address-max", "1",
                   listen=f"unix:{path}")

    def header(source):
        rest = socket.inet_aton(source) + socket.inet_aton("127.0.0.1") + struct.pack("!HH", 1, 2)
        return SIGNATURE + struct.pack("!BBH", 0x21, 0x11, len(rest)) + rest

    with Raw(server) as first, Raw(server) as second, Raw(server) as third, Raw(server) as bare:
        first.send(header("192.0.2.1"))
        first.upgrade(token("1"))
        second.send(header("192.0.2.1") + head(server, bearer=token("2")))
        assert second.answer()[0] == 429
        third.send(header("192.0.2.2"))
        third.upgrade(token("2"))
        bare.send(head(server, bearer=token("3")))
        assert not bare.more()
        assert server.publish("user.1", "to one") == 1


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_file_has_the_mode_and_the_group_of_the_settings(start, path, umask):
    wrapper = ["sh", "-c", f'umask {umask:03o}; exec "$@"', "sh"]
    start(listen=f"unix:{path}", wrapper=wrapper)
    assert mode(path) == 0o660 and path.stat().st_gid == os.getegid()
    group = grp.getgrgid(os.getegid()).gr_name
    other = path.with_name("other")
    start("--unix-mode", "0606", "--unix-group", group, listen=f"unix:{other}", wrapper=wrapper)
    assert mode(other) == 0o606 and other.stat().st_gid == os.getegid()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to any group")
def test_the_group_lets_its_processes_in_and_nobody_else(start, path):
    server = start("--unix-group", "daemon", listen=f"unix:{path}")
    assert path.stat().st_gid == grp.getgrnam("daemon").gr_gid

    def answer(group):
        command = ["curl", "--silent", "--unix-socket", path, "http://localhost/healthz"]
        return run(*command, user=65534, group=grp.getgrnam(group).gr_gid, extra_groups=[]).stdout

    assert answer("nogroup") == ""
    assert answer("daemon") == "ok\n"
    # Of this test and of the operator.
    assert counter(server, 'http_responses_total{status="200"}') >= 1


async def test_the_file_of_a_dead_server_is_replaced(start, path):
    first = start(listen=f"unix:{path}")
    first.signalled = True
    first.kill()
    assert path.exists()
    first.stop = lambda: None
    server = start(listen=f"unix:{path}")
    async with server.client("1") as client, server.client("2") as bystander:
        server.publish("user.1", 1)
        assert await client.heard() == [("user.1", 1)]
        assert await bystander.heard() == []
    server.stop()
    assert not path.exists()


async def test_the_file_of_a_live_server_is_not(unix_server, path):
    async with unix_server.client("1") as client, unix_server.client("2") as bystander:
        second = oneloop("--listen", f"unix:{path}", "--publishers", "127.0.0.1:0")
        assert (second.returncode, second.stderr) == (
            1, f"oneloop: cannot listen on unix:{path}: another server listens there\n")
        unix_server.publish("user.1", 1)
        assert await client.heard() == [("user.1", 1)]
        assert await bystander.heard() == []
    async with unix_server.client("1"):
        pass


def test_a_file_that_is_no_socket_is_left_alone(path):
    path.write_text("precious")
    done = oneloop("--listen", f"unix:{path}", "--publishers", "127.0.0.1:0")
    assert done.returncode == 1 and "there is a file at this path that is no socket" in done.stderr
    assert path.read_text() == "precious"


def test_a_file_that_another_server_put_there_stays(unix_server, path):
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        unix_server.stop()
        assert path.exists()


@pytest.mark.parametrize(("flags", "status", "why"), [
    (("--listen", "unix:/" + "x" * 107), 2, "has 108 bytes, and the system takes 107"),
    (("--listen", "unix:/nowhere/socket"), 1, "cannot listen on unix:/nowhere/socket: No such file"),
    (("--listen", "unix:/tmp/x", "--unix-group", "no-such-group"), 2, "has no group \"no-such-group\""),
    (("--listen", "unix:/tmp/x", "--unix-mode", "rw"), 2, "is not an octal number"),
    (("--listen", "127.0.0.1:0,unix:/nowhere/socket"), 1, "unix:/nowhere/socket"),
    (("--listen", "192.0.2.1:1,127.0.0.1:0", "--page", "false"), 2, "which others can reach, but there is no key"),
])
def test_what_cannot_be_listened_at_is_a_sentence(flags, status, why):
    done = oneloop(*flags, "--publishers", "127.0.0.1:0")
    assert (done.returncode, done.stderr.count("\n")) == (status, 1) and why in done.stderr, done


async def test_the_addresses_need_a_restart(start, tmp_path, path):
    settings = Settings(tmp_path, start)
    server = settings.start(f'listen = ["127.0.0.1:0", "unix:{path}"]\n', listen=None)
    async with server.client("1", secret=OLD) as client, server.client("2", secret=OLD) as bystander:
        log = settings.reload(f'listen = ["unix:{path}"]\nunix.mode = "0600"\n')
        assert "needs a restart: listen" in log and "needs a restart: unix.mode" in log
        assert mode(path) == 0o660
        server.listens_at(server.lines("clients")[1])
        async with server.client("3", secret=OLD) as newcomer:
            server.publish("user.3", 3)
            assert await newcomer.heard() == [("user.3", 3)]
        server.publish("user.1", 1)
        assert await client.heard() == [("user.1", 1)]
        assert await bystander.heard() == []


async def test_passed_sockets_take_the_places_of_the_addresses(start, path):
    passed = path.with_name("passed")
    wrapper = [sys.executable, str(HELPERS / "socket_activation.py"), f"127.0.0.2,{passed}"]
    server = start(wrapper=wrapper, listen=f"127.0.0.1:0,unix:/nowhere/socket,unix:{path}")
    urls = server.lines("clients")
    assert urls[0].startswith("ws://127.0.0.2:")
    assert urls[1:] == [f"unix:{passed}:/ws", f"unix:{path}:/ws"]
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for number, url in enumerate(urls):
            server.listens_at(url)
            clients.append(await stack.enter_async_context(server.client(number)))
        server.publish("user.1", 1)
        assert [await client.heard() for client in clients] == [[], [("user.1", 1)], []]
    server.stop()
    assert passed.exists() and not path.exists(), "only the manager removes what it made"


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
async def test_behind_a_proxy_by_a_unix_socket(start, tmp_path, path, kind):
    server = start("--proxies", "127.0.0.1", "--clients-per-address-max", "1", "--unix-mode", "0666",
                   listen=f"unix:{path}")
    place = f"unix/{path}" if kind == "caddy" else f"unix:{path}"
    server.host = place
    proxy = Proxy(kind, server, tmp_path)
    server.host = "localhost"
    try:
        async with proxy.dial(token("1"), "127.0.0.2") as one, proxy.dial(token("2"), "127.0.0.3") as two:
            client, bystander = await server.enter(one, "1"), await server.enter(two, "2")
            server.publish("user.1", 1)
            assert await client.heard() == [("user.1", 1)]
            assert await bystander.heard() == []
        assert counter(server, "forwarded_missing_total") == 0
    finally:
        proxy.end()


def test_commands_on_this_machine_find_the_socket(unix_server, path):
    flags = ("--listen", f"unix:{path}", "--publishers", "%s:%d" % unix_server.publishers)
    report = oneloop("doctor", *flags, ONELOOP_JWT_SECRET="x" * 32)
    assert f"unix:{path} is served by a oneloop (it answered" in report.stdout, report
    free = oneloop("doctor", "--listen", f"unix:{path}2", ONELOOP_JWT_SECRET="x" * 32)
    assert f"unix:{path}2 is free: nobody is served there" in free.stdout


async def test_subscribe_takes_the_line_of_the_start(unix_server):
    url = unix_server.line("clients")
    process = await asyncio.create_subprocess_exec(
        BINARY, "subscribe", "--url", url, "--count", "1", "--token", token("1"), stdout=subprocess.PIPE,
        env=environment())
    async with unix_server.client("2") as bystander:
        await asyncio.to_thread(
            eventually, lambda: unix_server.publish("user.1", "to one") == 1, "it is there")
        output, _ = await process.communicate()
        assert b"to one" in output
        assert await bystander.heard() == []
