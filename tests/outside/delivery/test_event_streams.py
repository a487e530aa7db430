"""Event streams: messages by plain HTTP, with the rights, the history and the ends of WebSockets."""

import contextlib
import json
import subprocess
import threading

import pytest
from helpers.event_stream import Stream
from helpers.process import DEADLINE, eventually
from helpers.raw_client import Raw
from helpers.server import Server, counter
from helpers.streams import STREAM, add
from helpers.tokens import token

PAGE = "https://shop.example"


def test_a_stream_receives_what_is_for_it_and_nobody_else_does(start):
    server = start("--topics", "news", "--may", "room.*")
    with Stream(server, path="/ws?topic=room.7&topic=secret") as stream, Stream(server, "43") as bystander:
        welcome = stream.welcomed().welcome
        bystander.welcomed()
        assert (welcome["sub"], welcome["topics"]) == ("42", ["news", "room.7", "user.42"])
        assert stream.headers["Content-Type"] == "text/event-stream"
        assert stream.headers["Cache-Control"].startswith("no-store")
        assert stream.headers["X-Accel-Buffering"] == "no" and stream.headers["Transfer-Encoding"] == "chunked"
        assert 1000 <= stream.retry < 5000
        for topic, data in [("room.7", {"paid": True}), ("user.42", "zwölf\n\u2028\r\nx"), ("user.4", 1), ("news", None)]:
            server.publish(topic, data)
        server.publish("user.42", b"\xff")
        refused = {"op": "error", "code": "forbidden", "topic": "secret"}
        assert stream.next() == refused
        assert stream.heard()[:3] == [("room.7", {"paid": True}), ("user.42", "zwölf\n\u2028\r\nx"), ("news", None)]
        assert bystander.heard() == [("news", None)]
        assert counter(server, "event_streams_total") == 2 and counter(server, "clients") == 2
    eventually(lambda: counter(server, "clients") == 0, "both are gone")


@pytest.mark.parametrize("place", ["header", "query", "cookie"])
def test_the_token_has_the_places_that_a_request_has(start, place):
    server = start("--jwt-cookie", "session")
    bearer = token("42")
    path = f"/ws?token={bearer}" if place == "query" else "/ws"
    headers = {"Cookie": f"session={bearer}"} if place == "cookie" else {}
    with Stream(server, bearer=bearer if place == "header" else "", path=path, headers=headers) as stream, \
            Stream(server, "43") as bystander:
        assert stream.welcomed().welcome["sub"] == "42"
        bystander.welcomed()
        server.publish("user.42", 1)
        assert stream.heard() == [("user.42", 1)] and bystander.heard() == []


def test_it_resumes_from_its_last_event_over_kill_9(start, redis, request):
    """An abrupt end every time: no entry of the stream is lost, none comes twice."""
    servers = [Server(*STREAM, redis=redis)]
    request.addfinalizer(lambda: [server.kill() for server in servers])
    servers[0].wait_ready()
    got, since, sent = [], None, 0
    quiet = []
    for server in range(4):
        with Stream(servers[-1], since=since) as stream, Stream(servers[-1], "43") as bystander:
            assert stream.welcomed().welcome["resumed"] == (since is not None)
            bystander.welcomed()
            for _ in range(50):
                add(redis, "user.42", sent)
                sent += 1
            # Some are read before the end, some are on their way, some are published while nobody listens.
            for _ in range(30):
                message = stream.next()
                got.append((message["topic"], message["data"]))
            since = stream.id
            quiet += bystander.heard(lambda *words: add(redis, *words))
            servers[-1].kill()
        for _ in range(20):
            add(redis, "user.42", sent)
            sent += 1
        servers.append(Server(*STREAM, redis=redis))
        servers[-1].wait_ready()
    with Stream(servers[-1], since=since) as stream:
        stream.welcomed()
        got += stream.heard(lambda *words: add(redis, *words))
    assert got == [("user.42", number) for number in range(sent)] and quiet == []


def test_it_resumes_on_channels_and_is_told_of_what_is_lost(start):
    server = start("--history-messages-max", 5, "--topics", "news")
    with Stream(server) as stream, Stream(server, "43") as bystander:
        stream.welcomed()
        bystander.welcomed()
        server.publish("news", 1)
        assert stream.heard() == [("news", 1)]
        stream.cut()
        eventually(lambda: counter(server, "clients") == 1, "it is gone")
        server.publish("news", 2)
        server.publish("user.43", 3)
        with Stream(server, since=stream.id) as again:
            assert again.welcomed().welcome["resumed"] and again.heard() == [("news", 2)]
            for number in range(10):
                server.publish("news", number)
        with Stream(server, since=stream.id) as late:
            welcome = late.welcomed().welcome
            assert not welcome["resumed"] and welcome["from"] and late.heard() == []
        assert [data for _, data in bystander.heard()] == [1, 2, 3, *range(10)]


