"""Presence: events over two nodes, behind one Redis."""

import asyncio
import contextlib
import json
import os
import signal

import pytest
import redis as redis_py
from helpers.process import eventually
from helpers.raw_client import Raw
from helpers.server import counter
from helpers.tokens import token

# Long enough for a silent node to be taken for dead: 15 s, the wait, and the next call of another.
DEATH = 45


class Stream:
    """The events that stand in the stream `evt`."""

    setting = "stream:evt"

    def __init__(self, redis):
        self.redis = redis

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def all(self):
        entries = self.redis.command("XRANGE", "evt", "-", "+")
        return [event(dict(zip(fields[::2], fields[1::2]))) for _, fields in entries]


class Channel:
    """The events that came on the channel `evt`."""

    setting = "channel:evt"

    def __init__(self, redis):
        self.redis, self.heard = redis, []

    def __enter__(self):
        self.client = redis_py.Redis(port=self.redis.port)
        self.listener = self.client.pubsub(ignore_subscribe_messages=True)
        self.listener.subscribe("evt")
        eventually(lambda: self.redis.command("PUBSUB", "NUMSUB", "evt")[1] == 1, "a subscriber")
        return self

    def __exit__(self, *_):
        self.listener.close()
        self.client.close()

    def all(self):
        while message := self.listener.get_message(timeout=0.01):
            self.heard.append(event(json.loads(message["data"])))
        return self.heard


def event(fields):
    """Its name, the user, and how many are online; the rest is checked."""
    assert set(fields) == {"event", "sub", "users", "node", "at"}, fields
    assert int(fields["at"]) > 1_700_000_000_000 and len(fields["node"]) == 12, fields
    return fields["event"], fields["sub"], int(fields["users"])


async def until(events, expected, seconds=20):
    """Waits for that many events, and checks them all."""
    await asyncio.to_thread(
        eventually, lambda: len(events.all()) >= len(expected), f"{expected}", seconds)
    assert events.all() == expected


@contextlib.asynccontextmanager
async def bystander(server, events, is_told=True):
    """A user who stays: the only event is its coming."""
    async with server.client("bystander") as client:
        if is_told:
            await until(events, [("online", "bystander", 1)])
        yield client
        told = [one for one in events.all() if one[1] == "bystander"]
        assert told == [("online", "bystander", 1)]
        assert all(one["op"] == "gap" for one in await client.heard()), "nothing is for it"


def hash_of(redis, key):
    fields = redis.command("HGETALL", f"oneloop:{{evt}}:{key}")
    return dict(zip(fields[::2], fields[1::2]))


def nodes(redis):
    return redis.command("ZCARD", "oneloop:{evt}:nodes")


def settled(redis, count):
    """Waits until each of `count` nodes has called twice since: every pending event is out."""
    before = hash_of(redis, "calls")
    assert len(before) == count, before

    def called():
        calls = hash_of(redis, "calls")
        return all(int(calls.get(name, 0)) >= int(call) + 2 for name, call in before.items())

    eventually(called, "each node says twice that it lives")


@pytest.mark.parametrize("kind", [Stream, Channel])
async def test_two_nodes_tell_each_transition_once(start, redis, kind):
    flags = ["--events", kind.setting, "--offline-seconds", 4]
    one, other = start(*flags, redis=redis), start(*flags, redis=redis)
    with kind(redis) as events:
        async with bystander(one, events):
            told = [("online", "bystander", 1)]
            async with one.client("42"):
                told += [("online", "42", 2)]
                await until(events, told)
                async with other.client("42"), one.client("42"), other.client("4\"2"):
                    told += [("online", "4\"2", 3)]
                    await until(events, told)
                told += [("offline", "4\"2", 2)]
                await until(events, told)
                last = await one.dial(token("last"))
                told += [("online", "last", 3)]
                await until(events, told)
            # It is back, at the other node, before it is called gone: the user that left after it comes first.
            async with other.client("42"):
                await last.close()
                told += [("offline", "last", 2)]
                await until(events, told)
            told += [("offline", "42", 1)]
            await until(events, told)
            assert counter(one, "presence_users") == 1 and counter(other, "presence_users") == 0

            def counted(name):
                return sum(counter(server, f"presence_{name}_total") for server in (one, other))

            # A node counts an event when the script answers it.
            await asyncio.to_thread(eventually, lambda: (counted("online"), counted("offline")) == (4, 3), "all are counted")


