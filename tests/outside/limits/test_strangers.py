"""Connections without a token make room if the server is full; authenticated ones stay."""

import contextlib
import json

import pytest
from helpers.process import eventually
from helpers.raw_client import PING, TEXT, Raw, frame, head
from helpers.resp_client import Publisher
from helpers.server import counter
from helpers.tokens import token
from websockets.exceptions import ConnectionClosed

CROWD = 60
PASSWORD = "open sesame"

# Bytes that strangers send: none, or a part of a handshake or a token.
WORDS = {"nothing": b"", "a byte": b"G", "half a head": b"GET /ws HTTP/1.1\r\nHost: a\r\n"}


@contextlib.contextmanager
def crowd(server, count=CROWD, word=b"", address=None, source=None):
    """`count` connections that send these bytes and no more, each in a turn of its own."""
    with contextlib.ExitStack() as stack:
        strangers = []
        for _ in range(count):
            one = stack.enter_context(Raw(server, address=address, source=source))
            with contextlib.suppress(OSError):
                one.send(word)
            strangers.append(one)
        yield strangers


def admin(server):
    host, _, port = server.line("admin").removeprefix("http://").rstrip("/").rpartition(":")
    return host, int(port)


# ---- handshakes

@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
async def test_strangers_in_a_handshake_keep_nobody_out(start, word):
    server = start("--handshakes-max", 8, "--head-seconds", 300)
    async with server.client("43") as bystander:
        with crowd(server, word=word) as strangers:
            for number in range(5):
                async with server.client("42") as client:
                    assert server.publish("user.42", number) == 1
                    assert await client.heard() == [("user.42", number)]
            eventually(lambda: counter(server, "strangers_vacated_total") >= CROWD - 8, "room was made")
            assert counter(server, "handshakes_under_way") <= 8
            status, headers = strangers[0].answer()
            assert status == 503 and headers["retry-after"] == "1"
        assert await bystander.heard() == []


async def test_who_has_begun_to_speak_stays_while_others_are_silent(start):
    server = start("--handshakes-max", 8, "--head-seconds", 300)
    with Raw(server) as speaker:
        whole = head(server, bearer=token("42"))
        speaker.send(whole[:100])
        eventually(lambda: counter(server, "handshakes_under_way") == 1, "it is there")
        with crowd(server):
            eventually(lambda: counter(server, "strangers_vacated_total") >= CROWD - 8, "room was made")
            speaker.send(whole[100:])
            assert speaker.answer()[0] == 101


@pytest.mark.parametrize("limit", ["--handshakes-max", "--clients-max"])
async def test_one_word_saves_no_stranger_from_a_newcomer_that_is_slow_to_speak(start, limit):
    """A head that comes a round trip behind the connection, or a token behind the upgrade."""
    server = start(limit, 8, "--head-seconds", 300, "--auth-seconds", 300)
    upgrades = limit == "--clients-max"
    word = head(server) + frame(TEXT, "ping") if upgrades else b"G"
    count = 7 if upgrades else 8
    async with server.client("43") as bystander:
        with crowd(server, count, word) as strangers:
            if upgrades:
                for one in strangers:
                    assert one.answer()[0] == 101 and one.frame()[1] == b"pong"
            with Raw(server) as slow:
                if upgrades:
                    slow.send(head(server))
                    assert slow.answer()[0] == 101
                vacated = counter(server, "strangers_vacated_total")
                with crowd(server, 3, word):
                    eventually(lambda: counter(server, "strangers_vacated_total") >= vacated + 3, "more have come")
                    if upgrades:
                        slow.send(frame(TEXT, json.dumps({"op": "auth", "token": token("42")})))
                        assert json.loads(slow.frame()[1])["op"] == "welcome"
                    else:
                        slow.upgrade(token("42"))
                    assert server.publish("user.42", 1) == 1
        assert await bystander.heard() == []


@pytest.mark.one_loop("a dead connection makes room at its own")
async def test_who_is_refused_closes_nobody_at_the_limit_of_an_address(start):
    server = start("--clients-per-address-max", 2, "--ping-seconds", 1, "--silence-seconds", 300)
    with await dead_client(server) as one:
        async with server.client("43") as bystander:
            for request_head, status in [
                (head(server, sec_websocket_version="7"), 426), (head(server, bearer="a.b.c"), 401),
                (head(server, extra=["Origin: http://other.example"]), 101),
            ]:
                with Raw(server) as stranger:
                    stranger.send(request_head)
                    assert stranger.answer()[0] == status
                    assert status != 101 or stranger.close_code() == 4505
            assert server.publish("user.42", 1) == 1
            assert json.loads(one.frame()[1])["data"] == 1
            assert await bystander.heard() == []


