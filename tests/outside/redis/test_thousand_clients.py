"""A thousand clients and a real Redis: each receives its own messages, and stays if Redis ends."""

import asyncio
import random
import re

import pytest
import redis as redis_py
from helpers.process import HELPERS, eventually, run
from helpers.redis_server import FalseRedis
from helpers.resp_client import Publisher

CROWD = 1000


async def test_a_thousand_clients_hear_what_is_theirs_once(start, redis):
    server = start("--topics", "news", redis=redis)
    async with server.many_clients(CROWD) as clients:
        assert server.publish("news", "for all") == 1  # Redis counts us as one subscriber
        order = list(range(CROWD))
        random.Random(7).shuffle(order)
        for number in order:
            server.publish(f"user.user{number}", number)
        server.publish("news", "the end")
        for number, client in enumerate(clients):
            own = int(client.sub.removeprefix("user"))
            messages = [await client.next() for _ in range(3)]
            assert [(m["topic"], m["data"]) for m in messages] == [
                ("news", "for all"), (f"user.user{own}", own), ("news", "the end"),
            ], number
        assert await clients[0].heard() == []


async def test_a_killed_redis_disconnects_none_of_a_thousand(start, redis):
    server = start("--topics", "news", "--redis-backoff-ms-max", 200, redis=redis)
    async with server.many_clients(CROWD) as clients:
        server.publish("news", "before")
        for client in clients:
            assert (await client.next())["data"] == "before"
        server.forget_publisher()
        redis.kill()
        await asyncio.to_thread(server.wait_ready, False)
        assert server.admin("/healthz")[0] == 200
        redis.revive()
        await asyncio.to_thread(server.wait_ready)
        server.publish("news", "after")
        for client in clients:
            last = client.id
            gap, after = await client.next(), await client.next()
            assert gap["op"] == "gap" and gap["from"] <= last, gap
            assert (after["topic"], after["data"]) == ("news", "after")
        server.publish("user.user7", 7)
        for client in clients:
            if client.sub == "user7":
                assert await client.heard() == [("user.user7", 7)]
            elif client.sub in ("user8", "user70"):
                assert await client.heard() == []


