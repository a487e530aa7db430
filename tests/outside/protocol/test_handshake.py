"""Handshakes: legal ones however they are cut, illegal ones answered in HTTP, and origins."""

import json
import socket

import pytest
from helpers.process import DEADLINE, brief
from helpers.raw_client import PING, PONG, TEXT, Raw, frame, head
from helpers.server import counter
from helpers.tokens import token


@pytest.fixture
def raw(server):
    with Raw(server) as raw:
        yield raw


def assert_welcomed(raw):
    status, headers = raw.answer()
    assert status == 101
    assert headers["upgrade"].lower() == "websocket"
    # RFC 6455 section 1.3, for the key of bytes 0 to 15.
    assert headers["sec-websocket-accept"] == "Bz3qJYTGdOe8gUSpLosEdiLKDrk="
    opcode, payload = raw.frame()
    assert opcode == TEXT and json.loads(payload)["op"] == "welcome"


def test_frames_behind_the_head_are_not_lost(server, raw):
    raw.send(head(server, bearer=token()) + frame(TEXT, "ping") + frame(PING, "x"))
    assert_welcomed(raw)
    assert raw.frame() == (TEXT, b"pong")
    assert raw.frame() == (PONG, b"x")


def test_a_first_frame_token_behind_the_head_is_taken(server, raw):
    raw.send(head(server) + frame(TEXT, json.dumps({"op": "auth", "token": token()})))
    assert_welcomed(raw)


def test_a_head_may_come_one_byte_at_a_time(server, raw):
    raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in head(server, bearer=token()) + frame(TEXT, "ping"):
        raw.send(bytes([byte]))
    assert_welcomed(raw)
    assert raw.frame() == (TEXT, b"pong")


@pytest.mark.parametrize("lines", [
    ["Connection: keep-alive", "Connection: Upgrade"],
    ["Connection: Upgrade", "Connection: keep-alive"],
    ["Connection: keep-alive, Upgrade"],
    ["connection:upgrade"],
    ["CONNECTION: UPGRADE"],
])
def test_the_connection_header_may_be_a_list(server, raw, lines):
    raw.send(head(server, bearer=token(), drop=["Connection"], extra=lines))
    assert_welcomed(raw)


def test_unknown_headers_and_extensions_are_left_alone(server, raw):
    extra = ["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits", "X-Any: thing",
             "Cookie: token=x", "Accept-Language: de"]
    raw.send(head(server, bearer=token(), extra=extra))
    status, headers = raw.answer()
    assert status == 101 and "sec-websocket-extensions" not in headers


@pytest.mark.parametrize("name, options, status", [
    ("unknown path", {"path": "/nowhere"}, 404),
    ("POST", {"method": "POST"}, 405),
    ("no upgrade", {"drop": ["Upgrade", "Connection"]}, 426),
    ("old version", {"sec_websocket_version": "8"}, 426),
    ("future version", {"sec_websocket_version": "14"}, 426),
    ("no version", {"drop": ["Sec-WebSocket-Version"]}, 426),
    ("no key", {"drop": ["Sec-WebSocket-Key"]}, 400),
    ("no path", {"path": ""}, 400),
])
def test_a_refused_handshake_gets_an_answer_and_the_end(server, raw, name, options, status):
    raw.send(head(server, bearer=token(), **options))
    got, headers = raw.answer()
    assert got == status
    if status == 426:
        assert headers["sec-websocket-version"] == "13"
    raw.take(int(headers.get("content-length", 0)))
    assert raw.ended()


@pytest.mark.plain
@pytest.mark.parametrize("garbage", [
    b"\r\n\r\n\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), b"GET\r\n\r\n",
    b"GET /ws HTTP/9.9\r\n\r\n", b"GET /ws HTTP/1.1\r\nbad header\r\n\r\n",
    b"GET /ws HTTP/1.1\r\n: no name\r\n\r\n", b"*1\r\n$4\r\nPING\r\n", b"\xff" * 300 + b"\r\n\r\n",
    b"GET /w\0s HTTP/1.1\r\n\r\n",
], ids=brief)
async def test_garbage_gets_an_answer_and_the_end(server, garbage):
    async with server.client("43") as bystander:
        with Raw(server) as raw:
            raw.send(garbage)
            raw.socket.shutdown(socket.SHUT_WR)
            while raw.more():
                pass
            assert not raw.input or raw.input.startswith(b"HTTP/1.1 400"), raw.input
        assert await bystander.heard() == []