async def test_the_address_with_most_strangers_makes_room(start):
    server = start("--handshakes-max", 8, "--head-seconds", 300)
    with Raw(server, source="127.0.0.3") as older:
        eventually(lambda: counter(server, "handshakes_under_way") == 1, "it is there")
        with crowd(server):
            eventually(lambda: counter(server, "strangers_vacated_total") >= CROWD - 8, "room was made")
            assert older.upgrade(token("42"))["sub"] == "42"


async def test_silent_connections_take_no_place_of_a_client(start):
    server = start("--clients-max", 3, "--head-seconds", 300)
    async with server.client("43") as bystander, server.client("44"):
        with crowd(server):
            async with server.client("42") as client:
                assert server.publish("user.42", 1) == 1
                assert await client.heard() == [("user.42", 1)]
                assert (await server.refusal(token("45")))[0] == 503
        assert await bystander.heard() == []


@pytest.mark.parametrize("request_head", [
    b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n",
    None,
], ids=["no path", "no upgrade", "a forged token"])
async def test_who_was_refused_takes_no_place_of_a_client(start, request_head):
    server = start("--clients-max", 3)
    async with server.client("43") as bystander:
        with crowd(server, word=request_head or head(server, "/ws?token=a.b.c")):
            for number in range(3):
                async with server.client("42") as client:
                    assert server.publish("user.42", number) == 1
                    assert await client.heard() == [("user.42", number)]
        assert await bystander.heard() == []


# ---- tokens that are still to come

@pytest.mark.parametrize("place", ["header", "query", "frame"])
async def test_who_shows_no_token_makes_room(start, place):
    server = start("--clients-max", 4, "--auth-seconds", 300)
    async with server.client("43") as bystander:
        with Raw(server) as oldest:
            oldest.send(head(server))
            assert oldest.answer()[0] == 101
            with crowd(server, 20, head(server)):
                eventually(lambda: counter(server, "strangers_vacated_total") >= 18, "room was made")
                async with server.client("42", place=place) as client:
                    assert server.publish("user.42", 1) == 1
                    assert await client.heard() == [("user.42", 1)]
            _, code, reason = oldest.frames_to_close()
            assert (code, reason["reason"]) == (4003, "busy") and reason["retry"] > 0
        assert server.publish("user.43", 2) == 1
        assert await bystander.heard() == [("user.43", 2)]


@pytest.mark.one_loop("each has a place at least")
async def test_who_has_shown_a_token_makes_no_room(start):
    server = start("--clients-max", 2, "--auth-seconds", 300)
    async with server.client("43", place="frame") as one, server.client("44") as other:
        with crowd(server, 20, head(server)) as strangers:
            assert all(stranger.answer()[0] == 503 for stranger in strangers)
        assert (await server.refusal(token("42")))[0] == 503
        assert counter(server, "strangers_vacated_total") == 0
        assert server.publish("user.43", 1) == 1
        assert await one.heard() == [("user.43", 1)]
        assert await other.heard() == []


# ---- publishers

@pytest.mark.parametrize("word", [b"", b"*1\r\n", b"*2\r\n$4\r\nAUTH\r\n$5\r\nwrong\r\n", b"PING\r\n"])
async def test_strangers_keep_no_publisher_out(start, tmp_path, word):
    (tmp_path / "password").write_text(PASSWORD)
    server = start("--publishers-password-file", tmp_path / "password", "--publishers-max", 4,
                   "--auth-seconds", 300)
    async with server.client("42") as client, server.client("43") as bystander:
        early = Publisher(*server.publishers)
        assert early.command("AUTH", PASSWORD) == "+OK"
        with crowd(server, word=word, address=server.publishers):
            for number in range(5):
                late = Publisher(*server.publishers)
                assert late.command("AUTH", PASSWORD) == "+OK"
                assert late.command("PUBLISH", "pub.user.42", number) == 1
                late.close()
            assert early.command("PUBLISH", "pub.user.42", 5) == 1
            assert early.command("PUBLISH", "pub.user.43", '"the first that it hears"') == 1
        early.close()
        assert [(await client.next())["data"] for _ in range(6)] == list(range(6))
        assert (await bystander.next())["data"] == "the first that it hears"