def test_an_end_by_the_server_is_an_event_with_its_code(start, redis):
    server = start("--control", "ctl", "--single-session", "true", redis=redis)
    with Stream(server) as first, Stream(server, "43") as bystander:
        first.welcomed()
        bystander.welcomed()
        with Stream(server) as second:
            second.welcomed()
            assert first.closed()[0] == 4503
            redis.command("PUBLISH", "ctl", json.dumps({"op": "kick", "sub": "42", "reason": "paid"}))
            assert second.closed() == (4504, {"reason": "paid"}) and second.retry == 60_000
        with Stream(server, bearer=token("42", seconds=5)) as third:
            assert third.welcomed().closed()[0] == 4002
        assert bystander.heard() == []
    assert counter(server, 'closes_total{code="4504"}') == 1


@pytest.mark.one_loop("they take turns, so the times depend on where the clients are")
def test_a_drain_gives_each_its_time(start):
    server = start("--drain-per-second", 4, "--drain-seconds", 5)
    with contextlib.ExitStack() as ends:
        streams = [ends.enter_context(Stream(server, sub)).welcomed() for sub in range(3)]
        server.signal()
        assert [stream.closed() for stream in streams] == [(1001, {"retry": 250 * (n + 1)}) for n in range(3)]
        assert [stream.retry for stream in streams] == [250, 500, 750]


@pytest.mark.parametrize("sub, headers, status, code", [
    (None, {}, 401, 4501),
    ("expired", {}, 401, 4500),
    ("42", {"Origin": "https://evil.example"}, 403, 4505),
    ("42", {"Sec-Fetch-Mode": "no-cors"}, 403, 4505),
], ids=["no token", "expired", "a foreign page", "a page that may not read"])
async def test_a_refusal_is_a_status_with_its_reason(start, sub, headers, status, code):
    server = start("--origins", PAGE)
    bearer = {None: "", "expired": token("42", seconds=-60)}.get(sub, token("42"))
    async with server.client("43") as bystander:
        with Stream(server, bearer=bearer, headers=headers) as stream:
            assert stream.status == status and stream.headers["Content-Type"] == "application/json"
            found, reason = stream.refusal()
            assert found == code and reason["reason"] in ("no_token", "expired", "origin")
            assert "Access-Control-Allow-Origin" not in stream.headers
        assert await bystander.heard() == []
    assert counter(server, f'http_responses_total{{status="{status}"}}') == 1


