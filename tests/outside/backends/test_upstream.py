"""From clients to back ends: `send`, by a stream or a channel of Redis."""

import asyncio
import contextlib
import json
import time

import pytest
from helpers.process import eventually, oneloop
from helpers.server import Server, counter
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.over_tls


def entries(redis, key="up"):
    """The stream's entries as (id, fields)."""
    return [
        (entry, dict(zip(words[::2], words[1::2])))
        for entry, words in redis.command("XRANGE", key, "-", "+")
    ]


async def test_a_send_is_in_the_stream(start, redis):
    server = start("--upstream", "stream:up", "--may", "room.*", redis=redis)
    before = int(time.time() * 1000)
    async with server.client("43") as bystander, server.client("42") as client:
        data = '{"a" : 1.0, "b":12345678901234567890123}'
        await client.send(f'{{"op":"send","data":{data},"topic":"room.7","ref":"r"}}')
        sent = await client.next()
        await client.send(op="send", data=None)
        second = await client.next()
        assert await bystander.heard() == []
    [(first, fields), (last, more)] = entries(redis)
    assert sent == {"op": "sent", "ref": "r", "id": first}
    assert second == {"op": "sent", "id": last}
    conn = client.welcome["conn"]
    assert before <= int(fields.pop("at")) <= time.time() * 1000
    assert fields == {"sub": "42", "conn": conn, "topic": "room.7", "data": data}
    assert more.pop("at") and more == {"sub": "42", "conn": conn, "data": "null"}
    assert counter(server, "upstream_sent_total") == 2


async def test_a_send_is_heard_on_the_channel(start, redis):
    server = start("--upstream", "channel:up", redis=redis)
    with contextlib.closing(redis.publisher()) as back_end:
        back_end.command("SUBSCRIBE", "up")
        async with server.client("43") as bystander, server.client("42") as client:
            assert await client.ask(op="send", data={"a": 1}, ref=1) == {"op": "sent", "ref": 1}
            said = json.loads(back_end.reply()[2])
            assert await bystander.heard() == []
    assert said.pop("at") > 0
    assert said == {"sub": "42", "conn": client.welcome["conn"], "data": {"a": 1}}


async def test_the_stream_keeps_as_many_entries_as_set(start, redis):
    redis.command("CONFIG", "SET", "stream-node-max-entries", "1")
    server = start("--upstream", "stream:up", "--upstream-entries-max", 5, redis=redis)
    async with server.client("42") as client:
        for number in range(20):
            assert (await client.ask(op="send", data=number))["op"] == "sent"
    kept = [fields["data"] for _, fields in entries(redis)]
    assert len(kept) < 20 and kept[-1] == "19"


@pytest.mark.parametrize("members, code", [
    ({"topic": "deck"}, "forbidden"),
    ({"topic": "user.43"}, "forbidden"),
    ({"topic": "a..b"}, "bad_topic"),
])
async def test_a_topic_that_is_not_the_senders_is_refused(start, redis, members, code):
    server = start("--upstream", "stream:up", redis=redis)
    async with server.client("42") as client:
        error = await client.ask(op="send", data=1, ref=5, **members)
        assert error == {"op": "error", "code": code, "ref": 5, **members}
    assert redis.command("EXISTS", "up") == 0


async def test_only_users_send_and_only_where_they_may(start, redis):
    server = start("--upstream", "stream:up", "--anonymous", "news", redis=redis)
    async with server.anonymous() as client:
        error = await client.ask(op="send", data=1)
        assert error == {"op": "error", "code": "forbidden"}
    other = start(redis=redis)
    async with other.client("42") as client:
        assert await client.ask(op="send", data=1) == {"op": "error", "code": "forbidden"}
    assert redis.command("EXISTS", "up") == 0


@pytest.mark.parametrize("data", ["[" * 127 + "]" * 127, r'"\ud800"', r'{"a":["\ude00"]}'],
                         ids=["deep", "half a pair", "the other half"])
