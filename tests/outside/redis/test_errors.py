"""Redis says no, or says nonsense: a log line says what to do, and it mends without a restart."""

import asyncio
import contextlib
import http.server
import threading

import pytest
from helpers.ports import free_port
from helpers.process import brief, oneloop
from helpers.redis_server import FalseRedis, greeted

LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"
QUICK = ["--redis-backoff-ms-max", 100, "--redis-timeout-seconds", 1]


async def assert_delivers(server):
    async with server.client("42") as client, server.client("43") as bystander:
        server.publish("user.42", 1)
        assert await client.heard() == [("user.42", 1)]
        assert await bystander.heard() == []


async def test_a_wrong_password_is_named_and_may_be_mended(start, start_redis):
    redis = start_redis(password="the right one")
    url = f"redis://:the%20wrong%20one@127.0.0.1:{redis.port}"
    server = start("--redis", url, *QUICK, redis=redis, ready=False)
    server.wait_for_log("password")
    assert not server.ready()
    assert server.admin("/healthz")[0] == 200
    redis.command("CONFIG", "SET", "requirepass", "the wrong one")
    redis.password = "the wrong one"
    server.wait_ready()
    await assert_delivers(server)
    assert "wrong one" not in server.log() and "wrong%20one" not in server.log()


async def test_a_missing_password_is_named(start, start_redis):
    redis = start_redis(password="needed")
    url = f"redis://127.0.0.1:{redis.port}"
    server = start("--redis", url, *QUICK, redis=redis, ready=False)
    server.wait_for_log("password")
    redis.command("CONFIG", "SET", "requirepass", "")
    redis.password = None
    server.wait_ready()
    await assert_delivers(server)


async def test_a_needless_password_does_no_harm(start, redis):
    """The default user of Redis takes any password unless it has been given one (`nopass`)."""
    url = f"redis://:needless@127.0.0.1:{redis.port}"
    server = start("--redis", url, *QUICK, redis=redis)
    await assert_delivers(server)
    assert "needless" not in server.log() + server.output.read_text()


async def test_a_missing_permission_is_mended_as_the_log_says(start, redis):
    redis.command("ACL", "SETUSER", "push", "on", ">pass", "resetchannels", "+@all")
    url = redis.url_of("push:pass")
    server = start("--redis", url, *QUICK, redis=redis, ready=False)
    server.wait_for_log(r"ACL SETUSER .*&pub\.\*")
    assert not server.ready()
    redis.command("ACL", "SETUSER", "push", "&pub.*")
    server.wait_ready()
    await assert_delivers(server)


async def test_a_redis_that_is_still_loading_is_waited_for(start):
    loading = True

    def answer(received):
        return LOADING if loading else greeted(received)

    with FalseRedis(answer) as false:
        server = start("--redis", false.url, *QUICK, redis=false, ready=False)
        server.wait_for_log("LOADING")
        assert not server.ready()
        assert server.admin("/healthz")[0] == 200
        loading = False
        server.wait_ready()


@contextlib.contextmanager
def http_server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_something_else_on_the_port_is_named(start, redis):
    with http_server() as port:
        url = f"redis://127.0.0.1:{port}"
        server = start("--redis", url, *QUICK, redis=redis, ready=False)
        server.wait_for_log("not Redis|RESP|HTTP")
        assert not server.ready()
        assert server.admin("/healthz")[0] == 200


@pytest.mark.parametrize("garbage", [
    b"\x16\x03\x01garbage", b"*99999999999\r\n", b"$9223372036854775807\r\n", b"*1\r\n" * 100_000,
    b":not a number\r\n", b"$-2\r\n", b"*-9\r\n", b">0\r\n" * 10, b"\r\n" * 100, b"+" + b"x" * 3_000_000,
], ids=brief)
async def test_garbage_from_redis_harms_nobody(start, garbage):
    with FalseRedis(lambda received: garbage) as false:
        server = start("--redis", false.url, *QUICK, redis=false, ready=False)
        server.wait_for_log("Redis|RESP")
        # More than one attempt: it goes on.
        while len(false.connections) < 2:
            await asyncio.sleep(0.02)
        assert not server.ready()
        assert server.admin("/healthz")[0] == 200


async def test_a_port_where_nobody_listens_is_named_and_tried_again(start, redis):
    url = f"redis://127.0.0.1:{free_port()}"
    server = start("--redis", url, *QUICK, redis=redis, ready=False)
    server.wait_for_log("Redis")
    assert not server.ready() and server.admin("/healthz")[0] == 200


async def test_an_unknown_host_blocks_nothing(start, redis):
    server = start("--redis", "redis://no.such.host.invalid:6379", *QUICK, redis=redis, ready=False)
    server.wait_for_log("no.such.host.invalid")
    assert not server.ready()
    async with server.dial() as connection:
        await connection.send("ping")
        assert await connection.recv() == "pong"


async def test_a_redis_that_is_full_is_named(start, start_redis):
    redis = start_redis("--maxclients", "2")
    taken = [redis.publisher() for _ in range(2)]
    try:
        assert all(one.command("PING") == "+PONG" for one in taken)
        server = start(*QUICK, redis=redis, ready=False)
        server.wait_for_log("maxclients|max number of clients|clients")
        assert not server.ready()
    finally:
        for one in taken:
            one.close()
    server.wait_ready()


@pytest.mark.parametrize("url, reason", [
    ("rediss://127.0.0.1:6379#safe", "insecure"),
    ("http://127.0.0.1:6379", "redis://"),
    ("127.0.0.1:6379", "redis://"),
    ("redis://127.0.0.1:x", "redis"),
])
def test_a_url_that_cannot_work_is_a_settings_error(url, reason):
    done = oneloop("--listen", "127.0.0.1:0", "--redis", url)
    assert done.returncode == 2
    assert "redis" in done.stderr and reason in done.stderr, done.stderr


def test_no_message_quotes_the_password_of_a_url():
    done = oneloop("--listen", "127.0.0.1:0", "--redis", "rediss://user:hunter2@127.0.0.1:x")
    assert done.returncode == 2 and "hunter2" not in done.stderr + done.stdout