async def test_silent_connections_keep_no_publisher_out_without_a_password(start):
    server = start("--publishers-max", 4)
    async with server.client("42") as client, server.client("43") as bystander:
        early = Publisher(*server.publishers)
        assert early.command("PING") == "+PONG"
        with crowd(server, address=server.publishers):
            late = Publisher(*server.publishers)
            assert late.command("PUBLISH", "pub.user.42", 1) == 1
            assert early.command("PUBLISH", "pub.user.42", 2) == 1
            late.close()
        early.close()
        assert await client.heard() == [("user.42", 1), ("user.42", 2)]
        assert await bystander.heard() == []


async def test_publishers_that_have_published_make_no_room(start):
    server = start("--publishers-max", 4)
    publishers = [Publisher(*server.publishers) for _ in range(4)]
    assert [one.command("PUBLISH", "pub.user.42", 1) for one in publishers] == [0] * 4
    with Raw(server, address=server.publishers) as late:
        assert late.more() and late.input.startswith(b"-ERR max number of clients"), late.input
    assert [one.command("PUBLISH", "pub.user.42", 1) for one in publishers] == [0] * 4
    for one in publishers:
        one.close()


# ---- the operator

@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
async def test_strangers_keep_no_operator_out(start, word):
    server = start("--head-seconds", 300)
    with crowd(server, word=word, address=admin(server)):
        for _ in range(20):
            assert server.admin("/healthz")[0] == 200
            assert "oneloop_clients 0" in server.admin("/metrics")[2]


# ---- twins

async def dead_client(server, sub="42"):
    """A client whose network is gone: it answers no ping, and nobody has noticed yet."""
    one = Raw(server)
    one.upgrade(token(sub))
    assert one.frame()[0] == PING
    return one


@pytest.mark.one_loop("a dead connection makes room at its own")
async def test_a_dead_twin_makes_room_for_its_user(start):
    server = start("--clients-per-user-max", 1, "--ping-seconds", 1, "--silence-seconds", 300)
    async with server.client("43") as bystander:
        with contextlib.closing((await dead_client(server)).socket) as socket:
            async with server.client("42") as client:
                assert server.publish("user.42", 1) == 1
                assert await client.heard() == [("user.42", 1)]
                with pytest.raises(ConnectionClosed) as end:
                    async with server.client("42"):
                        pass
                assert end.value.rcvd.code == 4003, "it answers its pings, and keeps its place"
            twin = Raw.__new__(Raw)
            twin.socket, twin.input = socket, b""
            frames, code, _ = twin.frames_to_close()
            assert code == 4001 and all(opcode == PING for opcode, _ in frames)
        assert await bystander.heard() == []


@pytest.mark.one_loop("a dead connection makes room at its own")
async def test_a_dead_twin_makes_room_at_its_address(start):
    server = start("--clients-per-address-max", 2, "--ping-seconds", 1, "--silence-seconds", 300)
    async with server.client("43") as bystander:
        with await dead_client(server):
            async with server.client("44") as client:
                assert server.publish("user.44", 1) == 1
                assert await client.heard() == [("user.44", 1)]
                assert (await server.refusal(token("45")))[0] == 429
        assert await bystander.heard() == []


async def test_a_user_has_so_many_connections_on_all_routes_together(start, tmp_path):
    settings = tmp_path / "oneloop.toml"
    settings.write_text('clients_per_user_max = 2\n[[route]]\npath = "/ws"\n[[route]]\npath = "/other"\n')
    server = start("--config", settings)
    async with server.client("42") as one, server.client("42", path="/other"):
        for path in ["/ws", "/other"]:
            with pytest.raises(ConnectionClosed) as end:
                async with server.client("42", path=path) as late:
                    # Another loop knows of the others in a moment.
                    await late.frame()
            assert end.value.rcvd.code == 4003
        async with server.client("43", path="/other") as bystander:
            assert server.publish("user.42", 1) == 2
            assert await bystander.heard() == []
        assert await one.heard() == [("user.42", 1)]


# ---- health checks of a proxy

async def test_a_health_check_of_a_proxy_is_no_abandoned_handshake(start):
    local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
    server = start("--proxies", "127.0.0.1", "--proxy-protocol", "v2")
    for word, abandoned in [(local, 0), (local + b"GET /", 1)]:
        with Raw(server) as check:
            check.send(word)
            eventually(lambda: counter(server, "received_bytes_total") >= len(word), "it was read")
        eventually(lambda: counter(server, "clients") == 0, "it is gone")
        assert counter(server, 'handshakes_total{result="abandoned"}') == abandoned
