"""Each bound, driven past, shows in /metrics, and a bystander misses nothing."""

import asyncio
import contextlib
import json
import re

import pytest
from helpers.raw_client import CONTINUATION, TEXT, Raw, frame, head
from helpers.server import counter
from helpers.tokens import token


def closed_with(server, data, code, bearer="42"):
    """A client that sends this and is closed for it."""
    with Raw(server) as raw:
        raw.upgrade(token(bearer))
        raw.send(data)
        assert raw.frames_to_close()[1] == code


def refused_with(server, data, status):
    with Raw(server) as raw:
        raw.send(data)
        assert raw.answer()[0] == status


def command(**words):
    return frame(TEXT, json.dumps(words))


def too_many_clients(server):
    with Raw(server) as second:
        second.upgrade(token("1"))
        refused_with(server, head(server, bearer=token("2")), 503)


def too_many_of_an_address(server):
    with Raw(server) as second:
        second.upgrade(token("1"))
        refused_with(server, head(server, bearer=token("2")), 429)


def too_many_of_a_user(server):
    with Raw(server) as first, Raw(server) as second:
        first.upgrade(token("42"))
        second.send(head(server, bearer=token("42")))
        assert second.answer()[0] == 101
        frames, code, reason = second.frames_to_close()
        assert frames == [] and code == 4003 and reason["retry"] > 0


def too_long_a_head(server):
    refused_with(server, b"GET /ws HTTP/1.1\r\nX: " + b"x" * 1000, 431)


def too_long_a_message(server):
    with Raw(server) as raw:
        raw.upgrade(token())
        raw.send(command(op="ping", pad="x" * 75))
        assert raw.frame() == (TEXT, b'{"op":"pong"}')
    closed_with(server, frame(TEXT, length=101), 1009)


def too_many_fragments(server):
    data = frame(TEXT, "p", fin=False) + frame(CONTINUATION, fin=False) * 4
    closed_with(server, data, 1008)


def too_many_commands(server):
    closed_with(server, frame(TEXT, "ping") * 30, 4003)


def too_many_token_checks(server):
    closed_with(server, command(op="auth", token=token("42")) * 30, 4003)


def too_many_topics(server):
    with Raw(server) as raw:
        raw.upgrade(token("42", may=["room.*"]))
        for number in range(3):
            raw.send(command(op="subscribe", topic=f"room.{number}"))
        answers = [json.loads(raw.frame()[1]) for _ in range(3)]
        assert [answer.get("code") for answer in answers] == [None, None, "too_many_topics"]


def too_long_a_payload(server):
    for _ in range(30):
        assert server.publish("user.42", "x" * 101).startswith("-ERR")
    assert counter(server, "messages_oversized_total") == 30
    lines = re.findall(r"above payload_bytes_max \(100 bytes\)", server.log())
    # Once a second at most; thirty answers take some milliseconds, on any machine less than a second each.
    assert 1 <= len(lines) < 30


def more_than_a_read(server):
    with Raw(server) as raw:
        raw.upgrade(token())
        raw.send(command(op="ping", pad="x" * 10_000))
        assert raw.frame() == (TEXT, b'{"op":"pong"}')


def more_than_a_sources_read(server):
    for number in range(100):
        server.publisher.send("PUBLISH", "pub.user.nobody", f"{number}" * 100)
    for _ in range(100):
        assert server.publisher.reply() == 0


def more_than_a_flush(server):
    with contextlib.ExitStack() as ends:
        crowd = [ends.enter_context(Raw(server)) for _ in range(9)]
        for number, raw in enumerate(crowd):
            raw.upgrade(token(f"user{number}"))
        assert server.publish("news", 1) == 10
        assert all(json.loads(raw.frame()[1])["topic"] == "news" for raw in crowd)


def more_than_accepts(server):
    with contextlib.ExitStack() as ends:
        crowd = [ends.enter_context(Raw(server)) for _ in range(50)]
        for number, raw in enumerate(crowd):
            raw.upgrade(token(f"user{number}"))


def too_many_publishers(server):
    assert server.publish("user.nobody", 1) == 0
    with contextlib.closing(type(server.publisher)(*server.publishers)) as refused:
        assert refused.reply().startswith("-ERR")
        assert refused.ended()


def responses(status):
    return f'http_responses_total{{status="{status}"}}'


def closes(code):
    return f'closes_total{{code="{code}"}}'


# Each setting with the value that is driven past, what does so, and what counts it. Those that take seconds to be driven
# past have their counters looked at where that is tested: `test_bounds`, `test_handshake`, `test_token_places`, `test_end`.
BOUNDS = {
    "clients-max": (2, too_many_clients, responses(503)),
    "clients-per-address-max": (2, too_many_of_an_address, responses(429)),
    "clients-per-user-max": (1, too_many_of_a_user, closes(4003)),
    "head-bytes-max": (1000, too_long_a_head, responses(431)),
    "message-bytes-max": (100, too_long_a_message, closes(1009)),
    "fragments-max": (4, too_many_fragments, closes(1008)),
    "commands-per-second-max": (10, too_many_commands, closes(4003)),
    "commands-per-second-max ": (10, too_many_token_checks, closes(4003)),
    "topics-per-client-max": (4, too_many_topics, "topics_refused_total"),
    "payload-bytes-max": (100, too_long_a_payload, "messages_oversized_total"),
    "read-bytes-per-turn": (100, more_than_a_read, "reads_put_off_total"),
    "source-read-bytes-per-turn": (100, more_than_a_sources_read, "source_reads_put_off_total"),
    "flush-clients-per-turn": (2, more_than_a_flush, "flushes_put_off_total"),
    "accepts-per-turn": (1, more_than_accepts, "accepts_put_off_total"),
    "publishers-max": (1, too_many_publishers, "publishers_refused_total"),
}


@pytest.mark.parametrize("setting", BOUNDS)
async def test_a_bound_has_a_counter_and_disturbs_nobody(start, setting):
    value, drive, name = BOUNDS[setting]
    setting = setting.strip()
    server = start("--topics", "news", f"--{setting}", value)
    async with server.client("43") as bystander:
        before = counter(server, name)
        # In a thread: the bystander answers pings meanwhile.
        await asyncio.to_thread(drive, server)
        assert counter(server, name) > before
        heard = await bystander.heard()
        assert heard == ([("news", 1)] if drive is more_than_a_flush else [])
