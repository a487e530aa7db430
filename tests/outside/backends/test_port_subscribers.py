"""Subscribers at the publishers' port: both protocols, and a second oneloop without any Redis."""

import contextlib
import random
import socket
from urllib.parse import quote

import pytest
import redis
from helpers.process import eventually
from helpers.resp_client import Publisher
from helpers.server import counter


@pytest.fixture
def connect(server):
    """Opens connections to the port: `connect()`; each is closed after the test."""
    with contextlib.ExitStack() as ends:
        def connect(address=None):
            return ends.enter_context(contextlib.closing(Publisher(*(address or server.publishers))))

        yield connect


def message(channel, payload):
    return ["message", channel, payload]


async def test_a_subscriber_hears_what_is_published_and_a_bystander_nothing(server, connect):
    hearing, bystander, publisher = connect(), connect(), connect()
    assert hearing.command("SUBSCRIBE", "pub.offers", "elsewhere") == ["subscribe", "pub.offers", 1]
    assert hearing.reply() == ["subscribe", "elsewhere", 2]
    assert hearing.command("PSUBSCRIBE", "pub.o*") == ["psubscribe", "pub.o*", 3]
    assert bystander.command("PSUBSCRIBE", "pub.user.4?") == ["psubscribe", "pub.user.4?", 1]
    async with server.client("42", topics=["offers"]) as client, server.client("43") as other:
        # A client, a subscriber by channel, and the same subscriber by pattern.
        assert publisher.command("PUBLISH", "pub.offers", "1") == 3
        assert hearing.reply() == message("pub.offers", "1")
        assert hearing.reply() == ["pmessage", "pub.o*", "pub.offers", "1"]
        # No topic, but a subscription to it.
        assert publisher.command("PUBLISH", "elsewhere", "x" * 10_000) == 1
        assert hearing.reply() == message("elsewhere", "x" * 10_000)
        assert publisher.command("PUBLISH", "nowhere", "2").startswith("-ERR")
        assert publisher.command("PUBSUB", "CHANNELS") in (["pub.offers", "elsewhere"], ["elsewhere", "pub.offers"])
        assert publisher.command("PUBSUB", "NUMSUB", "pub.offers", "nowhere") == ["pub.offers", 1, "nowhere", 0]
        assert publisher.command("PUBSUB", "NUMPAT") == 2
        assert await client.heard() == [("offers", 1)]
        # Its answer names the client's own topic.
        assert bystander.reply()[:3] == ["pmessage", "pub.user.4?", "pub.user.42"]
        assert await other.heard() == []


async def test_in_resp2_a_subscriber_may_only_listen(server, connect):
    hearing, publisher = connect(), connect()
    hearing.command("SUBSCRIBE", "pub.news")
    assert hearing.command("PUBLISH", "pub.news", "1").startswith("-ERR Can't execute 'publish'")
    assert hearing.command("PING", "x") == ["pong", "x"]
    assert hearing.command("UNSUBSCRIBE") == ["unsubscribe", "pub.news", 0]
    assert publisher.command("PUBLISH", "pub.news", "nobody") == 0
    assert hearing.command("PUBLISH", "pub.news", "1") == 0


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_listens(server, protocol):
    with redis.Redis(*server.publishers, protocol=protocol, decode_responses=True) as client, client.pubsub() as hearing:
        hearing.psubscribe("pub.*")
        hearing.subscribe("pub.news")
        kinds = [hearing.get_message(timeout=20)["type"] for _ in range(2)]
        assert kinds == ["psubscribe", "subscribe"]
        assert client.publish("pub.news", "1") == 2
        heard = [hearing.get_message(timeout=20) for _ in range(2)]
        assert [(one["type"], one["data"]) for one in heard] == [("message", "1"), ("pmessage", "1")]


