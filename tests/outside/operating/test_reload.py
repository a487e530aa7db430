"""SIGHUP: the settings are read again, and no client is dropped."""

import asyncio
import json
import os
import re
import signal

import pytest
from helpers.process import DEADLINE, eventually
from helpers.raw_client import PING, Raw
from helpers.server import counter
from helpers.settings_file import NEW, OLD, Settings
from helpers.systemd import Supervisor, variables
from helpers.tokens import token
from helpers.ws_client import closed
from websockets.exceptions import ConnectionClosed


@pytest.fixture
def settings(tmp_path, start):
    return Settings(tmp_path, start)


def client(server, sub, secret=OLD, **options):
    return server.client(sub, bearer=token(sub, secret=secret), **options)


async def refused(server, secret):
    return (await server.refusal(token("42", secret=secret)))[0] == 401


async def test_a_new_key_counts_for_newcomers_and_drops_nobody(settings):
    server = settings.start()
    async with client(server, "42") as early, client(server, "43") as bystander:
        assert await refused(server, NEW)
        log = settings.reload(secret=NEW)
        assert "changed: jwt.secret\n" in log and NEW not in log and OLD not in log
        assert await refused(server, OLD)
        async with client(server, "44", NEW) as late:
            server.publish("user.42", 1)
            server.publish("user.44", 2)
            assert await early.heard() == [("user.42", 1)]
            assert await late.heard() == [("user.44", 2)]
        # A renewal is checked with the new one.
        answer = await early.ask(op="auth", token=token("42", secret=NEW))
        assert answer["op"] == "authed"
        await early.send(op="auth", token=token("42", secret=OLD))
        assert (await early.closed())[0] == 4500
        assert await bystander.heard() == []


async def test_a_previous_key_lets_both_in(settings, tmp_path):
    server = settings.start()
    (tmp_path / "previous").write_text(OLD)
    previous = f'jwt.previous_secret_file = "{tmp_path / "previous"}"'
    settings.reload(previous, secret=NEW)
    async with client(server, "42", OLD) as old, client(server, "43", NEW) as new:
        server.publish("user.42", 1)
        assert await old.heard() == [("user.42", 1)]
        assert await new.heard() == []
    settings.reload("", secret=NEW)
    assert await refused(server, OLD)


async def test_what_a_route_permits_changes_for_those_who_are_there(settings):
    server = settings.start('topics = ["news"]\n')
    async with client(server, "42") as early, client(server, "43") as bystander:
        denied = await early.ask(op="subscribe", topic="room.7")
        assert denied["code"] == "forbidden"
        log = settings.reload('topics = ["alerts"]\nmay = ["room.*"]\n')
        assert "changed: topics of /ws\n" in log and "changed: may of /ws\n" in log
        assert (await early.ask(op="subscribe", topic="room.7"))["op"] == "subscribed"
        async with client(server, "44") as late:
            assert late.welcome["topics"] == ["alerts", "user.44"]
            server.publish("room.7", 1)
            server.publish("news", 2)
            server.publish("alerts", 3)
            # Subscriptions from the start last until it renews its token.
            assert await early.heard() == [("room.7", 1), ("news", 2)]
            assert await late.heard() == [("alerts", 3)]
            assert await bystander.heard() == [("news", 2)]
        renewed = await early.ask(op="auth", token=token("42", secret=OLD))
        assert renewed["topics"] == ["alerts", "room.7", "user.42"]


async def test_origins_and_the_guests_change(settings):
    server = settings.start('origins = ["https://a.example"]\n')
    b = {"Origin": "https://b.example"}
    bearer = token("42", secret=OLD)
    async with client(server, "43") as bystander:
        async with server.dial(bearer, headers=b, place="query") as connection:
            assert (await closed(connection))[0] == 4505
        assert "origins of /ws" in settings.reload(
            'origins = ["https://b.example"]\nanonymous = ["lobby"]\nsingle_session = true\n')
        a = {"Origin": "https://a.example"}
        async with server.dial(bearer, headers=a, place="query") as connection:
            assert (await closed(connection))[0] == 4505
        async with server.dial(bearer, headers=b, place="query") as connection, server.anonymous() as guest:
            user = await server.enter(connection, "42")
            server.publish("lobby", 1)
            assert (await guest.next())["data"] == 1
            assert await user.heard() == []
            async with client(server, "42"):
                assert (await user.closed())[0] == 4503
        assert await bystander.heard() == []