async def test_a_quiet_redis_is_not_taken_for_a_dead_one(start, redis):
    server = start("--redis-silence-seconds", 1, "--redis-timeout-seconds", 1, redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        def pings():
            stats = redis.command("INFO", "commandstats")
            found = re.search(r"cmdstat_ping:calls=(\d+)", stats)
            return int(found[1]) if found else 0

        first = pings()
        await asyncio.to_thread(eventually, lambda: pings() >= first + 2, "two more PINGs")
        server.publish("user.42", 1)
        assert await client.heard() == [("user.42", 1)]
        assert await bystander.heard() == []
        assert server.ready()


async def test_clients_that_come_while_redis_is_away_hear_it_afterwards(start, redis):
    server = start("--redis-backoff-ms-max", 200, "--topics", "news", redis=redis)
    redis.kill()
    server.forget_publisher()
    await asyncio.to_thread(server.wait_ready, False)
    async with server.client("42", place="frame") as client:
        redis.revive()
        await asyncio.to_thread(server.wait_ready)
        server.publish("news", "hello")
        gap, hello = await client.heard()
        assert gap["op"] == "gap" and hello == ("news", "hello")


async def test_libraries_publish_through_the_real_redis(start, start_redis):
    redis = start_redis(password="s3cret:/@")
    server = start(
        "--redis", f"redis://:s3cret%3A%2F%40@127.0.0.1:{redis.port}", redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        done = run("php", HELPERS / "publish.php", "127.0.0.1", redis.port, redis.password,
                   "pub.user.42", '{"from":"predis"}')
        assert done.stdout == "1\n", done.stdout + done.stderr
        with redis_py.Redis(port=redis.port, password=redis.password) as publisher:
            assert publisher.publish("pub.user.42", b"\xff") == 1
            assert publisher.publish("other.user.42", "not ours") == 0
        done = run("redis-cli", "-p", redis.port, "-a", redis.password, "--no-auth-warning",
                   "PUBLISH", "pub.user.42", '{"from":"redis-cli"}')
        assert done.stdout == "1\n", done.stdout + done.stderr
        heard = await client.heard()
        assert heard[0] == ("user.42", {"from": "predis"})
        assert heard[1]["data64"] == "/w=="
        assert heard[2:] == [("user.42", {"from": "redis-cli"})]
        assert await bystander.heard() == []
        assert redis.password not in server.log()
        assert redis.password not in server.output.read_text()


async def test_overlapping_patterns_deliver_once(start, redis):
    patterns = "pub.*,pub.news*,pub.user.*,pub.user.42"
    server = start("--patterns", patterns, "--topics", "news", redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        for number in range(5):
            server.publish("news", number)
            server.publish("user.42", "same")
        news = [("news", number) for number in range(5)]
        expected = [message for one in news for message in (one, ("user.42", "same"))]
        assert await client.heard() == expected
        assert await bystander.heard() == news


async def test_only_the_patterns_are_heard(start, redis):
    server = start("--patterns", "pub.user.*", "--topics", "news", redis=redis)
    async with server.client("42") as client:
        assert server.publish("news", "not asked for") == 0
        server.publish("user.42", 1)
        assert await client.heard() == [("user.42", 1)]


async def test_an_oversized_payload_is_dropped_and_later_ones_flow(start, redis):
    server = start("--payload-bytes-max", 1000, redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        for payload in ["x" * 1000, "x" * 1001, "x" * 10_000_000, "next"]:
            server.publish("user.42", payload)
        assert await client.heard() == [("user.42", "x" * 1000), ("user.42", "next")]
        assert await bystander.heard() == []
        assert server.ready()


async def test_a_flood_is_delivered_in_order(start, redis):
    server = start("--topics", "news", "--backlog-frames-max", 100_000, "--backlog-bytes-max", "8MiB",
                   redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        for number in range(20_000):
            server.publisher.send("PUBLISH", "pub.user.42", number)
            if number % 500 == 499:
                for _ in range(500):
                    server.publisher.reply()
        assert await client.heard() == [("user.42", number) for number in range(20_000)]
        assert await bystander.heard() == []


@pytest.mark.parametrize("scheme", ["unix:", "unix://"])
async def test_a_unix_socket_will_do(start, redis, scheme):
    server = start("--redis", scheme + redis.path, redis=redis)
    assert server.line("redis") == f"unix:{redis.path}"
    async with server.client("42") as client, server.client("43") as bystander:
        server.publish("user.42", 1)
        assert await client.heard() == [("user.42", 1)]
        assert await bystander.heard() == []


async def test_resp2_will_do(start, redis):
    url = f"{redis.url}/?protocol=resp2"
    server = start("--redis", url, "--redis-silence-seconds", 1, redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        server.publish("user.42", 1)
        assert await client.heard() == [("user.42", 1)]
        assert await bystander.heard() == []
        assert "resp=2" in redis.command("CLIENT", "LIST", "TYPE", "pubsub")


async def test_it_names_itself_to_redis(start, redis):
    start(redis=redis)
    assert "name=oneloop" in redis.command("CLIENT", "LIST", "TYPE", "pubsub")


async def test_a_user_and_its_password_in_the_url_will_do(start, redis):
    redis.command("ACL", "SETUSER", "push", "on", ">pass", "resetchannels", "&pub.*", "+@all")
    url = redis.url_of("push:pass")
    server = start("--redis", url, redis=redis)
    assert server.line("redis") == f"redis://127.0.0.1:{redis.port}"
    async with server.client("42") as client, server.client("43") as bystander:
        server.publish("user.42", 1)
        assert await client.heard() == [("user.42", 1)]
        assert await bystander.heard() == []


async def test_both_sources_at_once_end_in_the_same_place(start, redis):
    server = start("--publishers", "127.0.0.1:0", redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        embedded = Publisher(*server.publishers)
        assert embedded.command("PUBLISH", "pub.user.42", "embedded") == 1
        assert (await client.next())["data"] == "embedded"
        server.publish("user.42", "through redis")
        assert await client.heard() == [("user.42", "through redis")]
        assert await bystander.heard() == []
        embedded.close()


async def test_a_pong_does_not_prove_a_subscription(start):
    """A false Redis that answers PING and HELLO and never acknowledges: not ready."""
    def answer(received):
        if b"HELLO" in received:
            return b"-ERR unknown command\r\n"
        return b"+PONG\r\n" if b"PING" in received else b""

    with FalseRedis(answer) as false:
        server = start("--redis", false.url, "--redis-timeout-seconds", 1, redis=false, ready=False)
        server.wait_for_log("subscri|answer")
        assert not server.ready()