async def test_the_cookie_of_a_foreign_page_opens_no_stream(start):
    server = start("--jwt-cookie", "session", "--origins", PAGE)
    cookie = {"Cookie": f"session={token('42')}"}
    async with server.client("43") as bystander:
        for foreign in [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Mode": "no-cors"}]:
            with Stream(server, bearer="", headers=cookie | foreign) as stream:
                assert stream.status == 403 and stream.refusal()[0] == 4505
        assert server.publish("user.42", "secret") == 0
        with Stream(server, bearer="", headers=cookie | {"Origin": PAGE}) as stream:
            assert stream.welcomed().welcome["sub"] == "42"
        assert await bystander.heard() == []


@pytest.mark.one_loop("each has a place at least")
def test_a_full_server_says_when_to_come_back(start):
    server = start("--clients-max", 1, "--origins", PAGE)
    with Stream(server, "43") as bystander:
        bystander.welcomed()
        with Stream(server, headers={"Origin": PAGE}) as stream:
            assert (stream.status, stream.headers["Retry-After"]) == (503, "5")
            # The page can read it.
            assert stream.headers["Access-Control-Allow-Origin"] == PAGE
            assert stream.refusal() == (4003, {"retry": 5000, "reason": "busy", "detail": "this server is full"})
        assert bystander.heard() == []


def test_pages_of_the_origins_may_read_and_send_the_header(start):
    server, open_to_all = start("--origins", PAGE), start("--origins", "*")
    asked = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    status, headers, _ = server.http("OPTIONS", "/ws", {"Origin": PAGE} | asked)
    assert (status, headers["Access-Control-Allow-Origin"]) == (204, PAGE)
    assert headers["Access-Control-Allow-Credentials"] == "true" and headers["Vary"] == "Origin"
    assert headers["Access-Control-Allow-Headers"] == "Authorization, Last-Event-ID"
    for path, origin in [("/ws", "https://evil.example"), ("/healthz", PAGE), ("/nothing", PAGE)]:
        status, headers, _ = server.http("OPTIONS", path, {"Origin": origin} | asked)
        assert status == 204 and "Access-Control-Allow-Origin" not in headers, path
    for at, origin, allowed, credentials in [
        (server, PAGE, PAGE, "true"), (open_to_all, "https://any.example", "*", None), (server, None, None, None),
    ]:
        with Stream(at, headers={"Origin": origin} if origin else {}) as stream:
            stream.welcomed()
            assert stream.headers["Access-Control-Allow-Origin"] == allowed
            assert stream.headers["Access-Control-Allow-Credentials"] == credentials
            assert stream.headers["Vary"] == "Origin"


def test_heartbeats_keep_it_and_its_silence_does_not_end_it(start):
    server = start("--ping-seconds", 1, "--silence-seconds", 2)
    with Stream(server) as stream, Stream(server, "43") as bystander:
        stream.welcomed()
        bystander.welcomed()
        eventually(lambda: counter(server, "pings_total") >= 10, "five heartbeats for each")
        assert stream.heard() == [] and stream.comments >= 4
        assert bystander.heard() == []
        assert counter(server, "clients") == 2


def test_a_stream_that_is_not_read_is_closed_and_delays_nobody(start):
    server = start("--topics", "news", "--backlog-bytes-max", 100_000, "--send-buffer-bytes", 4096)
    with Raw(server, receive_buffer=4096) as slow, Stream(server, "43") as bystander:
        bystander.welcomed()
        slow.send(f"GET /ws HTTP/1.1\r\nHost: {server.host}\r\nAccept: text/event-stream\r\n"
                  f"Authorization: Bearer {token('42')}\r\n\r\n".encode())
        eventually(lambda: counter(server, "clients") == 2, "both are there")
        for number in range(200):
            payload = str(number) + "x" * 5000
            server.publish("news", payload)
            assert bystander.next()["data"] == payload
        eventually(lambda: counter(server, 'closes_total{code="4000"}') == 1, "it is closed")


def test_what_it_sends_behind_its_request_is_discarded_and_bounded(start):
    server = start("--commands-per-second-max", 20)
    with Stream(server) as stream, Stream(server, "43") as bystander:
        stream.welcomed()
        bystander.welcomed()
        stream.socket.sendall(b"GET /ws HTTP/1.1\r\n\r\n" + b"\x81\x80" * 1000)
        server.publish("user.42", 1)
        assert stream.heard() == [("user.42", 1)]

        def flood():
            with contextlib.suppress(OSError):
                while True:
                    stream.socket.sendall(b"x" * 65536)

        threading.Thread(target=flood, daemon=True).start()
        eventually(lambda: counter(server, 'closes_total{code="4003"}') == 1, "it is closed")
        assert bystander.heard() == []


@pytest.mark.parametrize("request_line, status", [
    ("POST /ws HTTP/1.1", 405), ("HEAD /ws HTTP/1.1", 426), ("GET /nothing HTTP/1.1", 404),
    ("OPTIONS /ws HTTP/1.1", 204),
])
def test_other_requests_get_no_stream(server, request_line, status):
    with Raw(server) as raw:
        raw.send(f"{request_line}\r\nHost: {server.host}\r\nAccept: text/event-stream\r\n\r\n".encode())
        assert raw.answer()[0] == status


def test_a_raw_route_sends_payloads_as_lines_of_data(start):
    server = start("--format", "raw", "--topics", "news")
    with Stream(server) as stream, Stream(server, "43") as bystander:
        assert stream.status == bystander.status == 200
        for payload in ["plain", " a\nb\r\nc\r", '{"a":1}', ""]:
            server.publish("user.42", payload)
        server.publish("user.42", b"\xff\x00")
        events = [stream.event() for _ in range(5)]
        assert events == [("", "plain"), ("", " a\nb\nc\n"), ("", '{"a":1}'), ("", ""), ("data64", "/wA=")]
        server.publish("news", "last")
        assert stream.event() == bystander.event() == ("", "last")


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_curl_shows_each_message_as_it_comes(start, version):
    server = start("--topics", "news")
    with Stream(server, "43") as bystander:
        bystander.welcomed()
        trust = ["--cacert", server.authority.path] if server.tls else []
        url = f"{server.url.replace('ws', 'http', 1)}/ws?topic=news"
        # With HTTP/1.0, curl would ask for a protocol that TLS here does not know by name.
        command = ["curl", "-sSN", version, "--no-alpn", *trust, "-H", "Accept: text/event-stream",
                   "-H", f"Authorization: Bearer {token('42')}", url]
        curl = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        watchdog = threading.Timer(DEADLINE, curl.kill)
        watchdog.start()
        try:
            eventually(lambda: counter(server, "opened_total") == 2, "curl is there")
            for number in range(3):
                server.publish("user.42", number)
                while not (line := curl.stdout.readline()).startswith('data: {"topic"'):
                    assert line, "curl ended"
                assert json.loads(line.removeprefix("data: "))["data"] == number
            server.signal()
            rest = curl.stdout.read()
            assert "event: close\n" in rest and curl.wait(timeout=DEADLINE) == 0
        finally:
            watchdog.cancel()
            curl.kill()
            curl.wait()
            curl.stdout.close()
        assert bystander.closed()[0] == 1001