async def test_what_a_back_end_cannot_read_is_refused(start, redis, data):
    server = start("--upstream", "stream:up", redis=redis)
    async with server.client("43") as bystander, server.client("42") as client:
        await client.send('{"op":"send","data":%s,"ref":1}' % data)
        assert await client.next() == {"op": "error", "code": "bad_command", "ref": 1}
        # A message just below the limit passes unchanged.
        await client.send('{"op":"send","data":%s,"ref":2}' % ("[" * 126 + r'"\ud83d\ude00"' + "]" * 126))
        assert (await client.next())["op"] == "sent"
        assert await bystander.heard() == []
    [(_, fields)] = entries(redis)
    assert json.loads(fields["data"])


@pytest.mark.parametrize("text", ['{"op":"send"}', '{"op":"send","data":}', '{"op":"send","data":1,"data":2}'])
async def test_a_send_without_data_is_a_bad_command(start, redis, text):
    server = start("--upstream", "stream:up", redis=redis)
    async with server.client("42") as client:
        await client.send(text)
        code, _ = await client.closed()
        assert code == 4502


async def test_the_rate_of_sends_is_bounded(start, redis):
    server = start("--upstream", "stream:up", "--commands-per-second-max", 5, redis=redis)
    async with server.client("43") as bystander, server.client("42") as client:
        for _ in range(50):
            await client.send(op="send", data=1)
        while (code := (await end_or_answer(client))) == "sent":
            pass
        assert code == 4003
        assert await bystander.heard() == []


async def end_or_answer(client):
    """The op of the next frame, or the code of the close."""
    try:
        return (await client.next())["op"]
    except ConnectionClosed as end:
        return end.rcvd.code


async def test_a_key_of_another_type_is_no_silence(start, redis):
    redis.command("SET", "up", "a string")
    server = start("--upstream", "stream:up", redis=redis)
    async with server.client("42") as client:
        secret = "hush-hush"
        error = await client.ask(op="send", data=secret, ref=1)
        assert error == {"op": "error", "code": "unavailable", "ref": 1}
    server.wait_for_log("refuses what clients send.*WRONGTYPE")
    assert secret not in server.log()
    assert counter(server, "upstream_unavailable_total") == 1


async def test_an_acl_that_lacks_the_stream_is_named(start, redis):
    redis.command("ACL", "SETUSER", "bob", "on", ">secret", "~other", "&pub.*", "+@all")
    flags = ("--redis", redis.url_of("bob:secret"), "--upstream", "stream:up")
    server = start(*flags, redis=redis)
    async with server.client("42") as client:
        error = await client.ask(op="send", data=1)
        assert error == {"op": "error", "code": "unavailable"}
        server.wait_for_log("refuses what clients send.*NOPERM.*xadd")
        redis.command("ACL", "SETUSER", "bob", "~up")
        assert (await client.ask(op="send", data=1))["op"] == "sent"
    assert "bob" not in server.log()


async def test_sends_to_a_redis_that_stands_still_are_bounded_and_answered(start, redis):
    server = start("--upstream", "stream:up", "--redis-timeout-seconds", 1,
                   "--redis-silence-seconds", 1, redis=redis)
    async with server.client("43") as bystander, server.client("42") as client:
        redis.freeze()
        for ref in range(40):
            await client.send(op="send", data=ref, ref=ref)
        told = [await client.next() for _ in range(40)]
        redis.thaw()
        assert {answer["ref"] for answer in told} == set(range(40))
        codes = [answer["code"] for answer in told]
        assert codes.count("busy") == 8 and codes.count("unavailable") == 32
        assert counter(server, "upstream_busy_total") == 8
        server.forget_publisher()
        server.wait_ready()
        heard = await bystander.heard()
        assert all(isinstance(frame, dict) and frame["op"] == "gap" for frame in heard), heard


