"""Libraries that take the publishers' port for a Redis: each publishes as its users do, once, and once in a transaction."""

import json
import os

import pytest
import redis
from helpers.process import HELPERS, NODE_MODULES, ROOT, environment, run

# Built by tests/run from the folder of the same name.
GO = os.environ.get("ONELOOP_GO_LIBRARIES", str(ROOT / "target/tests/go/libraries"))

PAYLOADS = ["alone", "first of two", "second of two"]


def redis_py(port, channel):
    with redis.Redis("127.0.0.1", port) as client:
        answers = [client.publish(channel, PAYLOADS[0])]
        # A transaction by default.
        with client.pipeline() as pipeline:
            for payload in PAYLOADS[1:]:
                pipeline.publish(channel, payload)
            answers.append(pipeline.execute())
        return answers


def node(library):
    def publish(port, channel):
        done = run("node", HELPERS / "libraries/libraries.cjs", library, port, channel, *PAYLOADS,
                   env=environment(NODE_PATH=NODE_MODULES))
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]
    return publish


def go(library):
    def publish(port, channel):
        done = run(GO, library, f"127.0.0.1:{port}", channel, *PAYLOADS)
        assert done.returncode == 0, done.stdout + done.stderr
        return None
    return publish


def php(library):
    def publish(port, channel):
        done = run("php", HELPERS / "libraries/libraries.php", library, port, channel.removeprefix("pub."), *PAYLOADS)
        assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
        return json.loads(done.stdout)
    return publish


def pipe(port, channel):
    lines = "".join(f'PUBLISH {channel} "{payload}"\r\n' for payload in PAYLOADS)
    # It waits for the answer to its ECHO, for 30 seconds if none comes.
    done = run("redis-cli", "-p", port, "--pipe", input=lines, timeout=20)
    assert done.returncode == 0 and "errors: 0, replies: 3" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(("publish", "answers"), [
    (redis_py, [1, [1, 1]]),
    (node("ioredis"), [1, [1, 1]]),
    (node("node-redis"), [1, [1, 1]]),
    (go("go-redis"), None),
    (go("rueidis"), None),
    (php("phpredis"), [1, [1, 1], True]),
    (php("predis"), [1, [1, 1]]),
    (pipe, None),
], ids=["redis-py", "ioredis", "node-redis", "go-redis", "rueidis", "phpredis", "predis", "redis-cli --pipe"])
async def test_each_message_of_a_library_comes_once(server, publish, answers):
    async with server.client("42") as client, server.client("43", topics=["*"]) as bystander:
        assert publish(server.publishers[1], "pub.user.42") == answers
        assert await client.heard() == [("user.42", payload) for payload in PAYLOADS]
        assert await bystander.heard() == []
        assert "answered with -ERR" not in server.log()


@pytest.mark.parametrize("library", ["laravel-phpredis", "laravel-predis"])
async def test_laravel_broadcasts_through_its_script(server, library):
    async with server.client("42") as client, server.client("43") as bystander:
        assert php(library)(server.publishers[1], "pub.user.42") == []
        heard = await client.heard()
        assert [topic for topic, _ in heard] == ["user.42"] * 3
        assert [data["data"]["text"] for _, data in heard] == PAYLOADS
        assert {data["event"] for _, data in heard} == {"Paid"}
        assert await bystander.heard() == []