def test_nobody_hears_without_the_password(start, connect, tmp_path):
    (tmp_path / "password").write_text("open sesame")
    server = start("--publishers-password-file", tmp_path / "password")
    stranger, known = connect(server.publishers), connect(server.publishers)
    for words in (["SUBSCRIBE", "pub.news"], ["PSUBSCRIBE", "*"], ["PUBSUB", "CHANNELS"]):
        assert stranger.command(*words).startswith("-NOAUTH")
    assert known.command("AUTH", "open sesame") == "+OK"
    assert known.command("PUBLISH", "pub.news", "secret") == 0
    assert stranger.command("PING").startswith("-NOAUTH"), "the next it hears is its own answer"


async def test_a_subscriber_that_does_not_read_is_cut_and_the_others_hear_all(start, connect):
    server = start("--publisher-backlog-bytes-max", "1MiB", "--topics", "news")
    stuck, hearing, publisher = (connect(server.publishers) for _ in range(3))
    stuck.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for one in (stuck, hearing):
        assert one.command("SUBSCRIBE", "pub.big") == ["subscribe", "pub.big", 1]
    payload = "x" * 100_000
    async with server.client("42") as client:
        for number in range(200):
            assert publisher.command("PUBLISH", "pub.big", payload) in (1, 2), number
            assert hearing.reply() == message("pub.big", payload)
        assert await client.heard() == []
    eventually(lambda: counter(server, "subscribers_cut_total") == 1, "it is cut")
    assert publisher.command("PUBSUB", "NUMSUB", "pub.big") == ["pub.big", 1]
    server.wait_for_log("publisher_backlog_bytes_max")


def test_a_connection_has_so_many_subscriptions_and_no_more(start, connect):
    server = start("--publisher-subscriptions-max", "2")
    one, other = connect(server.publishers), connect(server.publishers)
    assert one.command("HELLO", "3")["proto"] == 3
    one.send("SUBSCRIBE", "a", "b", "c")
    assert [one.reply() for _ in range(2)] == [["subscribe", "a", 1], ["subscribe", "b", 2]]
    assert one.reply().startswith("-ERR")
    assert one.command("PSUBSCRIBE", "*").startswith("-ERR")
    assert other.command("SUBSCRIBE", "c") == ["subscribe", "c", 1]
    assert one.command("UNSUBSCRIBE", "a") == ["unsubscribe", "a", 1]
    assert one.command("PSUBSCRIBE", "x" * 2000).startswith("-ERR")
    assert one.command("PSUBSCRIBE", "*") == ["psubscribe", "*", 2]


@pytest.mark.parametrize("password", [None, "open sesame"])
async def test_two_servers_need_no_redis(start, tmp_path, password):
    (tmp_path / "password").write_text(password or "")
    flags = ["--publishers-password-file", tmp_path / "password"] if password else []
    first = start(*flags, "--topics", "news", "--control", "ctl")
    second = start("--topics", "news", "--control", "ctl", redis=First(first, password))
    publisher = first.publisher
    if password:
        assert publisher.command("AUTH", password) == "+OK"
    async with (first.client("42") as here, second.client("42") as there, first.client("43") as bystander,
                second.client("43") as other):
        # A client of the first one, and the second one.
        assert publisher.command("PUBLISH", "pub.user.42", "1") == 2
        for words in (["MULTI"], ["PUBLISH", "pub.user.42", "2"], ["PUBLISH", "pub.user.42", "3"], ["EXEC"]):
            answer = publisher.command(*words)
        assert answer == [2, 2]
        for client in (here, there):
            assert [(await client.next())["data"] for _ in range(3)] == [1, 2, 3]
        # An order is one for both.
        assert publisher.command("PUBLISH", "ctl", '{"op":"join","sub":"42","topic":"hall"}') == 2
        assert publisher.command("PUBLISH", "pub.hall", "4") == 2
        for client in (here, there):
            assert (await client.next())["data"] == 4
        publisher.command("PUBLISH", "pub.user.43", "first")
        for client in (bystander, other):
            assert (await client.next())["data"] == "first", "and nothing before"


class First:
    """Another oneloop in the place of a Redis."""

    def __init__(self, server, password):
        secret = f":{quote(password)}@" if password else ""
        self.url = f"redis://{secret}{server.publishers[0]}:{server.publishers[1]}"