HEADER = "X-Evil: 1"


@pytest.mark.plain
@pytest.mark.parametrize("path, extra", [
    (f"/ws?token=%0d%0a{HEADER.replace(' ', '')}", []),
    (f"/ws?since=%0D%0A{HEADER.replace(' ', '')}", []),
    (f"/ws?token=x\r\n{HEADER}", []),
    (f"/ws?token=x\n{HEADER}\n", []),
    ("/ws?token=x\rX-Evil:1", []),
    ("/%0d%0aX-Evil:1", []),
    (f"/\r\n{HEADER}", []),
    ("/ws", [f"Sec-WebSocket-Protocol: oneloop.v1, x%0d%0a{HEADER}"]),
    ("/ws", [f"Sec-WebSocket-Protocol: oneloop.v1\n{HEADER}"]),
    ("/ws", [f"Sec-WebSocket-Protocol: oneloop.v1\r{HEADER}"]),
    ("/ws", [f"Sec-WebSocket-Protocol: bearer.x\r\n {HEADER}", "Sec-WebSocket-Protocol: oneloop.v1"]),
    ("/ws", [f"Origin: http://x\n{HEADER}"]),
    ("/ws", [f"Origin: http://x%0d%0a{HEADER}"]),
    ("/ws", [f"Authorization: Bearer x\r\n {HEADER}"]),
    ("/ws", [f"Authorization: Bearer x%0d%0a{HEADER}"]),
    ("/ws", [f"User-Agent: x\r\n{HEADER}"]),
], ids=brief)
@pytest.mark.parametrize("good", [True, False], ids=["token", "none"])
async def test_a_line_break_in_a_request_is_never_echoed(server, path, extra, good):
    async with server.client("43") as bystander:
        with Raw(server) as raw:
            raw.send(head(server, path, bearer=token() if good else None, extra=extra))
            raw.socket.shutdown(socket.SHUT_WR)
            while raw.more():
                pass
            assert raw.input.startswith(b"HTTP/1.1 "), raw.input
            assert b"evil" not in raw.input.lower(), raw.input
        assert not any(line.lower().startswith("x-evil") for line in server.log().splitlines())
        assert await bystander.heard() == []


def test_a_head_over_its_bound_is_431(start):
    server = start("--head-bytes-max", 2000)
    with Raw(server) as raw:
        raw.send(head(server, bearer=token(), extra=["X-Filler: " + "x" * 1900]))
        assert raw.answer()[0] == 431
    with Raw(server) as raw:
        # Without an end: the bound counts, not the length of a whole head.
        raw.send(b"GET /ws HTTP/1.1\r\nX-Filler: " + b"x" * 3000)
        assert raw.answer()[0] == 431


def test_a_slow_head_is_408_though_bytes_keep_coming(start):
    server = start("--head-seconds", 1)
    with Raw(server) as raw:
        raw.socket.settimeout(0.2)
        raw.send(b"GET /ws HTTP/1.1\r\nX-Filler: ")
        for _ in range(5 * DEADLINE):
            try:
                if not raw.more() or b"\r\n\r\n" in raw.input:
                    break
            except TimeoutError:
                raw.send(b"x")
        raw.socket.settimeout(DEADLINE)
        assert raw.answer()[0] == 408
        with_body = raw.input
        while raw.more():
            with_body = raw.input
        assert b"HTTP/1.1" not in with_body
    assert counter(server, 'http_responses_total{status="408"}') == 1


async def test_a_silent_connection_does_not_hinder_others(server):
    with Raw(server), Raw(server) as half:
        half.send(b"GET /ws HT")
        async with server.client("42") as client:
            assert await client.heard() == []


# ---- origins