async def test_bounds_change_for_those_who_are_there(settings):
    server = settings.start("commands_per_second_max = 0\n")
    async with client(server, "42") as early, client(server, "43") as bystander:
        for _ in range(20):
            assert (await early.ask(op="ping"))["op"] == "pong"
        log = settings.reload("commands_per_second_max = 3\nmessage_bytes_max = 1000\n")
        assert "changed: commands_per_second_max: 0, now 3\n" in log
        assert "changed: message_bytes_max: 65536, now 1000\n" in log
        async with client(server, "44") as late:
            await late.send("x" * 1001)
            assert (await late.closed())[0] == 1009
        for _ in range(10):
            await early.send(op="ping")
        assert await code_at_the_end(early) == 4003
        assert await bystander.heard() == []


async def code_at_the_end(client):
    """The close code, whatever comes before it."""
    with pytest.raises(ConnectionClosed) as end:
        while True:
            await client.frame()
    return end.value.rcvd.code


async def test_the_most_clients_change_without_closing_any(settings):
    server = settings.start()
    async with client(server, "42") as first, client(server, "43") as bystander:
        settings.reload("clients_max = 1\n")
        assert (await server.refusal(token("44", secret=OLD)))[0] == 503
        server.publish("user.42", 1)
        assert await first.heard() == [("user.42", 1)]
        settings.reload("clients_max = 3\n")
        async with client(server, "44") as third:
            assert await third.heard() == [] == await bystander.heard()


async def test_silence_counts_from_the_new_bound_and_a_ping_comes_first(settings):
    server = settings.start("ping_seconds = 3600\nsilence_seconds = 86400\n")
    async with client(server, "43") as bystander:
        with Raw(server) as silent:
            silent.upgrade(token("42", secret=OLD))
            settings.reload("ping_seconds = 1\nsilence_seconds = 2\n")
            frames, code, _ = await asyncio.to_thread(silent.frames_to_close)
            assert code == 4001
            assert PING in [opcode for opcode, _ in frames], frames
        # It answers pings.
        assert await bystander.heard() == []


async def test_a_broken_file_changes_nothing_and_says_why(settings):
    server = settings.start('topics = ["news"]\n')
    async with client(server, "42") as early, client(server, "43") as bystander:
        for text, why in [
            ("head_seconds = 0\n", "head_seconds .*out of bounds"),
            ("topics = [\n", "not TOML"),
            ('topics = ["a b"]\n', "topics: `a b` is no topic"),
            ("hed_seconds = 1\n", "did you mean head_seconds"),
            ('topics = ["alerts"]\njwt.algorithms = ["RS256"]\n', "RS256 needs"),
        ]:
            log = settings.reload(text, refused=True)
            assert re.search(f"error: the settings stay as they were: .*{why}", log), log
            assert "changed" not in log
        settings.secret.write_text("too short")
        log = settings.reload('topics = ["alerts"]\n', refused=True)
        assert "has 9 bytes" in log and "too short" not in log
        async with client(server, "44") as late:
            assert late.welcome["topics"] == ["news", "user.44"]
        server.publish("news", 1)
        assert await early.heard() == [("news", 1)] == await bystander.heard()
        settings.file.unlink()
        server.signal(signal.SIGHUP)
        server.wait_for_log("cannot read the file")
        assert "topics of /ws" in settings.reload('topics = ["alerts"]\n', secret=OLD)


async def test_a_former_name_is_read_again_with_a_warning(settings):
    server = settings.start('backlogs_bytes_max = "32MiB"\n')
    async with client(server, "42") as early:
        log = settings.reload('backlogs_bytes_max = "16MiB"\nctl = "c"\n')
        assert "backlogs_bytes_max (" in log and "is called backlog_total_bytes_max now" in log
        assert "changed: backlog_total_bytes_max: 33554432, now 16777216\n" in log
        assert "needs a restart: control\n" in log
        log = settings.reload('backlogs_bytes_max = "8MiB"\nbacklog_total_bytes_max = "8MiB"\n', refused=True)
        assert "are two names of one setting: keep backlog_total_bytes_max" in log
        server.publish("user.42", 1)
        assert await early.heard() == [("user.42", 1)]


