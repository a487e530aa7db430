"""A route says what becomes of a client that reads too slowly: closed, or fewer messages."""

import contextlib
import json
import re

import pytest
from helpers.process import eventually
from helpers.raw_client import TEXT, Raw, frame, head
from helpers.tokens import token

# Every message is larger than what little the kernel takes over for a client with a small buffer.
PADDING = "x" * 200_000
MESSAGES = 120


@contextlib.contextmanager
def slow_client(server, topics):
    with Raw(server, receive_buffer=4096) as raw:
        raw.upgrade(token("slow", topics=topics))
        yield raw


def messages_until(raw, last):
    """All frames up to the message with that number: ops by their names, messages by topic and number."""
    heard = []
    while True:
        opcode, payload = raw.frame()
        assert opcode == TEXT, (opcode, payload[:50])
        message = json.loads(payload)
        if "op" in message:
            heard.append((message["op"], message))
            continue
        heard.append((message["topic"], message["data"]["number"]))
        if message["data"]["number"] == last:
            return heard


def dropped(server):
    return int(re.search(r"oneloop_messages_dropped_total (\d+)", server.admin("/metrics")[2])[1])


async def publish_all(server, bystander, topics):
    """Publishes to the topics in turn; a bystander that reads receives every message in order."""
    for number in range(MESSAGES):
        topic = topics[number % len(topics)]
        assert server.publish(topic, {"number": number, "padding": PADDING}) == 2
        message = await bystander.next()
        assert (message["topic"], message["data"]["number"]) == (topic, number)


async def test_by_default_it_is_closed(start):
    server = start()
    async with server.client("other", topics=["a"]) as bystander:
        with slow_client(server, ["a"]) as raw:
            for number in range(MESSAGES):
                server.publish("a", {"number": number, "padding": PADDING})
                assert (await bystander.next())["data"]["number"] == number
            frames, code, _ = raw.frames_to_close()
            assert code == 4000
            numbers = [json.loads(payload)["data"]["number"] for _, payload in frames]
            assert numbers == list(range(len(numbers))), "what came before is whole"
        assert dropped(server) == 0


async def test_the_oldest_are_dropped_and_it_is_told(start):
    server = start("--slow", "drop-oldest")
    async with server.client("other", topics=["a", "b"]) as bystander:
        with slow_client(server, ["a", "b"]) as raw:
            await publish_all(server, bystander, ["a", "b"])
            heard = messages_until(raw, MESSAGES - 1)
            gaps = [at for at, (name, _) in enumerate(heard) if name == "gap"]
            assert len(gaps) == 1, [name for name, _ in heard]
            before, after = heard[: gaps[0]], heard[gaps[0] + 1:]
            numbers = [number for _, number in before]
            assert numbers == list(range(len(numbers))) and numbers, "all up to the hole"
            rest = [number for _, number in after]
            assert rest == list(range(rest[0], MESSAGES)), "all behind the hole"
            assert rest[0] - len(numbers) == dropped(server) > 0
            assert re.fullmatch(r"[0-9a-v]{35}", heard[gaps[0]][1]["from"])
            # It is as good a client as any other again.
            server.publish("a", {"number": MESSAGES})
            assert messages_until(raw, MESSAGES) == [("a", MESSAGES)]


async def test_of_each_topic_the_newest_stays(start):
    server = start("--slow", "keep-newest")
    topics = ["a", "b", "c"]
    async with server.client("other", topics=topics) as bystander:
        with slow_client(server, topics) as raw:
            await publish_all(server, bystander, topics)
            heard = messages_until(raw, MESSAGES - 1)
            numbers = [number for _, number in heard]
            assert numbers == sorted(numbers), "in their order"
            assert numbers[-3:] == [MESSAGES - 3, MESSAGES - 2, MESSAGES - 1]
            assert [topic for topic, _ in heard[-3:]] == topics
            # It received everything until its socket was full; then only the newest of each topic.
            at = len(numbers) - 3
            assert numbers[:at] == list(range(at)) and dropped(server) == MESSAGES - len(numbers)


async def test_raw_clients_lose_the_oldest_without_a_word(start):
    server = start("--slow", "drop-oldest", "--format", "raw")
    with Raw(server, receive_buffer=4096) as raw:
        raw.send(head(server, bearer=token("slow", topics=["a"])))
        assert raw.answer()[0] == 101
        for number in range(MESSAGES):
            server.publish("a", f"{number} {PADDING}")
        numbers = []
        while not numbers or numbers[-1] != MESSAGES - 1:
            opcode, payload = raw.frame()
            assert opcode == TEXT
            numbers.append(int(payload.split(b" ")[0]))
        assert numbers == sorted(set(numbers))
        assert len(numbers) + dropped(server) == MESSAGES


@pytest.mark.parametrize("slow", ["drop-oldest", "keep-newest"])
async def test_answers_to_commands_are_never_dropped(start, slow):
    server = start("--slow", slow, "--commands-per-second-max", "0")
    with slow_client(server, ["a"]) as raw:
        for number in range(40):
            server.publish("a", {"number": number, "padding": PADDING})
            raw.send(frame(TEXT, json.dumps({"op": "ping", "ref": number})))
        eventually(lambda: "oneloop_commands_total 40" in server.admin("/metrics")[2], "all pings are read")
        refs = []
        while len(refs) < 40:
            opcode, payload = raw.frame()
            assert opcode == TEXT
            message = json.loads(payload)
            if message.get("op") == "pong":
                refs.append(message["ref"])
        assert refs == list(range(40))
