"""Clients that come back with `since` get their missed messages once, in order, and nobody else's."""

import asyncio
import contextlib
import json
import threading
import time

import pytest
from helpers.process import eventually
from helpers.raw_client import TEXT, Raw, head
from helpers.server import Server, counter
from helpers.streams import DURABLE, STREAM, add
from helpers.tokens import token
from helpers.ws_client import all_heard, closed
from websockets.exceptions import ConnectionClosed


async def cursor_of(server, sub="42", **claims):
    async with server.client(sub, **claims) as client:
        return client.welcome["id"]


@pytest.mark.parametrize("place", ["header", "subprotocol", "query", "frame"])
async def test_what_was_missed_comes_first_and_then_what_is_new(server, place):
    async with server.client("42") as client, server.client("43") as bystander:
        server.publish("user.42", 1)
        assert await client.heard() == [("user.42", 1)]
        since = client.id
        other = bystander.welcome["id"]
    for number in range(2, 50):
        assert server.publish("user.42", number) == 0
        server.publish("user.43", "for somebody else")
    async with server.client("42", since=since, place=place) as client:
        assert client.welcome["resumed"] is True and client.welcome["id"] == since
        assert server.publish("user.42", 50) == 1
        expected = [("user.42", number) for number in range(2, 51)]
        assert await all_heard(client, 50) == expected
        assert await client.heard() == []
    async with server.client("43", since=other) as bystander:
        heard = await bystander.heard()
        assert heard == [("user.43", "for somebody else")] * 48
    assert counter(server, "resumes_total") == 2
    assert counter(server, "replayed_total") > 90


async def test_whoever_missed_nothing_resumes_too(server):
    since = await cursor_of(server)
    async with server.client("42", since=since) as client, server.client("43") as bystander:
        assert client.welcome["resumed"] is True
        server.publish("user.42", 1)
        assert await client.heard() == [("user.42", 1)]
        assert await bystander.heard() == []


async def test_a_cursor_gives_its_bearer_no_more_than_the_token_does(start):
    server = start("--may", "room.*")
    async with server.client("42", topics=["secret", "room.*"]) as client:
        since = client.welcome["id"]
    for topic in "user.42", "secret", "room.1", "room.2", "user.43":
        server.publish(topic, topic)
    # The same user with a smaller token; another user with the first one's cursor; a user without any grant.
    async with server.client("42", since=since) as client:
        assert client.welcome["resumed"] is True
        assert await client.heard() == [("user.42", "user.42")]
    async with server.client("43", since=since, topics=["room.1"]) as client:
        assert await client.heard() == [("room.1", "room.1"), ("user.43", "user.43")]
    async with server.client("44", since=since) as client:
        assert await client.heard() == []


async def test_topics_of_the_handshake_are_replayed_as_far_as_they_are_permitted(start):
    server = start("--may", "room.*")
    since = await cursor_of(server)
    for number in range(3):
        for topic in "room.7", "user.42", "secret", "room.8":
            server.publish(topic, number)
    path = "/ws?topic=room.7&topic=secret&topic=a%20b&since=" + since
    async with server.client("42", path=path) as client:
        assert client.welcome["topics"] == ["room.7", "user.42"] and client.welcome["resumed"]
        assert await client.next() == {"op": "error", "code": "forbidden", "topic": "secret"}
        assert await client.next() == {"op": "error", "code": "bad_topic", "topic": "a b"}
        expected = [(topic, number) for number in range(3) for topic in ("room.7", "user.42")]
        assert await client.heard() == expected
        answer = await client.ask(op="unsubscribe", topic="room.7")
        assert answer == {"op": "unsubscribed", "topic": "room.7"}
    async with server.dial() as connection:
        await connection.send(json.dumps({
            "op": "auth", "token": token("42"), "since": since, "topics": ["room.8", "*"],
        }))
        frames = [json.loads(await connection.recv()) for _ in range(9)]
        assert [frame.get("op") for frame in frames[:3]] == ["welcome", "authed", "error"]
        assert frames[0]["topics"] == frames[1]["topics"] == ["room.8", "user.42"]
        assert [(frame["topic"], frame["data"]) for frame in frames[3:]] == [
            (topic, number) for number in range(3) for topic in ("user.42", "room.8")
        ]


async def test_more_topics_than_a_client_may_have_are_refused_once(start):
    server = start("--may", "*", "--topics-per-client-max", "3")
    query = "&".join(f"topic=t{number}" for number in range(9))
    async with server.client("42", path=f"/ws?{query}") as client:
        assert client.welcome["topics"] == ["t0", "t1", "user.42"]
        codes = [(await client.next())["code"] for _ in range(2)]
        assert codes == ["too_many_topics"] * 2
        assert await client.heard() == []


