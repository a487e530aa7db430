"""The log for people, for programs, and for the journal; and which program it is."""

import contextlib
import datetime
import json
import os
import re
import signal
import subprocess

import pytest
from helpers.process import BINARY, DEADLINE, environment, oneloop, run
from helpers.tokens import SECRET, token

FLAGS = ["--listen", "127.0.0.1:0", "--publishers", "127.0.0.1:0", "--drain-seconds", "1"]


async def heard_by(server, payload):
    async with server.client("42") as client, server.client("43") as bystander:
        server.publish("user.42", payload)
        assert await client.heard() == [("user.42", payload)]
        assert await bystander.heard() == []


async def test_each_line_is_one_object(start):
    server = start("--log-format", "json", "--payload-bytes-max", 200, "--redis", "redis://127.0.0.1:1")
    server.wait_for_log("refused")
    server.signal()
    server.process.wait(timeout=DEADLINE)
    lines = server.log().splitlines()
    assert len(lines) >= 2
    now = datetime.datetime.now(datetime.UTC)
    for line in lines:
        found = json.loads(line)
        assert set(found) == {"time", "level", "message"}, line
        assert found["level"] in ("error", "warning", "info", "debug")
        time = datetime.datetime.fromisoformat(found["time"])
        assert datetime.timedelta(0) <= now - time < datetime.timedelta(seconds=120), line
    assert json.loads(lines[-1])["message"] == "draining 0 connections"


async def test_no_token_is_in_any_format(start):
    server = start("--log-format", "json", "--log", "debug")
    refused = token("42", secret="x" * 40)
    assert (await server.refusal(refused))[0] == 401
    await heard_by(server, "kept to themselves")
    assert refused not in server.log() and "kept to themselves" not in server.log()


def logged(tmp_path, *flags, stream):
    """The whole log of one that is started and ended; `stream` makes JOURNAL_STREAM of its file."""
    with (tmp_path / "log").open("w") as log:
        variables = environment(JOURNAL_STREAM=stream(os.fstat(log.fileno())), ONELOOP_JWT_SECRET=SECRET)
        command = [BINARY, *FLAGS, *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=variables) as process:
            try:
                process.stdout.readline()
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=DEADLINE) == 0
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
    return (tmp_path / "log").read_text()


def same(file):
    return f"{file.st_dev}:{file.st_ino}"


def test_the_journal_is_told_the_level(tmp_path):
    assert logged(tmp_path, stream=same) == "<6>draining 0 connections\n"
    assert logged(tmp_path, "--log-format", "json", stream=same).startswith('<6>{"time":"')


@pytest.mark.parametrize("stream", ["", "0:0", "nonsense"])
def test_what_is_not_the_journal_is_not_taken_for_it(tmp_path, stream):
    found = logged(tmp_path, stream=lambda _: stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z oneloop: info: draining 0 connections\n", found)


def test_the_version_says_which_build_it_is():
    done = oneloop("--version")
    machine = run("uname", "-m").stdout.strip()
    profile = "debug" if "/debug/" in BINARY else "release"
    found = re.fullmatch(r"oneloop \d+\.\d+\.\d+ \((?:commit (\w+), )?([\w-]+), (\w+)\)\n", done.stdout)
    assert found and found[2].startswith(f"{machine}-linux") and found[3] == profile