def origin_status(server, origin, host=None, **options):
    """101, or the code of the close frame that follows at once."""
    with Raw(server) as raw:
        extra = [f"Origin: {origin}"] if origin is not None else []
        raw.send(head(server, f"/ws?token={token()}", extra=extra, **({"host": host} if host else {}), **options))
        status, *_ = raw.answer()
        opcode, payload = raw.frame()
        return int.from_bytes(payload[:2]) if opcode == 8 else status


def test_by_default_the_same_host_may_connect(server):
    assert origin_status(server, None) == 101
    assert origin_status(server, f"http://{server.host}") == 101
    assert origin_status(server, "https://push.example", host="push.example") == 101
    for foreign in [
        "http://evil.example", f"http://{server.host}.evil.example", "null", "garbage",
        "http://evil.example/" + server.host, f"http://{server.host}@evil.example",
        "http://" + server.host[:-1],
    ]:
        assert origin_status(server, foreign) == 4505, foreign


def test_listed_origins_may_connect_and_no_others(start):
    server = start("--origins", "https://example.com,http://other.example:8080")
    for origin in ["https://example.com", "http://other.example:8080", None]:
        assert origin_status(server, origin) == 101, origin
    for origin in [
        "http://example.com", "https://example.com:444", "https://example.com.evil.example",
        "https://evil-example.com", "https://sub.example.com", "http://other.example", "null",
        "https://other.example:8080",
    ]:
        assert origin_status(server, origin) == 4505, origin


NEAR_MISSES = [
    "https://example.com", "https://.example.com", "https://a..example.com", "https://evilexample.com",
    "https://a.example.com.evil.example", "https://a.example.com:8443", "https://evil.example:1.example.com",
    "https://evil.example/.example.com", "https://evil@a.example.com", "http://a.example.com", "https://*.example.com",
    "file:///", "file://a", "://null", "null, null", "nullnull", "https://null",
]


async def test_a_domain_and_pages_from_disk_may_be_listed(start):
    server = start("--origins", "https://*.example.com,null,file://")
    async with server.client("43") as bystander:
        for origin in ["https://a.example.com", "https://A.b.Example.com:443", "null", "file://", None]:
            assert origin_status(server, origin) == 101, origin
        for origin in NEAR_MISSES:
            assert origin_status(server, origin) == 4505, origin
        with Raw(server) as raw:
            extra = ["Origin: null", "Origin: https://a.example.com"]
            raw.send(head(server, f"/ws?token={token('43')}", extra=extra))
            assert raw.answer()[0] == 101 and raw.close_code() == 4505
        assert await bystander.heard() == []
    other = start("--origins", "https://a.example.com")
    assert [origin_status(other, origin) for origin in ["null", "file://"]] == [4505, 4505]


@pytest.mark.plain
async def test_the_servers_own_page_may_connect_whatever_is_listed(start):
    flags = ["--origins", "http://localhost:5173"]
    page = start(*flags, "--page")
    async with page.client("43") as bystander:
        for origin, host, status in [
            ("http://localhost:5173", None, 101), (f"http://{page.host}", None, 101),
            ("https://push.example", "push.example", 4505), ("https://push.example", None, 4505),
            ("http://evil.example", None, 4505), ("null", None, 4505), ("capacitor://push.example", "push.example", 4505),
        ]:
            assert origin_status(page, origin, host=host) == status, origin
        assert await bystander.heard() == []
    without = start(*flags)
    assert origin_status(without, f"http://{without.host}") == 4505
    # Without a key the page is for this machine alone, by a name that nobody can point here.
    ready = start(*flags, key=False)
    for origin, host, status in [(f"http://{ready.host}", None, 4500), ("http://evil.example", "evil.example", 4505)]:
        assert origin_status(ready, origin, host=host) == status, origin


def test_the_default_port_is_the_same_origin(start):
    server = start("--origins", "https://example.com:443")
    assert origin_status(server, "https://example.com") == 101


def test_any_origin_may_connect_where_the_star_says_so(start):
    server = start("--origins", "*")
    for origin in ["https://example.com", "http://evil.example:1", "null", None]:
        assert origin_status(server, origin) == 101, origin