async def test_what_is_not_held_any_more_is_said(start):
    server = start("--history-messages-max", "5")
    since = await cursor_of(server)
    for number in range(10):
        server.publish("user.42", number)
    assert counter(server, "history_messages") == 5
    async with server.client("42", since=since) as client, server.client("43") as bystander:
        assert client.welcome["resumed"] is False
        held_from = client.welcome["from"]
        assert since < held_from < client.welcome["id"]
        assert await client.heard() == await bystander.heard() == []
    # The history still holds the messages after that cursor, except for those that the markers drove out.
    async with server.client("44", since=held_from) as client:
        assert client.welcome["resumed"] is False
        latest = client.welcome["from"]
    async with server.client("42", since=latest) as client:
        assert client.welcome["resumed"] is True
    assert counter(server, "resumes_refused_total") == 2


@pytest.mark.one_loop("each has a history, and the metric is the sum")
async def test_bytes_are_bounded_too(start):
    server = start("--history-bytes-max", "10KiB")
    since = await cursor_of(server)
    for number in range(30):
        server.publish("user.42", str(number) * 500)
    assert 0 < counter(server, "history_bytes") <= 10 * 1024 + 8 * 30
    async with server.client("42", since=since) as client:
        assert client.welcome["resumed"] is False
        assert await client.heard() == []


@pytest.mark.parametrize("flags", [["--history-bytes-max", "0"], ["--format", "raw"]])
async def test_where_nothing_is_held_or_enveloped_nothing_is_replayed(start, flags):
    server = start(*flags)
    with Raw(server) as raw:
        path = "/ws?since=000000000000000000000000"
        raw.send(head(server, path=path, bearer=token("42")))
        assert raw.answer()[0] == 101
        if "raw" not in flags:
            welcome = json.loads(raw.frame()[1])
            assert welcome["resumed"] is False
        server.publish("user.42", "1")
        opcode, payload = raw.frame()
        assert opcode == TEXT and b"1" in payload


@pytest.mark.parametrize("since", ["x", "v" * 22, "0" * 22, "0" * 5000, "é", "%00", "-1"])
async def test_what_is_no_cursor_of_ours_resumes_nothing(server, since):
    for number in range(3):
        server.publish("user.42", number)
    async with server.client("42", since=since, place="frame") as client:
        assert client.welcome["resumed"] is False
        assert await client.heard() == []


async def test_a_process_that_was_started_again_says_that_its_memory_is_gone(start):
    one = Server()
    with contextlib.ExitStack() as ends:
        ends.callback(one.kill)
        since = await cursor_of(one)
    other = start()
    other.publish("user.42", 1)
    async with other.client("42", since=since) as client:
        assert client.welcome["resumed"] is False
        assert await client.heard() == []


async def test_a_replay_of_any_length_needs_no_backlog(start):
    server = start("--backlog-frames-max", "16", "--backlog-bytes-max", "64KiB")
    since = await cursor_of(server)
    padding = "x" * 1000
    for number in range(5000):
        server.publish("user.42", {"number": number, "padding": padding})
    async with server.client("42", since=since) as client, server.client("43") as bystander:
        numbers = [(await client.next())["data"]["number"] for _ in range(5000)]
        assert numbers == list(range(5000))
        assert await client.heard() == await bystander.heard() == []
    assert counter(server, 'closes_total{code="4000"}') == 0


async def test_nothing_is_lost_or_told_twice_while_a_publisher_never_rests(start):
    server = start("--topics", "news", "--history-bytes-max", "64MiB")
    over = threading.Event()
    published = [0]

    def publish():
        while not over.is_set():
            published[0] += 1
            server.publish("news", published[0])
            # Several while a client comes back, and yet few enough that this process keeps up on a busy machine.
            time.sleep(0.002)

    async def phone(sub):
        heard, since = [], None
        for _ in range(6):
            async with server.client(sub, since=since) as client:
                assert client.welcome["resumed"] is (since is not None)
                heard += [(await client.next())["data"] for _ in range(50)]
                since = client.id
        return heard, since

    publisher = asyncio.create_task(asyncio.to_thread(publish))
    try:
        phones = await asyncio.gather(*(phone(f"p{number}") for number in range(8)))
    finally:
        over.set()
        await publisher
    for number, (heard, since) in enumerate(phones):
        assert heard == list(range(heard[0], heard[0] + len(heard)))
        async with server.client(f"p{number}", since=since) as client:
            rest = [data for _, data in await client.heard()]
            assert rest == list(range(heard[-1] + 1, published[0] + 1))