async def test_without_redis_a_send_is_unavailable_at_once(start, redis):
    server = start("--upstream", "stream:up", redis=redis)
    async with server.client("42") as client:
        redis.kill()
        server.forget_publisher()
        eventually(lambda: server.admin("/readyz")[0] == 503, "the link is down")
        while (told := await client.ask(op="send", data=1, ref=1)).get("code") != "unavailable":
            assert told["op"] in ("gap", "sent"), told
        assert told == {"op": "error", "code": "unavailable", "ref": 1}


def test_what_needs_a_redis_is_a_settings_error():
    done = oneloop("--check", "--upstream", "stream:up")
    assert done.returncode == 2 and "needs a Redis" in done.stderr


async def test_what_was_sent_survives_a_killed_redis(start, start_redis):
    """Each send is answered, and each that was called sent is in the stream, whenever Redis dies."""
    redis = start_redis("--appendonly", "yes", "--appendfsync", "always")
    server = start("--upstream", "stream:up", "--commands-per-second-max", 0,
                   "--redis-backoff-ms-max", 100, redis=redis)
    answers, done = {}, asyncio.Event()

    async def talk(client, name):
        number = 0
        while not done.is_set() or number < 100:
            number += 1
            ref = f"{name}-{number}"
            await client.send(op="send", data=ref, ref=ref)
            while (told := await client.next()).get("ref") != ref:
                assert told["op"] == "gap", told
            answers[ref] = told

    async with server.client("43") as bystander:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(server.client(f"u{n}")) for n in range(8)]
            talks = [asyncio.create_task(talk(client, n)) for n, client in enumerate(clients)]
            for _ in range(3):
                reached = len(answers) + 200
                while len(answers) < reached:
                    await asyncio.sleep(0.01)
                redis.kill()
                lost = sum(answer["op"] == "error" for answer in answers.values())
                while sum(answer["op"] == "error" for answer in answers.values()) < lost + 8:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(redis.revive)
                sent = sum(answer["op"] == "sent" for answer in answers.values())
                while sum(answer["op"] == "sent" for answer in answers.values()) < sent + 50:
                    await asyncio.sleep(0.01)
            done.set()
            await asyncio.gather(*talks)
        server.forget_publisher()
        server.wait_ready()
        heard = await bystander.heard()
        assert all(isinstance(frame, dict) and frame["op"] == "gap" for frame in heard), heard
    kept = {entry: json.loads(fields["data"]) for entry, fields in entries(redis)}
    sent = {answer["id"]: ref for ref, answer in answers.items() if answer["op"] == "sent"}
    assert len(sent) > 500
    assert all(kept.get(entry) == ref for entry, ref in sent.items())
    assert {a["op"] for a in answers.values()} == {"sent", "error"}
    assert {a.get("code") for a in answers.values()} == {None, "unavailable"}


async def test_what_was_sent_survives_a_killed_server(redis):
    sent, done = {}, asyncio.Event()

    async def talk(client, name):
        number = 0
        with contextlib.suppress(ConnectionClosed):
            while True:
                number += 1
                ref = f"{name}-{number}"
                await client.send(op="send", data=ref, ref=ref)
                told = await client.next()
                assert told["op"] == "sent" and told["ref"] == ref
                sent[told["id"]] = ref
                if len(sent) > 300:
                    done.set()

    server = Server("--upstream", "stream:up", "--commands-per-second-max", 0, redis=redis)
    try:
        server.wait_ready()
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(server.client(f"u{n}")) for n in range(8)]
            talks = [asyncio.create_task(talk(client, n)) for n, client in enumerate(clients)]
            await done.wait()
            server.kill()
            await asyncio.gather(*talks)
    finally:
        server.kill()
    kept = {entry: json.loads(fields["data"]) for entry, fields in entries(redis)}
    assert all(kept.get(entry) == ref for entry, ref in sent.items())
