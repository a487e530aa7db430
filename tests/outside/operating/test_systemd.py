"""systemd's protocol, spoken with a stand-in for it, and the units that `oneloop unit` prints."""

import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest
from helpers.process import BINARY, DEADLINE, HELPERS, eventually, oneloop, oneloop_under, run
from helpers.server import counter
from helpers.systemd import Supervisor, variables


@pytest.fixture(params=["path", "abstract"])
def supervisor(request):
    with contextlib.closing(Supervisor(request.param == "abstract")) as supervisor:
        yield supervisor


async def test_it_says_when_it_is_ready_alive_and_about_to_end(start, supervisor):
    server = start(variables=variables(supervisor, WATCHDOG_USEC="100000"))
    assert supervisor.next("READY=1") == "READY=1\nSTATUS=0 clients"
    assert supervisor.said[0].startswith("READY=1"), "nothing comes before it"
    async with server.client("42") as client, server.client("43") as bystander:
        for _ in range(3):
            assert supervisor.next("WATCHDOG") == "WATCHDOG=1"
        server.publish("user.42", 1)
        assert await client.heard() == [("user.42", 1)]
        assert await bystander.heard() == []
        server.signal()
        stopping = "STOPPING=1\nEXTEND_TIMEOUT_USEC=11000000\nSTATUS=draining 2 clients"
        assert supervisor.next("STOPPING") == stopping


async def test_the_clients_of_all_loops_are_told(start, supervisor):
    server = start("--loops", "2", variables=variables(supervisor))
    assert supervisor.next("READY=1") == "READY=1\nSTATUS=0 clients"
    async with server.many_clients(3):
        # At most every ten seconds.
        assert supervisor.next("STATUS") == "STATUS=3 clients"


async def test_no_sign_of_life_comes_from_a_loop_that_stands_still(start, supervisor):
    server = start(variables=variables(supervisor, WATCHDOG_USEC="100000"))
    supervisor.next("WATCHDOG")
    server.signal(signal.SIGSTOP)
    try:
        # Notifications sent before it stood still.
        eventually(lambda: stopped(server), "it stands still")
        supervisor.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while supervisor.socket.recv(4096):
                pass
        with pytest.raises(BlockingIOError):
            supervisor.socket.recv(4096)
    finally:
        server.signal(signal.SIGCONT)
    supervisor.socket.settimeout(DEADLINE)
    supervisor.next("WATCHDOG")


def stopped(server):
    return Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def test_a_supervisor_that_does_not_listen_holds_nobody_up(start, supervisor):
    # Every millisecond a sign of life that nobody takes: its queue is full in no time.
    server = start(variables=variables(supervisor, WATCHDOG_USEC="2000"))
    async with server.client("42") as client, server.client("43") as bystander:
        eventually(lambda: counter(server, "turns_total") > 2000, "the queue is full")
        server.publish("user.42", 1)
        assert await client.heard() == [("user.42", 1)]
        assert await bystander.heard() == []


async def test_one_that_is_gone_is_no_reason_to_end(start, supervisor):
    server = start(variables=variables(supervisor, WATCHDOG_USEC="2000"))
    supervisor.next("READY")
    supervisor.socket.close()
    async with server.client("42") as client, server.client("43") as bystander:
        turns = counter(server, "turns_total")
        eventually(lambda: counter(server, "turns_total") > turns + 100, "it goes on")
        assert await client.heard() == [] == await bystander.heard()


def test_without_one_nothing_is_said(start):
    start()
    wrong = oneloop("--listen", "127.0.0.1:0", NOTIFY_SOCKET="/nowhere/socket")
    assert wrong.returncode == 1 and "NOTIFY_SOCKET cannot be used" in wrong.stderr


def passing(*addresses):
    return [sys.executable, str(HELPERS / "socket_activation.py"), ",".join(map(str, addresses))]


async def test_a_listener_that_was_passed_is_served(start):
    server = start(wrapper=passing("127.0.0.2"))
    assert server.address[0] == "127.0.0.2", "not the one that the settings name"
    async with server.client("42") as client, server.client("43") as bystander:
        server.publish("user.42", 1)
        assert await client.heard() == [("user.42", 1)]
        assert await bystander.heard() == []


async def test_one_that_is_meant_for_another_process_is_left_alone(start):
    server = start(variables={"LISTEN_FDS": "1", "LISTEN_PID": "1"})
    assert server.address[0] == "127.0.0.1"


@pytest.mark.parametrize(("wrapper", "why"), [
    (passing("127.0.0.2", "127.0.0.3"), "2 sockets were passed (LISTEN_FDS), but listen names 1"),
    (passing("udp"), "no TCP or Unix listener"),
    (passing("0.0.0.0"), "which others can reach, but there is no key"),
])
def test_what_cannot_be_served_is_a_sentence(wrapper, why):
    done = oneloop_under(wrapper, "--publishers", "127.0.0.1:0")
    assert done.returncode == 2 and why in done.stderr


def unit(*arguments, name="oneloop.service"):
    done = oneloop("unit", *arguments)
    assert done.returncode == 0
    assert all("the service will not find" in line for line in done.stderr.splitlines())
    return done.stdout


def keys(text):
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return [line.partition("=")[::2] for line in lines]


def test_the_service_is_what_the_program_does():
    service = dict(keys(unit("--config", "here.toml")))
    assert service["Type"] == "notify"
    assert service["ExecStart"] == f"{os.path.realpath(BINARY)} --config {Path('here.toml').absolute()}"
    assert int(service["WatchdogSec"]) > 0 and int(service["TimeoutStopSec"]) > 10
    assert service["RestartPreventExitStatus"] == str(oneloop("--listen", "x").returncode)
    hardening = {"DynamicUser", "NoNewPrivileges", "ProtectSystem", "CapabilityBoundingSet",
                 "MemoryDenyWriteExecute", "RestrictAddressFamilies", "SystemCallFilter"}
    assert hardening <= set(service)
    listener = dict(keys(unit("--socket")))
    assert listener["ListenStream"] == "127.0.0.1:8099"


def test_the_service_may_drain_for_as_long_as_the_settings_say(tmp_path):
    config = tmp_path / "oneloop.toml"
    # Other findings are not judged here.
    config.write_text('drain_seconds = 300\njwt.secret_file = "/nowhere"\n')
    assert dict(keys(unit("--config", config)))["TimeoutStopSec"] == "310"
    assert dict(keys(unit("--config", tmp_path / "none.toml")))["TimeoutStopSec"] == "20"


def test_what_the_sandbox_hides_is_told(tmp_path):
    done = oneloop("unit", "--config", "/home/me/oneloop.toml")
    [line] = [line for line in done.stderr.splitlines() if "/home/me/oneloop.toml" in line]
    assert "ProtectHome" in line and line.endswith("/home/me/oneloop.toml /etc/oneloop.toml")
    done = oneloop("unit", "--config", "/etc/oneloop.toml")
    assert "oneloop.toml" not in done.stderr


def test_systemd_finds_no_fault_in_the_units(tmp_path):
    for name, arguments in (("oneloop.service", []), ("oneloop.socket", ["--socket"])):
        (tmp_path / name).write_text(unit(*arguments))
    files = [tmp_path / "oneloop.socket", tmp_path / "oneloop.service"]
    done = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *files)
    assert (done.returncode, done.stderr) == (0, "")
    # Of 100, less is safer; what a service has by default is 96.
    done = run("systemd-analyze", "security", "--offline=yes", "--threshold=20", files[1])
    assert done.returncode == 0, done.stdout[-500:]