async def test_an_outage_of_redis_stands_where_it_was(start, redis):
    server = start("--redis-backoff-ms-max", "100", redis=redis)
    server.wait_ready()
    async with server.client("42") as client:
        server.publish("user.42", "before")
        # The first `gap` is that of the start.
        while (await client.next()).get("data") != "before":
            pass
        since = client.id
    redis.kill()
    server.forget_publisher()
    server.wait_ready(False)
    redis.revive()
    server.wait_ready()
    server.publish("user.42", "after")
    async with server.client("42", since=since) as client, server.client("43") as bystander:
        assert client.welcome["resumed"] is True
        gap = await client.next()
        assert gap == {"op": "gap", "from": since}
        assert (await client.next())["data"] == "after"
        assert await client.heard() == await bystander.heard() == []


async def test_whoever_hears_little_may_ask_where_it_stands(start):
    server = start("--history-messages-max", "5")
    async with server.client("42") as client, server.client("43") as bystander:
        for number in range(20):
            server.publish("user.43", number)
        assert [data for _, data in await bystander.heard()] == list(range(20))
        assert await client.ask(op="ping", ref=1) == {"op": "pong", "ref": 1}
        pong = await client.ask(op="ping", cursor=True, ref=2)
        assert set(pong) == {"op", "id", "ref"} and pong["id"] > client.welcome["id"]
        since, old = pong["id"], client.welcome["id"]
    server.publish("user.42", "missed")
    async with server.client("42", since=old) as client:
        assert client.welcome["resumed"] is False
    async with server.client("42", since=since) as client:
        assert client.welcome["resumed"] is True
        assert await client.heard() == [("user.42", "missed")]


# ---- streams

async def test_another_node_goes_on_where_the_first_one_was(start, redis):
    nodes = [start(*STREAM, redis=redis) for _ in range(2)]
    for node in nodes:
        node.wait_ready()
    heard, since = [], None
    for round_ in range(6):
        async with nodes[round_ % 2].client("42", since=since) as client:
            assert client.welcome["resumed"] is (since is not None)
            add(redis, "user.42", round_ * 10)
            heard += [data for _, data in await all_heard(client, round_ * 10)]
            since = client.id
        for number in range(1, 10):
            add(redis, "user.42", round_ * 10 + number)
            add(redis, "user.43", "for somebody else")
    assert heard == list(range(51))
    async with nodes[0].client("43", since=since) as bystander:
        add(redis, "user.43", "end")
        assert await all_heard(bystander, "end") == [("user.43", "for somebody else")] * 9 + [("user.43", "end")]


async def test_a_killed_server_remembers_by_the_stream(start, redis):
    one = Server(*STREAM, redis=redis)
    with contextlib.ExitStack() as ends:
        ends.callback(one.kill)
        one.wait_ready()
        async with one.client("42") as client:
            add(redis, "user.42", 0)
            assert await all_heard(client, 0) == [("user.42", 0)]
            since = client.id
    for number in range(1, 300):
        add(redis, "user.42", number)
    other = start(*STREAM, redis=redis)
    # Also one who is there before the stream is read.
    async with other.client("42", since=since) as client, other.client("43") as bystander:
        assert client.welcome["resumed"] is True
        add(redis, "user.42", 300)
        assert await all_heard(client, 300) == [("user.42", number) for number in range(1, 301)]
        add(redis, "user.43", "end")
        assert await all_heard(bystander, "end") == [("user.43", "end")]
    # All of it came out of the history, which was filled at the start, or in pages for the one who was early.
    async with other.client("42", since=since) as client:
        assert await all_heard(client, 300) == [("user.42", number) for number in range(1, 301)]


async def test_what_the_history_does_not_hold_comes_in_pages(start, redis):
    one, other = (start(*STREAM, "--history-messages-max", "5", redis=redis) for _ in range(2))
    one.wait_ready()
    other.wait_ready()
    async with one.client("42") as client:
        add(redis, "user.42", 0)
        assert await all_heard(client, 0) == [("user.42", 0)]
        since = client.id
    for number in range(1, 1001):
        add(redis, "user.42" if number % 2 else "user.43", number)
    for server in one, other:
        async with server.client("42", since=since) as client:
            assert client.welcome["resumed"] is True
            expected = [("user.42", number) for number in range(1, 1001, 2)]
            assert await all_heard(client, 999) == expected
            # From a page one may come back as well.
            add(redis, "user.42", f"end of {server.url}")
            await all_heard(client, f"end of {server.url}")
    assert counter(other, "pages_total") >= 8 and counter(other, "page_entries_total") > 400
    async with other.client("44", since=since) as bystander:
        add(redis, "user.44", "end")
        assert await all_heard(bystander, "end") == [("user.44", "end")]


