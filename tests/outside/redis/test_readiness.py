"""Ready means that messages pass: a far end that takes the subscription and carries nothing is red, and named."""

import contextlib
import re

import pytest
from helpers.process import eventually
from helpers.redis_server import FalseRedis, Sentinel, bulks

FAST = ["--redis-silence-seconds", 1, "--redis-timeout-seconds", 1]


@pytest.mark.parametrize("query", ["", "?protocol=resp2"])
def test_a_sentinel_is_red_and_named(start, redis, tmp_path, query):
    sentinel = Sentinel(tmp_path, redis)
    with contextlib.ExitStack() as ends:
        ends.callback(sentinel.end)
        server = start("--redis", sentinel.url + query, redis=sentinel, ready=False)
        server.wait_for_log("is a Sentinel, which takes subscriptions and carries no messages")
        status, _, body = server.admin("/readyz")
        assert status == 503 and "is a Sentinel" in body
        assert "subscribed to Redis" not in server.log()
        assert len(re.findall("is a Sentinel", server.log())) == 1
        server.stop()


async def test_a_replica_is_red_while_it_is_cut_off_and_green_in_sync(start, start_redis, redis):
    replica = start_redis("--replicaof", "127.0.0.1", str(redis.port))
    eventually(lambda: "master_link_status:up" in replica.command("INFO"), "it follows")
    server = start(*FAST, redis=replica)
    async with server.client("42") as client, server.client("43") as bystander:
        server.publish("user.42", "by the replica")
        redis.command("PUBLISH", "pub.user.42", '"by its primary"')
        heard = [(await client.next())["data"] for _ in range(2)]
        assert heard == ["by the replica", "by its primary"]
        redis.kill()
        server.wait_ready(False)
        server.wait_for_log("is a replica that is cut off from its primary")
        assert "cut off" in server.admin("/readyz")[2]
        redis.revive()
        server.wait_ready()
        assert "gap" in [frame.get("op") for frame in [await client.next()]]
        assert (await bystander.next())["op"] == "gap"


def calls(redis, command):
    """The number of times that the command was executed."""
    found = re.search(rf"cmdstat_{command}:calls=(\d+)", redis.command("INFO", "commandstats"))
    return int(found[1]) if found else 0


def answers(received, probe):
    """A Redis in RESP3 that says its mode; what becomes of the probe is up to the test."""
    if b"HELLO" in received:
        return b"%2\r\n+proto\r\n:3\r\n+mode\r\n+standalone\r\n"
    said = b""
    for word, answer in [
        (b"SETNAME", b"+OK\r\n"), (b"PING", b"+PONG\r\n"), (b"ROLE", b"*3\r\n+master\r\n:0\r\n*0\r\n"),
        (b"INFO", b"-NOPERM no\r\n"),
        (b"PSUBSCRIBE", b">3\r\n$10\r\npsubscribe\r\n$5\r\npub.*\r\n:1\r\n"),
    ]:
        said += answer if word in received else b""
    channel = re.search(rb"oneloop:probe:\w+", received)
    if channel is None:
        return said
    if b"\r\nSUBSCRIBE" in received:
        said += bulks(b">", "subscribe", channel[0]).replace(b">2", b">3") + b":2\r\n"
    said += b":1\r\n"
    number = received[received.rfind(b"PUBLISH"):].split(b"\r\n")[4]
    return said + (bulks(b">", "message", channel[0], number) if probe(received) else b"")


def test_a_probe_that_never_returns_is_red(start):
    with FalseRedis(lambda received: answers(received, lambda _: False)) as false:
        server = start(*FAST, redis=false, ready=False)
        server.wait_for_log("a message published there did not come back within 1000 ms")
        assert server.admin("/readyz")[0] == 503 and "did not come back" in server.admin("/readyz")[2]
        assert "subscribed to Redis" not in server.log()
        server.stop()


def test_a_probe_that_stops_returning_makes_a_green_link_red(start):
    with FalseRedis(lambda received: answers(received, lambda received: b"SUBSCRIBE" in received)) as false:
        server = start(*FAST, redis=false)
        server.wait_for_log("did not come back within 1000 ms")
        eventually(lambda: len(false.times) > 1, "it connects again")
        server.stop()


async def test_a_user_who_may_not_look_is_green_and_the_log_is_quiet(start, redis):
    redis.command("ACL", "SETUSER", "bob", "on", ">secret", "resetchannels", "&pub.*", "+psubscribe", "+ping",
                  "+client|setname", "+hello")
    server = start("--redis", redis.url_of("bob:secret"), *FAST, redis=redis)
    async with server.client("42") as client:
        before = calls(redis, "ping")
        eventually(lambda: calls(redis, "ping") > before + 1, "two silences")
        server.publish("user.42", "still here")
        assert await client.heard() == [("user.42", "still here")]
    assert server.ready() and "NOPERM" not in server.log()
    assert len(re.findall("subscribed to Redis", server.log())) == 1


async def test_the_probe_is_no_message(start, redis):
    server = start("--prefix", "", "--patterns", "*", "--topics", "*", *FAST, redis=redis)
    async with server.client("42") as client:
        before = calls(redis, "publish")
        eventually(lambda: calls(redis, "publish") > before + 1, "two probes")
        text = server.admin("/metrics")[2]
        assert "\noneloop_messages_total 0\n" in text and "\noneloop_messages_malformed_total 0\n" in text
        redis.command("PUBLISH", "user.42", '"a real one"')
        assert (await client.next())["data"] == "a real one"
