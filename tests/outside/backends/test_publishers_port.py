"""The embedded publishers' port: real clients of several languages, and what it must refuse."""

import contextlib
import json
import re

import pytest
import redis
from helpers.process import HELPERS, brief, eventually, run
from helpers.resp_client import Publisher
from redis.backoff import NoBackoff
from redis.retry import Retry

PASSWORD = "correct horse"

# The start of a TLS ClientHello: its sender waits for an answer, and should not wait for long.
TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 32


@pytest.fixture
def publisher(server):
    with contextlib.closing(Publisher(*server.publishers)) as publisher:
        yield publisher


@contextlib.contextmanager
def redis_py(address, **options):
    # A refused password stays refused: by default it is tried ten times, with pauses.
    with redis.Redis(*address, retry=Retry(NoBackoff(), 0), **options) as client:
        yield client


@pytest.mark.parametrize("protocol", [2, 3])
async def test_redis_py_publishes(server, protocol):
    async with server.client("42") as client, server.client("43") as bystander:
        with redis_py(server.publishers, protocol=protocol) as publisher:
            assert publisher.ping()
            assert publisher.publish("pub.user.42", json.dumps({"paid": True})) == 1
            assert publisher.publish("pub.user.41", "nobody") == 0
            with publisher.pipeline(transaction=False) as pipeline:
                for number in range(10):
                    pipeline.publish("pub.user.42", number)
                assert pipeline.execute() == [1] * 10
            with pytest.raises(redis.ResponseError):
                publisher.get("key")
            assert publisher.publish("pub.user.42", "after the error") == 1
        assert await client.heard() == [
            ("user.42", {"paid": True}), *[("user.42", number) for number in range(10)],
            ("user.42", "after the error"),
        ]
        assert await bystander.heard() == []


async def test_predis_publishes(server):
    async with server.client("42") as client, server.client("43") as bystander:
        host, port = server.publishers
        done = run("php", HELPERS / "publish.php", host, port, "", "pub.user.42", '{"paid":true}', "two")
        assert (done.returncode, done.stdout) == (0, "1\n1\n"), done.stderr + done.stdout
        assert await client.heard() == [("user.42", {"paid": True}), ("user.42", "two")]
        assert await bystander.heard() == []


async def test_redis_cli_publishes_from_its_prompt(server):
    async with server.client("42") as client, server.client("43") as bystander:
        host, port = server.publishers
        done = run("redis-cli", "-h", host, "-p", port, input="PING\nPUBLISH pub.user.42 hello\nQUIT\n")
        assert done.returncode == 0 and done.stdout.splitlines()[:2] == ["PONG", "1"], done.stdout
        done = run("redis-cli", "-3", "-h", host, "-p", port, "PUBLISH", "pub.user.42", "resp3")
        assert done.stdout == "1\n", done.stdout + done.stderr
        assert await client.heard() == [("user.42", "hello"), ("user.42", "resp3")]
        assert await bystander.heard() == []


async def test_redis_benchmark_runs(server):
    async with server.client("42") as client, server.client("43", topics=["x"]) as other:
        host, port = server.publishers
        done = run("redis-benchmark", "-h", host, "-p", port, "-q", "-n", 1000, "PUBLISH", "pub.user.42", "x")
        assert done.returncode == 0 and "requests per second" in done.stdout, done.stdout + done.stderr
        assert await client.heard() == [("user.42", "x")] * 1000
        assert await other.heard() == []


async def test_inline_commands_are_taken(server, publisher):
    async with server.client("42") as client, server.client("43") as bystander:
        publisher.socket.sendall(b"PING\r\nPUBLISH pub.user.42 hello\r\nping\n")
        assert [publisher.reply() for _ in range(3)] == ["+PONG", 1, "+PONG"]
        assert await client.heard() == [("user.42", "hello")]
        assert await bystander.heard() == []


async def test_pipelined_commands_are_answered_in_their_order(server, publisher):
    async with server.client("42") as client:
        for number in range(2000):
            publisher.send("PUBLISH", f"pub.user.{42 + number % 2}", number)
        assert [publisher.reply() for _ in range(2000)] == [1, 0] * 1000
        publisher.send("PING", "x")
        publisher.send("NONSENSE")
        publisher.send("PUBLISH", "pub.user.42", "end")
        answers = [publisher.reply() for _ in range(3)]
        assert answers[0] == "x" and answers[1].startswith("-ERR") and answers[2] == 1
        heard = await client.heard()
        assert heard == [("user.42", number) for number in range(0, 2000, 2)] + [("user.42", "end")]