async def test_a_user_is_one_whatever_its_connections_are(start, redis, tmp_path):
    """Two routes, any place of the token, a replaced session; a client without a token counts as nobody."""
    config = tmp_path / "oneloop.toml"
    config.write_text('[[route]]\npath = "/ws"\nanonymous = ["news"]\n'
                      '[[route]]\npath = "/single"\nsingle_session = true\n')
    flags = ["--config", config, "--events", "stream:evt", "--offline-seconds", 0]
    server = start(*flags, redis=redis)
    with Stream(redis) as events:
        async with bystander(server, events), server.anonymous():
            told = [("online", "bystander", 1)]
            async with server.client("42", path="/single") as older:
                told += [("online", "42", 2)]
                await until(events, told)
                async with server.anonymous() as late:
                    bearer = token("42")
                    authed = await late.ask(op="auth", token=bearer)
                    assert authed["op"] == "authed"
                    await late.ask(op="auth", token=token("42"))
                    async with server.client("42", path="/single"):
                        assert (await older.closed())[0] == 4503
                        assert events.all() == told
            # The last of them is gone, and a user that comes now is told after that.
            async with server.client("43"):
                await until(events, told + [("offline", "42", 1), ("online", "43", 2)])


async def test_what_a_killed_node_leaves_is_told_by_another(start, redis):
    flags = ["--events", "stream:evt", "--offline-seconds", 1]
    one, other = start(*flags, redis=redis), start(*flags, redis=redis)
    with Stream(redis) as events:
        async with bystander(other, events):
            told = [("online", "bystander", 1)]
            for users, sub in enumerate(["42", "43"], 2):
                await one.dial(token(sub))
                told += [("online", sub, users)]
                await until(events, told)
            async with other.client("43"):
                eventually(lambda: hash_of(redis, "here")["43"] == "2", "43 is on both")
                one.kill()
                one.process.returncode = 0  # of a killed one nothing is promised
                told += [("offline", "42", 2)]
                await until(events, told, DEATH)
                eventually(lambda: nodes(redis) == 1, "nothing is left of it")
            await until(events, told + [("offline", "43", 1)])
            assert hash_of(redis, "here") == {"bystander": "1"}


async def test_a_node_that_was_taken_for_dead_tells_of_its_users_again(start, redis):
    flags = ["--events", "stream:evt", "--offline-seconds", 0]
    one, other = start(*flags, redis=redis), start(*flags, redis=redis)
    with Stream(redis) as events:
        async with bystander(other, events), one.client("42") as client:
            told = [("online", "bystander", 1), ("online", "42", 2)]
            await until(events, told)
            os.kill(one.process.pid, signal.SIGSTOP)
            try:
                told += [("offline", "42", 1)]
                await until(events, told, DEATH)
            finally:
                os.kill(one.process.pid, signal.SIGCONT)
            told += [("online", "42", 2)]
            await until(events, told)
            assert await client.heard() == []
            assert counter(one, "presence_renewals_total") == 1
            assert counter(other, "presence_renewals_total") == 0


async def test_a_redis_that_keeps_its_data_comes_back_to_no_event(start, start_redis):
    redis = start_redis("--appendonly", "yes", "--appendfsync", "always")
    flags = ["--events", "stream:evt", "--offline-seconds", 0, "--redis-backoff-ms-max", 200]
    one, other = start(*flags, redis=redis), start(*flags, redis=redis)
    with Stream(redis) as events:
        async with bystander(other, events), one.client("42"), one.client("43") as leaver:
            told = [("online", "bystander", 1), ("online", "42", 2), ("online", "43", 3)]
            await until(events, told)
            redis.kill()
            for server in (one, other):
                server.forget_publisher()
                await asyncio.to_thread(server.wait_ready, False)
            # As long as no node may be silent.
            failed = counter(other, "presence_retries_total")
            await asyncio.to_thread(
                eventually, lambda: counter(other, "presence_retries_total") > failed + 16, "16 s",
                DEATH)
            await leaver.connection.close()
            redis.revive()
            for server in (one, other):
                await asyncio.to_thread(server.wait_ready)
            told += [("offline", "43", 2)]
            await until(events, told)
            await asyncio.to_thread(settled, redis, 2)
            assert events.all() == told
            renewals = [counter(server, "presence_renewals_total") for server in (one, other)]
            assert renewals == [0, 0]