# ---- against a real Redis, command by command

WORDS = [
    ["MULTI"], ["EXEC"], ["DISCARD"], ["WATCH", "key"], ["UNWATCH"], ["PING"], ["ECHO", "x"], ["NONSENSE"], ["PUBLISH", "a"],
    ["ECHO"], ["SELECT", "1"], ["SELECT", "x"], ["RESET"], ["PUBLISH", "pub.nobody", "x"], ["PING", "a", "b"],
    ["CLIENT", "GETNAME"], ["CLIENT", "SETNAME", "me"], ["WAIT", "0", "0"], ["DBSIZE"], ["ROLE"], ["EVALSHA", "x", "0"],
    ["SUBSCRIBE", "pub.a"], ["UNSUBSCRIBE"], ["UNSUBSCRIBE", "pub.a"], ["PUNSUBSCRIBE"], ["PSUBSCRIBE", "p*"],
    ["PUBSUB", "NUMSUB", "pub.a"], ["PUBSUB", "NUMPAT"], ["PUBSUB", "CHANNELS"], ["CONFIG", "GET", "nothing"], ["CLIENT"],
    ["HELLO", "9"], ["AUTH", "x"], ["CLUSTER", "NODES"], ["ACL", "WHOAMI"], ["SCRIPT", "EXISTS", "x"],
    ["EXEC", "x"], ["CLIENT", "NO-EVICT", "on"], ["CLIENT", "GETREDIR"],
]


def comparable(answer):
    """An answer without the words that are a server's own."""
    if isinstance(answer, list):
        return [comparable(part) for part in answer]
    if isinstance(answer, str) and answer.startswith("-ERR unknown command"):
        return "-ERR unknown command"
    return answer


@pytest.mark.parametrize("seed", range(8))
def test_random_commands_are_answered_as_redis_does(server, redis, seed):
    chance = random.Random(seed)
    ours, theirs = Publisher(*server.publishers), redis.publisher()
    with contextlib.closing(ours), contextlib.closing(theirs):
        for number in range(300):
            words = chance.choice(WORDS[:6] + WORDS)
            # Sent behind each command, so that the number of its answers may differ from one.
            mark = f"mark {number}"
            answers = []
            for peer in (ours, theirs):
                peer.send(*words)
                peer.send("PING", mark)
                got = []
                while True:
                    answer = comparable(peer.reply())
                    got.append(answer)
                    if mark in str(answer) or answer == "+QUEUED" and len(got) == 2:
                        break
                answers.append(got)
            assert answers[0] == answers[1], (seed, number, words)


@pytest.mark.parametrize("seed", range(4))
def test_random_patterns_match_as_in_redis(server, redis, seed):
    chance = random.Random(seed)
    ours, theirs = Publisher(*server.publishers), redis.publisher()
    publishers = Publisher(*server.publishers), redis.publisher()
    with contextlib.ExitStack() as ends:
        for peer in (ours, theirs, *publishers):
            ends.enter_context(contextlib.closing(peer))
        for peer in (ours, theirs, *publishers):
            peer.command("HELLO", "3")
        patterns = ["".join(chance.choices("ab*?[]^-\\", k=chance.randint(1, 7))) for _ in range(200)]
        for pattern in patterns:
            assert ours.command("PSUBSCRIBE", pattern) == theirs.command("PSUBSCRIBE", pattern)
        for _ in range(300):
            channel = "".join(chance.choices("ab]-^", k=chance.randint(1, 6)))
            mine, real = (peer.command("PUBLISH", channel, "x") for peer in publishers)
            # A topic without a subscriber does not exist here either.
            mine = 0 if isinstance(mine, str) and mine.startswith("-ERR nobody hears this") else mine
            assert mine == real, (seed, channel)
            heard = [sorted(peer.reply()[1] for _ in range(real)) for peer in (ours, theirs)]
            assert heard[0] == heard[1], (seed, channel)
