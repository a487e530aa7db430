"""`oneloop forward`: entries of a stream for a back end that has only HTTP, which fails at times."""

import contextlib
import random
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from helpers.back_end import BackEnd
from helpers.process import BINARY, DEADLINE, environment, eventually, oneloop


class Forwarder:
    """A running `oneloop forward`."""

    def __init__(self, redis, url, *arguments, stream="up", **variables):
        self.command = [
            BINARY, "forward", *map(str, arguments), stream, url, "--redis", redis.url, *map(str, redis.flags),
        ]
        self.variables = environment(**variables)
        self.directory = tempfile.TemporaryDirectory(prefix="forward-")
        self.errors = Path(self.directory.name) / "err"
        self.start()

    def start(self):
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, env=self.variables)

    def log(self):
        return self.errors.read_text()

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.wait(timeout=DEADLINE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        print(self.log())
        assert "panicked" not in self.log()


def add(redis, count, stream="up"):
    """Adds entries as oneloop does, and returns them as they must be taken: (id, body)."""
    entries = []
    with contextlib.closing(redis.publisher()) as publisher:
        for number in range(count):
            fields = ["sub", "42", "conn", f"n-{number}", "data", f'{{"number":{number}}}', "at", 1718000000000 + number]
            entry = publisher.command("XADD", stream, "*", *fields)
            body = {"sub": "42", "conn": f"n-{number}", "data": {"number": number}, "at": 1718000000000 + number}
            entries.append((entry, body))
    return entries


def pending(redis, group="oneloop-forward"):
    return redis.command("XPENDING", "up", group)[0]


def once(taken):
    """The entries in the order in which each was taken first."""
    return list({entry: (entry, body) for entry, body in reversed(taken)}.values())[::-1]


def settled(redis, back_end, expected):
    """Waits until all are taken and acknowledged."""
    eventually(lambda: len(once(back_end.taken)) >= len(expected) and pending(redis) == 0, "all are taken")
    assert sorted(once(back_end.taken)) == sorted(expected)


@pytest.mark.over_tls
async def test_messages_of_clients_and_presence_reach_a_back_end(start, redis):
    server = start("--upstream", "stream:up", "--events", "stream:evt", "--may", "room.*", redis=redis)
    with BackEnd() as up, BackEnd() as evt:
        with Forwarder(redis, up.url), Forwarder(redis, evt.url, stream="evt"):
            async with server.client("42") as client:
                sent = [await client.ask(op="send", data={"a": [1.50, None]}, topic="room.7", ref=1)]
                sent += [await client.ask(op="send", data=f"é{number}") for number in range(20)]
            eventually(lambda: len(up.taken) == 21, "all have come")
            eventually(lambda: len(evt.taken) == 1, "and that the user is there")
    assert [entry for entry, _ in up.taken] == [one["id"] for one in sent]
    conn = client.welcome["conn"]
    first = up.taken[0][1]
    assert first.pop("at") > 0 and first == {"sub": "42", "conn": conn, "topic": "room.7", "data": {"a": [1.5, None]}}
    assert [body["data"] for _, body in up.taken[1:]] == [f"é{number}" for number in range(20)]
    headers = up.requests[0][0]
    assert headers["Content-Type"] == "application/json" and headers["Oneloop-Stream"] == "up"
    assert up.connections == 1, "it is kept"
    online = evt.taken[0][1]
    assert (online["event"], online["sub"], online["users"]) == ("online", "42", 1)


def test_a_back_end_that_fails_at_times_gets_each_entry_in_order(redis):
    entries = add(redis, 150)
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    with BackEnd(lambda _: chance.choice([204, 200, 201, 204, 204, 204, 204, 503, 429, None])) as back_end:
        with Forwarder(redis, back_end.url) as forwarder:
            settled(redis, back_end, entries)
    assert once(back_end.taken) == entries
    # Each attempt is at the entry that follows the last one taken: order holds for attempts, too.
    attempts = [headers["Oneloop-Entry"] for headers, _ in back_end.requests]
    assert attempts == sorted(attempts, key=lambda entry: [int(part) for part in entry.split("-")])
    assert len(back_end.requests) > len(entries)
    log = forwarder.log()
    assert "number" not in log and "of-the-path" not in log and "next attempt in" in log


def test_a_back_end_that_is_gone_is_waited_for(redis):
    with BackEnd() as first:
        entries = add(redis, 3)
        with Forwarder(redis, first.url) as forwarder:
            settled(redis, first, entries)
            first.__exit__()
            more = add(redis, 3)
            eventually(lambda: "next attempt in 0.8 s" in forwarder.log(), "it tries again")
            with BackEnd(port=first.port) as second:
                settled(redis, second, more)
    assert second.taken == more


def test_a_forwarder_that_is_killed_goes_on_where_it_was(redis):
    entries = []
    with BackEnd() as back_end, Forwarder(redis, back_end.url) as forwarder:
        for kill in [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL]:
            entries += add(redis, 200)
            eventually(lambda: len(back_end.taken) > len(entries) - 150, "it is in the middle")
            forwarder.kill(kill)
            forwarder.start()
        settled(redis, back_end, entries)
    assert once(back_end.taken) == entries
    # At most the one that was under way comes twice.
    assert len(back_end.taken) <= len(entries) + 4


def test_an_entry_without_an_answer_is_posted_again_after_a_restart(redis):
    entries = add(redis, 3)
    with BackEnd(lambda number: None if number < 3 else 204) as back_end:
        with Forwarder(redis, back_end.url) as forwarder:
            eventually(lambda: back_end.requests, "it came")
            forwarder.kill()
            forwarder.start()
            settled(redis, back_end, entries)
    assert back_end.taken == entries


def test_lost_connections_to_redis_lose_no_entry(start_redis, tmp_path):
    redis = start_redis("--appendonly", "yes", "--appendfsync", "always")
    entries = add(redis, 100)
    with BackEnd() as back_end, Forwarder(redis, back_end.url):
        for _ in range(3):
            entries += add(redis, 100)
            redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        eventually(lambda: len(back_end.taken) > 200, "it goes on")
        redis.kill()
        redis.revive()
        entries += add(redis, 100)
        settled(redis, back_end, entries)
    assert once(back_end.taken) == entries


def test_an_entry_that_is_refused_is_set_aside_and_kept(redis):
    entries = add(redis, 4)
    refused = {entries[1][0]: 422, entries[2][0]: 500}
    with BackEnd() as back_end:
        back_end.answer = lambda number: refused.get(back_end.requests[number][0]["Oneloop-Entry"], 204)
        with Forwarder(redis, back_end.url, "--attempts", 3) as forwarder:
            settled(redis, back_end, [entries[0], entries[3]])
    attempts = [headers["Oneloop-Entry"] for headers, _ in back_end.requests]
    ids = [entry for entry, _ in entries]
    assert attempts == [ids[0], *[ids[1]] * 3, *[ids[2]] * 3, ids[3]]
    kept = [fields for _, fields in redis.command("XRANGE", "up:failed", "-", "+")]
    assert [fields[:4] for fields in kept] == [["entry", ids[1], "status", "422"], ["entry", ids[2], "status", "500"]]
    assert kept[0][4:] == ["sub", "42", "conn", "n-1", "data", '{"number":1}', "at", "1718000000001"]
    assert "is refused with 422 for good: it is kept in up:failed" in forwarder.log()


def test_entries_that_cannot_be_forwarded_are_named_and_passed_over(redis):
    [first, second, third] = add(redis, 3)
    with BackEnd(lambda number: 503) as back_end, Forwarder(redis, back_end.url) as forwarder:
        eventually(lambda: back_end.requests, "the first one is under way")
        forwarder.kill()
        redis.command("XDEL", "up", first[0])
        long = redis.command("XADD", "up", "*", "data", "x" * 70_000)
        fourth = add(redis, 1)
        back_end.answer = lambda number: 204
        forwarder.command += ["--payload-bytes-max", "1024"]
        forwarder.start()
        settled(redis, back_end, [second, third, *fourth])
    assert f"entry {first[0]} of up was trimmed before it was forwarded" in forwarder.log()
    assert f"entry {long} of up is skipped" in forwarder.log()


def test_a_stream_may_come_and_go(redis):
    with BackEnd() as back_end, Forwarder(redis, back_end.url, "--group", "mine"):
        eventually(lambda: redis.command("EXISTS", "up"), "the group is made, and the stream with it")
        redis.command("DEL", "up")
        entries = add(redis, 2)
        eventually(lambda: len(back_end.taken) == 2 and pending(redis, "mine") == 0, "it is read from its start")
    assert back_end.taken == entries


def test_a_back_end_may_ask_for_a_token_and_speak_tls(redis, authority, tmp_path):
    (tmp_path / "token").write_text("of the back end\n")
    entries = add(redis, 5)
    with BackEnd(certificate=authority.issued) as back_end:
        trust = {"SSL_CERT_FILE": str(authority.path)}
        with Forwarder(redis, back_end.url, "--token-file", tmp_path / "token", **trust) as forwarder:
            settled(redis, back_end, entries)
        assert back_end.requests[0][0]["Authorization"] == "Bearer of the back end"
        assert back_end.connections == 1 and "of the back end" not in forwarder.log()
        add(redis, 1)
        with Forwarder(redis, back_end.url, SSL_CERT_FILE="/nonexistent") as stranger:
            eventually(lambda: "next attempt in 0.2 s" in stranger.log(), "it is not trusted")
    assert len(back_end.requests) == 5


@pytest.mark.parametrize("arguments, words", [
    (["up"], "forward takes a stream"),
    (["up", "ws://127.0.0.1/"], "expected http://host"),
    (["up", "http://user:hunter2@h/"], "expected http://host"),
    (["up", "http://127.0.0.1/", "--token-file", "/nonexistent"], "/nonexistent"),
])
def test_arguments_that_are_wrong_are_explained(redis, arguments, words):
    done = oneloop("forward", *arguments, "--redis", redis.url)
    assert done.returncode == 2 and words in done.stderr and "hunter2" not in done.stderr
    assert "a Redis" in oneloop("forward", "up", "http://127.0.0.1/").stderr
