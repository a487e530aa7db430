"""`oneloop top`: the live state of a server, in place in a terminal and as lines elsewhere."""

import contextlib
import json
import os
import pty
import re
import select
import socket
import subprocess
import threading
import time

import pytest
from helpers.process import BINARY, DEADLINE, environment, eventually, oneloop
from helpers.raw_client import Raw
from helpers.server import counter
from helpers.tokens import token

# More than the kernel buffers for a client with a small receive buffer.
PADDING, MESSAGES = "x" * 200_000, 60


def address(server):
    return server.line("admin")


def lines_of(*arguments):
    """The first lines of a running `top`, and its exit status once its output is closed."""
    command = [BINARY, "top", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=environment()) as process:
        try:
            lines = [process.stdout.readline() for _ in range(2)]
            process.stdout.close()
            return lines, process.wait(timeout=DEADLINE), process.stderr.read()
        finally:
            process.kill()


async def test_once_is_one_block_of_plain_text(server):
    async with server.many_clients(3):
        done = oneloop("top", "--once", "--admin", address(server))
    assert done.returncode == 0 and done.stderr == ""
    assert "\x1b" not in done.stdout
    assert f"oneloop at {address(server)}\n" in done.stdout
    assert re.search(r"^  clients +3 open ", done.stdout, re.MULTILINE)
    assert re.search(r"^  source +up ", done.stdout, re.MULTILINE)
    assert re.search(r"^  memory +[\d.]+ MB resident   [\d.]+ \wB for each", done.stdout, re.M)


def slowest(server):
    """Snapshots of `/clients`, one each second."""
    status, headers, text = server.admin("/clients")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    told = json.loads(text)
    assert list(told) == ["clients"]
    return told["clients"]


async def test_who_reads_slowly_is_told_of_and_who_reads_is_not(start):
    server = start("--backlog-bytes-max", "64MiB")
    async with (server.client("reads", topics=["a"]) as reader,
                server.client("other", topics=["b"]) as bystander):
        with Raw(server, receive_buffer=4096) as raw:
            welcome = raw.upgrade(token('s\u0303"l\\ow', topics=["a"]))
            assert slowest(server) == []
            assert "slowest" not in oneloop("top", "--once", "--admin", address(server)).stdout
            for number in range(MESSAGES):
                assert server.publish("a", PADDING) == 2
                assert (await reader.next())["data"] == PADDING
            eventually(lambda: slowest(server), "a second has passed")
            [told] = slowest(server)
            assert 0 < told["frames"] <= MESSAGES
            assert len(PADDING) * (told["frames"] - 1) < told["bytes"] < 201_000 * told["frames"]
            assert told == {"conn": welcome["conn"], "route": "/ws", "sub": 's\u0303"l\\ow', "full": True,
                            "topics": 2, "bytes": told["bytes"], "frames": told["frames"]}
            done = oneloop("top", "--once", "--admin", address(server))
            rows = re.findall(r"^  slowest +([\d.]+) MB   (\d+) frames   full   2 topics   /ws   s",
                              done.stdout, re.M)
            assert rows == [(f"{told['bytes'] / 1e6:.1f}", str(told["frames"]))], done.stdout
        assert await bystander.heard() == []
        eventually(lambda: slowest(server) == [], "whoever is gone is owed nothing")
    # Asked without pause, all clients are looked at once a second.
    before, start_of_it = counter(server, "backlog_walks_total"), time.monotonic()
    for _ in range(100):
        slowest(server)
    walks = counter(server, "backlog_walks_total") - before
    assert walks <= time.monotonic() - start_of_it + 1.01


def test_who_is_connected_is_told_to_no_page_whose_name_was_pointed_here(server):
    host, _, port = address(server).removeprefix("http://").rpartition(":")
    for name, status in [(f"evil.example:{port}", 403), (f"{host}:{port}", 200), (f"localhost:{port}", 200)]:
        assert server.http(path="/clients", headers={"Host": name}, address=(host, int(port)))[0] == status, name


async def test_the_address_comes_from_the_settings_too(server):
    host = address(server).removeprefix("http://")
    assert oneloop("top", "--once", ONELOOP_ADMIN=host).returncode == 0
    missing = oneloop("top", "--once")
    assert missing.returncode == 2 and "--admin http://" in missing.stderr


async def test_elsewhere_than_in_a_terminal_each_second_is_a_line(server):
    async with server.many_clients(2):
        lines, status, errors = lines_of("--admin", address(server))
    assert status == 0 and errors == ""
    for line in lines:
        fields = dict(field.split("=") for field in line.split())
        assert fields["clients"] == "2" and fields["source_up"] == "1"
        assert all(float(value) >= 0 for value in fields.values())


def test_a_terminal_is_written_over_and_shows_that_the_server_went(server):
    ours, theirs = pty.openpty()
    seen = b""

    def read():
        nonlocal seen
        if select.select([ours], [], [], 0.05)[0]:
            seen += os.read(ours, 65536)
        return seen

    command = [BINARY, "top", "--admin", address(server)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
                               env=environment())
    try:
        eventually(lambda: read().count(b"\x1b[H") >= 2, "it was drawn twice")
        assert seen.startswith(b"\x1b[2J") and b"\x1b[K" in seen
        server.signal()
        server.process.wait(timeout=DEADLINE)
        eventually(lambda: b"/metrics: " in read(), "it says that nobody answers")
        assert process.poll() is None, "it waits for the server to come back"
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def answering(answer):
    """A listener that gives this answer to every connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)
    threading.Thread(target=serve, daemon=True).start()
    return listener


@pytest.mark.parametrize("answer", [
    b"", b"HTTP/1.1 404 Not Found\r\n\r\nnothing", b"\xff\x00\x1b[2J" * 100, b"oneloop_clients x\n",
])
def test_another_program_is_told_from_a_server(answer):
    with contextlib.closing(answering(answer)) as listener:
        done = oneloop("top", "--once", "--admin", f"127.0.0.1:{listener.getsockname()[1]}")
    assert done.returncode == 1 and done.stdout == ""
    assert "not the admin listener of a oneloop" in done.stderr and "\x1b" not in done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "\x1b[2J:1", "http://"])
def test_nobody_there_is_a_sentence(address):
    done = oneloop("top", "--once", "--admin", address)
    assert done.returncode == 1 and done.stdout == ""
    assert "/metrics: " in done.stderr and "\x1b" not in done.stderr


def test_a_server_that_drips_ends_the_look_in_time():
    ended = threading.Event()

    def drip(listener):
        with contextlib.suppress(OSError), listener.accept()[0] as connection:
            # A second look finds nobody.
            listener.close()
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not ended.wait(1):
                connection.sendall(b"#")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=drip, args=[listener])
        thread.start()
        try:
            # It is ended after 20 s, and each byte that drips comes within the 5 of a single read.
            done = oneloop("top", "--once", "--admin", address)
        finally:
            ended.set()
            thread.join()
    assert done.returncode == 1 and address in done.stderr