@pytest.mark.parametrize("count", [10_000, 13_000, 30_000])
def test_all_is_answered_though_the_answers_are_longer(publisher, count):
    """More answers than are kept for one who has yet to read them, and nothing sent behind."""
    command, answer = b"PING\n", b"+PONG\r\n"
    publisher.socket.sendall(command * count)
    assert publisher.input.read(count * len(answer)) == answer * count


async def test_a_command_may_come_one_byte_at_a_time(server, publisher):
    async with server.client("42") as client:
        for byte in b"*3\r\n$7\r\nPUBLISH\r\n$11\r\npub.user.42\r\n$5\r\nhello\r\n":
            publisher.socket.sendall(bytes([byte]))
        assert publisher.reply() == 1
        assert await client.heard() == [("user.42", "hello")]


def test_the_small_commands_are_answered(publisher):
    assert publisher.command("PING") == "+PONG"
    assert publisher.command("ping", "hi") == "hi"
    assert publisher.command("SELECT", "0") == "+OK"
    assert publisher.command("CLIENT", "SETNAME", "shop") == "+OK"
    assert publisher.command("CLIENT", "SETINFO", "LIB-NAME", "predis") == "+OK"
    assert isinstance(publisher.command("COMMAND", "DOCS"), list | dict)
    assert "redis_version" in publisher.command("INFO")
    assert publisher.command("RESET") == "+RESET"
    hello = publisher.command("HELLO")
    assert isinstance(hello, list) and "server" in hello
    hello = publisher.command("HELLO", "3", "SETNAME", "shop")
    assert hello["proto"] == 3
    assert publisher.command("HELLO", "4").startswith("-NOPROTO")
    assert publisher.command("QUIT") == "+OK"
    assert publisher.ended()


@pytest.mark.parametrize("words", [
    ["GET", "key"], ["SET", "key", "value"], ["SUBSCRIBE"], ["FLUSHALL"], ["MONITOR"], ["EXEC"], ["DISCARD"],
    ["CONFIG", "SET", "dir", "/"], ["EVAL", "return 1", "0"], ["PUBLISH"], ["PUBLISH", "pub.news"],
    ["CLIENT", "KILL", "x"], ["SCRIPT", "LOAD", "return 1"], ["CLUSTER", "NODES"], ["SENTINEL", "masters"],
    ["PUBLISH", "pub.news", "a", "b"], ["SHUTDOWN"], ["x" * 200], ["é"], ["a\r\n+OK"],
    ["PUBLISH", "pub.room 7", "x"], ["PUBLISH", "user.43", "x"], ["PUBLISH", "laravel-database-pub.user.43", "x"],
    ["PUBLISH", "", "x"], ["PUBLISH", "pub.", "x"], ["PUBLISH", "pub.\r\n+OK", "x"],
], ids=brief)
async def test_everything_else_says_why_not(server, publisher, words):
    async with server.client("43") as bystander:
        answer = publisher.command(*words)
        assert re.match(r"-ERR \S+ ", answer), answer
        assert publisher.command("PING") == "+PONG"
        assert await bystander.heard() == []


@pytest.mark.parametrize("garbage", [
    b"POST / HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\n\r\nPUBLISH pub.news evil\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\n\r\nPUBLISH pub.news evil\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\nPUBLISH pub.news evil\r\n",
    b"Host: evil\r\nPUBLISH pub.news evil\r\n",
    b"PUBLISH /x HTTP/1.1\r\nHost: x\r\n\r\nPUBLISH pub.news evil\r\n",
    b"PUBLISH pub.news HTTP/1.0\r\n\r\nPUBLISH pub.news evil\r\n",
    b"PING\r\nPOST /publish/pub.news HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
    b"\x00\x01binary\r\nPUBLISH pub.news evil\r\n",
    b"\xff\xfe\xfd\r\nPUBLISH pub.news evil\r\n",
    b"PUBLISH pub.news evil\x00\r\n",
], ids=brief)
async def test_a_page_that_posts_here_is_cut_off(server, publisher, garbage):
    async with server.client("43", topics=["*"]) as bystander:
        publisher.socket.sendall(garbage)
        assert publisher.ended()
        assert await bystander.heard() == []


@pytest.mark.parametrize("garbage", [
    b"*3\r\n$7\r\nPUBLISH\r\n:1\r\n", b"*3\r\n$-1\r\n", b"*-5\r\n*0\r\n$3\r\n", b"*99999999999\r\n",
    b"*x\r\n",
    b"*1\r\n$1099511627776\r\n", b"*1\r\n$9223372036854775808\r\n", b"*1\r\n$4\r\nPINGxx",
    b"*1\r\n" * 1000 + b"\r\n", TLS, TLS + b"\r\n",
    b"x" * 2_000_000,
], ids=brief)
async def test_garbage_is_cut_off_and_harms_nobody(server, publisher, garbage):
    async with server.client("43") as bystander:
        with contextlib.suppress(ConnectionError):
            publisher.socket.sendall(garbage)
        assert publisher.ended()
        assert await bystander.heard() == []