async def test_what_needs_a_restart_is_said_and_left(settings):
    server = settings.start()
    async with client(server, "42") as early, client(server, "43") as bystander:
        text = ('publishers_max = 1\nlog_format = "json"\nformat = "raw"\n'
                'redis = "redis://:hush@127.0.0.1:1"\n')
        log = settings.reload(text)
        pending = set(re.findall(r"warning: needs a restart: (.*)", log))
        assert pending == {"publishers_max: 64, now 1", "log_format", "format of /ws", "redis"}
        assert "hush" not in log and "changed:" not in log
        server.publish("user.42", 1)
        assert await early.heard() == [("user.42", 1)]
        assert await bystander.heard() == []
        # It is said as long as it is so.
        assert "needs a restart: redis" in settings.reload(text)
        assert "the settings were read again: nothing changed\n" in settings.reload("")


async def test_the_log_says_more_from_then_on(settings):
    server = settings.start('log = "error"\n')
    assert settings.reload('log = "info"\n').count("changed: log\n") == 1


async def test_many_signals_lose_no_message_and_the_last_file_counts(settings):
    server = settings.start()
    async with client(server, "42") as early, client(server, "43") as bystander:
        for number in range(1, 51):
            settings.write(f"head_seconds = {number}\n")
            server.signal(signal.SIGHUP)
            server.publish("user.42", number)
        assert await early.heard() == [("user.42", number) for number in range(1, 51)]
        eventually(lambda: "now 50\n" in server.log(), "the last one was read")
        assert await bystander.heard() == []
        assert "head_seconds" not in settings.reload("head_seconds = 50\n")


async def test_a_file_that_is_slow_holds_nobody_up(settings):
    server = settings.start()
    async with client(server, "42") as early, client(server, "43") as bystander:
        settings.file.unlink()
        os.mkfifo(settings.file)
        server.signal(signal.SIGHUP)
        with settings.file.open("w") as slow:
            # It has been opened for reading, and there is nothing to read.
            server.publish("user.42", 1)
            assert await early.heard() == [("user.42", 1)]
            assert counter(server, "reloads_total") == 0
            slow.write(f"jwt.secret_file = {json.dumps(str(settings.secret))}\nhead_seconds = 7\n")
        eventually(lambda: "head_seconds: 10, now 7\n" in server.log(), "it was read in the end")
        assert await bystander.heard() == []


async def test_a_supervisor_is_told_of_it(settings):
    supervisor = Supervisor(is_abstract=True)
    try:
        settings.start(variables=variables(supervisor))
        supervisor.next("READY=1")
        settings.reload("head_seconds = 7\n")
        supervisor.next("RELOADING=1")
        supervisor.next("READY=1")
        settings.reload("head_seconds = 0\n", refused=True)
        supervisor.next("RELOADING=1")
        supervisor.next("READY=1")
    finally:
        supervisor.close()


async def test_without_a_key_the_secret_of_the_start_stays(start, tmp_path):
    file = tmp_path / "oneloop.toml"
    file.write_text("")
    server = start("--config", file, key=False)
    ready = server.line("token")
    file.write_text('topics = ["alerts"]\n')
    server.signal(signal.SIGHUP)
    server.wait_for_log("topics of /ws")
    async with server.client("42", bearer=ready) as client:
        assert client.welcome["topics"] == ["alerts", "user.42"]
    (tmp_path / "secret").write_text(NEW)
    file.write_text(f'jwt.secret_file = "{tmp_path / "secret"}"\n')
    server.signal(signal.SIGHUP)
    server.wait_for_log("needs a restart: jwt.secret")
    assert await refused(server, NEW)
    async with server.client("42", bearer=ready) as client:
        assert await client.heard() == []


def test_a_drain_is_not_disturbed(settings):
    server = settings.start()
    server.signal()
    server.signal(signal.SIGHUP)
    assert server.process.wait(timeout=DEADLINE) == 0