async def test_a_redis_that_lost_its_data_is_told_of_everybody_again(start, redis):
    flags = ["--events", "stream:evt", "--redis-backoff-ms-max", 200]
    one, other = start(*flags, redis=redis), start(*flags, redis=redis)
    with Stream(redis) as events:
        async with one.client("42"), other.client("42"), other.client("43"):
            await asyncio.to_thread(eventually, lambda: len(events.all()) == 2, "two came")
            redis.kill()
            for server in (one, other):
                server.forget_publisher()
                await asyncio.to_thread(server.wait_ready, False)
            redis.revive()
            await asyncio.to_thread(
                eventually, lambda: hash_of(redis, "here") == {"42": "2", "43": "1"}, "all are told")
            told = events.all()
            assert sorted(sub for _, sub, _ in told) == ["42", "43"], told
            assert [(name, users) for name, _, users in told] == [("online", 1), ("online", 2)]
            renewals = [counter(server, "presence_renewals_total") for server in (one, other)]
            assert renewals == [1, 1]


async def test_a_node_that_drains_leaves_its_users_to_others(start, redis):
    flags = ["--events", "stream:evt", "--offline-seconds", 1, "--drain-seconds", 3]
    one, other = start(*flags, redis=redis), start(*flags, redis=redis)
    with Stream(redis) as events:
        async with bystander(other, events):
            told = [("online", "bystander", 1), ("online", "42", 2)]
            # It does not end its side, so the drain lasts longer than 42 is waited for.
            with Raw(one) as raw:
                raw.upgrade(token("42"))
                await until(events, told)
                await asyncio.to_thread(one.stop)
            async with other.client("42"):
                await asyncio.to_thread(
                    eventually, lambda: nodes(redis) == 1, "nothing is left of it", DEATH)
                assert events.all() == told


async def test_the_rules_that_the_readme_names_suffice(start, redis):
    rules = ("+psubscribe +ping +client|setname &pub.* ~evt ~oneloop:{evt}:* +eval +time +xadd +zscore"
             " +zadd +zrem +zrevrange +zrangebyscore +hget +hset +hdel +hincrby +hlen +sadd +srem"
             " +scard +sismember +srandmember")
    redis.command("ACL", "SETUSER", "push", "on", ">pass", "resetchannels", *rules.split())
    # A node that is being cleared up, with more users than one call takes.
    ghosts = [f"ghost{number}" for number in range(1200)]
    redis.command("SADD", "oneloop:{evt}:here:dead.1", *ghosts)
    redis.command("HSET", "oneloop:{evt}:here", *(word for one in ghosts for word in (one, 1)))
    redis.command("ZADD", "oneloop:{evt}:nodes", 0, "dead.1")
    url = redis.url_of("push:pass")
    server = start("--redis", url, "--events", "stream:evt", "--offline-seconds", 0, redis=redis)
    async with server.client("42"):
        await asyncio.to_thread(
            eventually, lambda: hash_of(redis, "here") == {"42": "1"}, "the ghosts are gone")
    await asyncio.to_thread(eventually, lambda: not hash_of(redis, "here"), "42 is gone")
    told = [words[1][3] for words in redis.command("XRANGE", "evt", "-", "+")]
    assert sorted(told) == sorted([*ghosts, "42", "42"])
    assert counter(server, "presence_retries_total") == 0
    await asyncio.to_thread(eventually, lambda: counter(server, "presence_offline_total") == 1201, "the answers are counted")


async def test_a_rule_that_is_missing_is_named_and_nothing_is_told_twice(start, redis):
    redis.command("ACL", "SETUSER", "push", "on", ">pass", "resetchannels", "&pub.*", "~*", "+@all",
                  "-sadd")
    url = redis.url_of("push:pass")
    server = start("--redis", url, "--events", "stream:evt", redis=redis)
    with Stream(redis) as events:
        async with bystander(server, events, is_told=False):
            await asyncio.to_thread(server.wait_for_log, "tells who is here.*ACL SETUSER <user>")
            failed = counter(server, "presence_retries_total")
            await asyncio.to_thread(
                eventually, lambda: counter(server, "presence_retries_total") > failed, "a retry")
            assert events.all() == [] and "push" not in server.log()
            redis.command("ACL", "SETUSER", "push", "+sadd")
            await until(events, [("online", "bystander", 1)])


async def test_the_stream_keeps_about_what_it_may(start, redis):
    server = start("--events", "stream:evt", "--events-entries-max", 100, redis=redis)
    async with server.many_clients(1000):
        await asyncio.to_thread(
            eventually, lambda: counter(server, "presence_online_total") == 1000, "all came")
        assert 100 <= redis.command("XLEN", "evt") < 300
        assert counter(server, "presence_users") == 1000