async def test_an_oversized_payload_is_refused_and_the_connection_lives(start):
    server = start("--payload-bytes-max", 1000)
    async with server.client("42") as client, server.client("43") as bystander:
        assert server.publish("user.42", "x" * 1000) == 1
        assert server.publish("user.42", "x" * 1001).startswith("-ERR")
        assert server.publish("user.42", "x" * 500_000).startswith("-ERR")
        assert server.publish("user.42", "next") == 1
        assert await client.heard() == [("user.42", "x" * 1000), ("user.42", "next")]
        assert await bystander.heard() == []


async def test_a_payload_of_a_megabyte_arrives(server):
    async with server.client("42") as client, server.client("43") as bystander:
        assert server.publish("user.42", "x" * 2**20) == 1
        assert await client.heard() == [("user.42", "x" * 2**20)]
        assert await bystander.heard() == []


async def test_who_does_not_give_the_password_in_time_loses_the_place(start, tmp_path):
    (tmp_path / "password").write_text("open sesame")
    server = start("--publishers-password-file", tmp_path / "password", "--publishers-max", "2",
                   "--auth-seconds", "1", "--topics", "news")
    known = Publisher(*server.publishers)
    assert known.command("AUTH", "open sesame") == "+OK"
    silent = Publisher(*server.publishers)
    assert silent.ended()
    async with server.client("42") as client, server.client("43") as bystander:
        # The place is free again, and who gave the password has all the time there is.
        another = Publisher(*server.publishers)
        assert another.command("AUTH", "open sesame") == "+OK"
        assert known.command("PUBLISH", "pub.user.42", "1") == 1
        assert another.command("PUBLISH", "pub.user.42", "2") == 1
        for number in (1, 2):
            assert (await client.next())["data"] == number
        assert known.command("PING") == "+PONG"
        assert known.command("PUBLISH", "pub.user.43", "3") == 1
        assert (await bystander.next())["data"] == 3


def test_so_many_publishers_and_no_more(start):
    server = start("--publishers-max", 2)
    publishers = [Publisher(*server.publishers) for _ in range(2)]
    for publisher in publishers:
        assert publisher.command("PING") == "+PONG"
    with contextlib.closing(Publisher(*server.publishers)) as refused:
        assert refused.reply().startswith("-ERR")
        assert refused.ended()
    publishers[0].close()

    def admitted():
        with contextlib.closing(Publisher(*server.publishers)) as publisher:
            return publisher.command("PING") == "+PONG"

    eventually(admitted, "a freed place is given again")
    assert publishers[1].command("PING") == "+PONG"
    publishers[1].close()


async def test_publishers_may_need_a_password(start, tmp_path):
    (tmp_path / "password").write_text(PASSWORD + "\n")
    server = start("--publishers-password-file", tmp_path / "password", "--topics", "news")
    publisher = server.publisher
    async with server.dial(None) as _:
        assert publisher.command("PUBLISH", "pub.news", "evil").startswith("-NOAUTH")
        assert publisher.command("AUTH", "wrong").startswith("-WRONGPASS")
        assert publisher.command("PUBLISH", "pub.news", "evil").startswith("-NOAUTH")
        assert publisher.command("HELLO", "3").startswith("-NOAUTH")
        assert publisher.command("AUTH", PASSWORD) == "+OK"
    async with server.client("42") as client:
        assert publisher.command("PUBLISH", "pub.user.42", "good") == 1
        with redis_py(server.publishers, password=PASSWORD) as library:
            assert library.publish("pub.user.42", "library") == 1
        with redis_py(server.publishers, password="wrong") as library:
            with pytest.raises(redis.AuthenticationError):
                library.publish("pub.user.42", "evil")
        host, port = server.publishers
        done = run("php", HELPERS / "publish.php", host, port, PASSWORD, "pub.user.42", "predis")
        assert done.stdout == "1\n", done.stdout + done.stderr
        assert await client.heard() == [
            ("user.42", "good"), ("user.42", "library"), ("user.42", "predis")]
        assert PASSWORD not in server.log()


async def test_without_a_password_auth_is_accepted_or_explained(server, publisher):
    assert publisher.command("AUTH", "anything").startswith(("+OK", "-ERR"))
    assert publisher.command("PING") == "+PONG"
