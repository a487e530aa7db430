"""A cursor resumes what the server issued it for: what a client makes itself, or changes, resumes nothing."""

import json
import random
import re
import signal

import pytest
from helpers.process import eventually, oneloop
from helpers.server import counter
from helpers.streams import STREAM, add
from helpers.tokens import pem, signed, token
from helpers.ws_client import all_heard

OLD, NEW = "the old secret, " + "o" * 32, "the new secret, " + "n" * 32
DIGITS = "0123456789abcdefghijklmnopqrstuv"
FORGED = 400


def counted(number):
    """A number as a cursor has it: how many digits of base 32, and the digits."""
    digits = ""
    while number:
        digits, number = DIGITS[number % 32] + digits, number // 32
    return DIGITS[len(digits)] + digits


def forgeries(good):
    """As many cursors that were never issued: without a MAC, with that of another one, with parts of a good one."""
    chance = random.Random(7)
    nodes, numbers = ["0" * 12, good[:12], "v" * 12], ["0" * 10, good[12:22], "v" * 10]
    places = [(0, 0), (1, 0), (2**63, 1), (2**64 - 1, 2**64 - 1)]
    unsigned = [
        node + number + flag + "".join(map(counted, place))
        for node in nodes for number in numbers for flag in "01" for place in places
    ]
    macs = ["", "0" * 13, "f" + "v" * 12, good[-13:]]
    found = {text + mac for text in unsigned for mac in macs} - {good}
    while len(found) < FORGED:
        at = chance.randrange(len(good))
        found.add(good[:at] + chance.choice(DIGITS.replace(good[at], "")) + good[at + 1:])
    return sorted(found)[:FORGED // 2] + sorted(found)[-(FORGED // 2):]


async def test_a_cursor_that_was_not_issued_reads_nothing_of_a_stream(start, redis):
    server = start(*STREAM, "--history-messages-max", "1", "--commands-per-second-max", "0", redis=redis)
    async with server.client("42") as client:
        for number in range(20):
            add(redis, "user.42", number)
        await all_heard(client, 19)
        good = client.id
    add(redis, "user.42", "missed")
    for since in forgeries(good):
        async with server.client("42", since=since) as client:
            assert client.welcome["resumed"] is False, since
    assert counter(server, "pages_total") == counter(server, "replayed_total") == 0
    assert counter(server, "resumes_refused_total") == FORGED
    async with server.client("42", since=good) as client, server.client("43", since=good) as bystander:
        assert client.welcome["resumed"] is bystander.welcome["resumed"] is True
        assert await client.heard() == [("user.42", "missed")]
        assert await bystander.heard() == []


def node(start, redis, *flags, secret=OLD, **variables):
    return start(*STREAM, *flags, redis=redis, secret=secret, variables=variables)


async def comes_back(server, since, bearer, data):
    """Returns whether the cursor is accepted; if so, nothing is lost by it."""
    async with server.client("42", bearer=bearer, since=since) as client:
        if not client.welcome["resumed"]:
            return False
        assert await all_heard(client, data) == [("user.42", data)]
    return True


async def test_cursors_go_from_node_to_node_as_far_as_their_secret_does(start, redis):
    async with node(start, redis).client("42", bearer=token("42", secret=OLD)) as client:
        since = client.welcome["id"]
    add(redis, "user.42", "missed")
    old, new = token("42", secret=OLD), token("42", secret=NEW)
    assert await comes_back(node(start, redis), since, old, "missed")
    assert not await comes_back(node(start, redis, secret=NEW), since, new, "missed")
    changing = node(start, redis, secret=NEW, ONELOOP_JWT_PREVIOUS_SECRET=OLD)
    assert await comes_back(changing, since, new, "missed")
    bearer = token("43", secret=NEW)
    async with changing.client("43", bearer=bearer, since=since) as bystander:
        assert bystander.welcome["resumed"] is True and await bystander.heard() == []


async def test_nodes_with_public_keys_share_a_key_of_their_own(start, redis, tmp_path):
    public, key, other = (tmp_path / name for name in ("public.pem", "key", "other"))
    public.write_text(pem("ES256"))
    key.write_text("a key for cursors, " + "k" * 32 + "\n")
    other.write_text("another key for cursors, " + "k" * 32)
    bearer = signed("ES256")

    def node(*flags):
        return start(*STREAM, "--jwt-key-file", public, *flags, redis=redis, key=False)

    one = node("--cursor-key-file", key)
    alone = node()
    async with one.client("42", bearer=bearer) as client, alone.client("42", bearer=bearer) as lonely:
        since, elsewhere = client.welcome["id"], lonely.welcome["id"]
    add(redis, "user.42", "missed")
    assert await comes_back(node("--cursor-key-file", key), since, bearer, "missed")
    assert await comes_back(
        node("--cursor-key-file", other, "--previous-cursor-key-file", key), since, bearer, "missed",
    )
    assert not await comes_back(node("--cursor-key-file", other), since, bearer, "missed")
    assert not await comes_back(alone, since, bearer, "missed")
    assert not await comes_back(one, elsewhere, bearer, "missed")
    assert await comes_back(alone, elsewhere, bearer, "missed")
    assert re.search("set cursor_key_file", alone.log())
    assert "cursor_key_file" not in one.log()
    async with one.client("43", bearer=signed("ES256", sub="43"), since=since) as bystander:
        assert await bystander.heard() == []


async def test_a_reload_changes_the_key_of_cursors_with_the_secret(start, redis, tmp_path):
    settings, now, before = (tmp_path / name for name in ("oneloop.toml", "now", "before"))
    now.write_text(OLD)
    settings.write_text(f"jwt.secret_file = {json.dumps(str(now))}\n")
    server = start("--config", settings, *STREAM, redis=redis, secret=None)

    def reload():
        count = counter(server, "reloads_total")
        server.signal(signal.SIGHUP)
        eventually(lambda: counter(server, "reloads_total") == count + 1, "they were read")

    async with server.client("42", bearer=token("42", secret=OLD)) as client:
        since = client.welcome["id"]
    add(redis, "user.42", "missed")
    now.write_text(NEW)
    before.write_text(OLD)
    only_new = settings.read_text()
    settings.write_text(f"{only_new}jwt.previous_secret_file = {json.dumps(str(before))}\n")
    reload()
    bearer = token("42", secret=NEW)
    assert await comes_back(server, since, bearer, "missed")
    settings.write_text(only_new)
    reload()
    assert not await comes_back(server, since, bearer, "missed")
    async with server.client("43", bearer=token("43", secret=NEW), since=since) as bystander:
        assert bystander.welcome["resumed"] is False and await bystander.heard() == []


@pytest.mark.parametrize("content, said", [("", "is empty"), ("k" * 31, "has 31 bytes")])
def test_a_key_that_could_be_guessed_is_refused(tmp_path, content, said):
    key = tmp_path / "key"
    key.write_text(content)
    result = oneloop("--check", "--cursor-key-file", key)
    expected = f"cursor_key_file (--cursor-key-file): the secret {said}"
    assert result.returncode == 2 and expected in result.stderr, result.stderr