async def test_one_who_is_cut_between_pages_goes_on_there(start, redis):
    server = start(*STREAM, "--history-messages-max", "5", redis=redis)
    server.wait_ready()
    async with server.client("42") as client:
        add(redis, "user.42", 0)
        await all_heard(client, 0)
        since = client.id
    for number in range(1, 1001):
        add(redis, "user.42", number)
    heard = []
    # Unread data must not keep it from seeing the answer to its close.
    options = {"max_queue": None}
    while not heard or heard[-1] < 1000:
        async with server.client("42", since=since, options=options) as client:
            assert client.welcome["resumed"] is True
            for _ in range(min(170, 1000 - len(heard))):
                heard.append((await client.next())["data"])
            since = client.id
    assert heard == list(range(1, 1001))


async def test_what_was_trimmed_is_told_by_a_gap(start, redis):
    server = start(*STREAM, "--history-messages-max", "5", redis=redis)
    server.wait_ready()
    async with server.client("42") as client:
        add(redis, "user.42", 0)
        await all_heard(client, 0)
        since = client.id
    for number in range(1, 101):
        add(redis, "user.42", number)
    redis.command("XTRIM", "pub", "MAXLEN", 20)
    async with server.client("42", since=since) as client, server.client("43") as bystander:
        heard = await all_heard(client, 100)
        gaps = [message for message in heard if isinstance(message, dict)]
        assert [gap["op"] for gap in gaps] == ["gap"]
        numbers = [data for _, data in (one for one in heard if isinstance(one, tuple))]
        assert numbers == list(range(81, 101))
        add(redis, "user.43", "end")
        assert await all_heard(bystander, "end") == [("user.43", "end")]


async def test_a_page_that_cannot_be_had_costs_time_and_no_message(start, start_redis):
    redis = start_redis(*DURABLE)
    server = start(*STREAM, "--history-messages-max", "5", redis=redis)
    server.wait_ready()
    async with server.client("42") as client:
        add(redis, "user.42", 0)
        await all_heard(client, 0)
        since = client.id
    for number in range(1, 101):
        add(redis, "user.42", number)
    eventually(lambda: counter(server, "stream_entries_total") == 101, "all are read")
    redis.kill()
    server.wait_ready(False)
    async with server.client("42", since=since) as client:
        code, reason = await closed(client.connection)
        assert code == 4003 and reason["retry"] > 0
    redis.revive()
    server.wait_ready()
    async with server.client("42", since=since) as client, server.client("43") as bystander:
        assert await all_heard(client, 100) == [("user.42", number) for number in range(1, 101)]
        add(redis, "user.43", "end")
        assert await all_heard(bystander, "end") == [("user.43", "end")]


async def test_with_streams_alone_an_outage_of_redis_is_no_gap(start, start_redis):
    redis = start_redis(*DURABLE)
    server = start(*STREAM, redis=redis)
    server.wait_ready()
    async with server.client("42") as client, server.client("43") as bystander:
        for number in range(3):
            add(redis, "user.42", number)
            redis.kill()
            server.wait_ready(False)
            redis.revive()
            server.wait_ready()
        add(redis, "user.42", "end")
        expected = [("user.42", number) for number in (*range(3), "end")]
        assert await all_heard(client, "end") == expected
        add(redis, "user.43", "end")
        assert await all_heard(bystander, "end") == [("user.43", "end")]


async def test_many_who_come_back_at_once_get_all_and_hold_nobody_up(start, redis):
    server = start(*STREAM, "--history-messages-max", "5", redis=redis)
    server.wait_ready()
    async with server.client("42") as client:
        add(redis, "user.42", "first")
        await all_heard(client, "first")
        since = client.id
    for number in range(300):
        add(redis, f"user.p{number % 100}", number)
    add(redis, "user.42", "end")

    async def phone(number):
        async with server.client(f"p{number}", since=since) as client:
            return [(await client.next())["data"] for _ in range(3)]

    async with server.client("42", since=since) as client:
        heard = await asyncio.gather(*map(phone, range(100)))
        assert heard == [[number, number + 100, number + 200] for number in range(100)]
        assert await all_heard(client, "end") == [("user.42", "end")]
    with contextlib.suppress(ConnectionClosed):
        assert await client.ask(op="ping") == {"op": "pong"}
