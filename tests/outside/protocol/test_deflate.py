"""Compressed messages: for clients that ask for it, over plain sockets and TLS, and for nobody who must not hear them."""

import asyncio
import json
import zlib

import pytest
from helpers.js_runtimes import BROWSERS, Page
from helpers.process import DEADLINE, eventually, run
from helpers.raw_client import BINARY, CLOSE, CONTINUATION, PING, TEXT, Raw, frame, head
from helpers.server import counter
from helpers.tokens import token
from helpers.wss_programs import PROGRAMS, Program

OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
ACCEPTED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
# Short ones stay as they are.
PAYLOADS = [1, "x" * 300, "y" * 16_384, {"text": "Grüße, 世界" * 100}, "z" * 300_000, *range(20)]
LONG = 4
# The bit RSV1 of a frame's head.
COMPRESSED = 4


@pytest.fixture
def server(start):
    return start("--topics", "news", "--deflate", "all")


def deflated(data, flush=zlib.Z_SYNC_FLUSH):
    """A compressed message (RFC 7692 section 7.2.1)."""
    compressor = zlib.compressobj(wbits=-15)
    whole = compressor.compress(data.encode() if isinstance(data, str) else data) + compressor.flush(flush)
    return whole.removesuffix(b"\x00\x00\xff\xff") if flush == zlib.Z_SYNC_FLUSH else whole + b"\x00"


def inflated(payload):
    return zlib.decompress(payload + b"\x00\x00\xff\xff\x01\x00\x00\xff\xff", wbits=-15)


def next_frame(raw):
    """The next frame of the server, and whether it is compressed: (is compressed, opcode, payload)."""
    first, length = raw.take(2)
    if length == 126:
        length = int.from_bytes(raw.take(2))
    elif length == 127:
        length = int.from_bytes(raw.take(8))
    payload = raw.take(length)
    return bool(first & 0x40), first & 15, payload


def enter(server, sub="42", offer=OFFER):
    """A connection that asked for compression, and the answer to that."""
    raw = Raw(server)
    raw.send(head(server, bearer=token(sub), extra=[offer]))
    status, headers = raw.answer()
    assert status == 101
    is_compressed, _, welcome = next_frame(raw)
    assert not is_compressed and json.loads(welcome)["op"] == "welcome"
    return raw, headers.get("sec-websocket-extensions")


async def test_python_hears_and_is_heard(server):
    deflate = {"compression": "deflate"}
    async with (server.client("42", options=deflate) as client, server.client("42") as plain,
                server.client("43", options=deflate) as bystander):
        assert client.connection.response.headers["Sec-WebSocket-Extensions"] == ACCEPTED
        assert "Sec-WebSocket-Extensions" not in plain.connection.response.headers
        for payload in PAYLOADS:
            server.publish("user.42", payload)
        expected = [("user.42", payload) for payload in PAYLOADS]
        for one in client, plain:
            heard = [await one.next() for _ in PAYLOADS]
            assert [(message["topic"], message["data"]) for message in heard] == expected
        assert await client.ask(op="ping", padding="x" * 3000) == {"op": "pong"}
        assert await bystander.heard() == []
    # Both connections of the user share each that was compressed.
    eventually(lambda: counter(server, "deflated_total") == LONG, "each once")
    assert counter(server, "deflate_saved_bytes_total") > 310_000
    assert counter(server, "deflate_opened_total") == 2


@pytest.mark.plain
@pytest.mark.parametrize("program", ["node ws", "node itself", "go gorilla"])
async def test_a_program_hears_its_messages_over_tls(start, authority, tmp_path, program):
    if program == "node itself" and run("node", "--experimental-websocket", "-e", "WebSocket").returncode:
        pytest.skip("this node has no WebSocket of its own")
    server = start("--deflate", "all", authority=authority)
    payloads = [*PAYLOADS, "last"]
    async with server.client("43", options={"compression": "deflate"}) as bystander:
        command = PROGRAMS[program](server, authority, token("42"), "1.3")
        with Program(command, tmp_path, authority) as client:
            await asyncio.to_thread(eventually, lambda: len(client.messages()) == 2, "the pong", 2 * DEADLINE)
            for payload in payloads:
                server.publish("user.42", payload)
            assert await asyncio.to_thread(client.process.wait, DEADLINE) == 0, client.errors.read_text()
            _, pong, *heard = client.messages()
        assert pong == {"op": "pong"}
        assert [(message["topic"], message["data"]) for message in heard] == [("user.42", data) for data in payloads]
        assert counter(server, "deflate_opened_total") == 2 and counter(server, "deflated_total") == LONG
        assert await bystander.heard() == []


@pytest.mark.parametrize("browser", BROWSERS)
async def test_a_page_asks_by_itself(server, tmp_path, browser):
    def visit():
        with Page(tmp_path, server.host, browser, scheme="https" if server.tls else "http") as page:
            page.open("live", f"{server.url}/ws", token("42"))
            page.wait_open("live")
            # Long enough that the browser compresses it, too.
            page.run("live.send('x'.repeat(2000)).catch((error) => { live.code = error.code; })")
            page.until("live.code")
            for payload in [*PAYLOADS, "last"]:
                server.publish("user.42", payload)
            return page.heard("live", "last")

    async with server.client("43") as bystander:
        assert await asyncio.to_thread(visit) == [("user.42", payload) for payload in [*PAYLOADS, "last"]]
        assert await bystander.heard() == []
    assert counter(server, "deflate_opened_total") == 1 and counter(server, "deflated_total") == LONG


@pytest.mark.parametrize(("offer", "answer"), [
    (OFFER, ACCEPTED),
    ("Sec-WebSocket-Extensions: x-other\r\nSec-WebSocket-Extensions: permessage-deflate", ACCEPTED),
    ("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=\"15\"", f"{ACCEPTED}; server_max_window_bits=15"),
    ("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9, permessage-deflate", ACCEPTED),
    ("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9", None),
    ("Sec-WebSocket-Extensions: permessage-deflate; unknown", None),
    ("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits; client_max_window_bits", None),
    ("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=\"9", None),
])
def test_an_offer_has_its_answer(server, offer, answer):
    raw, accepted = enter(server, offer=offer)
    with raw:
        assert accepted == answer
        server.publish("user.42", "x" * 1000)
        is_compressed, opcode, payload = next_frame(raw)
        assert (is_compressed, opcode) == (answer is not None, TEXT)
        message = json.loads(inflated(payload) if is_compressed else payload)
        assert message["data"] == "x" * 1000


@pytest.mark.one_loop("each counts the subscribers that it has")
async def test_only_broadcasts_are_compressed_where_a_route_says_so(start):
    server = start("--topics", "news", "--deflate", "broadcasts")
    raw, accepted = enter(server)
    async with server.many_clients(64):
        with raw:
            assert accepted == ACCEPTED
            server.publish("user.42", "x" * 1000)
            assert not next_frame(raw)[0]
            server.publish("news", "x" * 1000)
            is_compressed, _, payload = next_frame(raw)
            assert is_compressed and json.loads(inflated(payload))["data"] == "x" * 1000


def test_nothing_is_compressed_by_default(start):
    server = start()
    raw, accepted = enter(server)
    with raw:
        assert accepted is None
        raw.send(frame(TEXT, deflated('{"op":"ping"}'), reserved=COMPRESSED))
        assert raw.close_code() == 1002


PING_COMMAND = '{"op":"ping","padding":"' + "x" * 500 + '"}'
WHOLE = deflated(PING_COMMAND)


@pytest.mark.parametrize("frames", [
    frame(TEXT, WHOLE, reserved=COMPRESSED),
    frame(TEXT, deflated(PING_COMMAND, zlib.Z_FINISH), reserved=COMPRESSED),
    frame(TEXT, PING_COMMAND),
    frame(TEXT, WHOLE[:3], fin=False, reserved=COMPRESSED) + frame(PING) + frame(CONTINUATION, fin=False)
    + frame(CONTINUATION, WHOLE[3:]),
], ids=["compressed", "with a last block", "plain", "in fragments"])
def test_a_client_may_compress_its_messages(server, frames):
    raw, _ = enter(server)
    with raw:
        raw.send(frames)
        assert json.loads(next_frame(raw)[2] or next_frame(raw)[2]) == {"op": "pong"}


@pytest.mark.parametrize(("frames", "code"), [
    (frame(TEXT, deflated("x" * 65_537), reserved=COMPRESSED), 1009),
    (frame(TEXT, deflated("x" * 50_000_000), reserved=COMPRESSED), 1009),
    (frame(BINARY, deflated("x"), reserved=COMPRESSED), 1003),
    (frame(TEXT, deflated(b"\xff"), reserved=COMPRESSED), 1007),
    (frame(TEXT, b"\xff" * 100, reserved=COMPRESSED), 1007),
    (frame(TEXT, b"", reserved=COMPRESSED), 1007),
    (frame(TEXT, WHOLE[:-2], reserved=COMPRESSED), 1007),
    (frame(TEXT, b"\x02\x08\x20\x80\x00" * 10_000, reserved=COMPRESSED), 1007),
    (frame(PING, reserved=COMPRESSED), 1002),
    (frame(TEXT, WHOLE[:3], fin=False, reserved=COMPRESSED) + frame(CONTINUATION, WHOLE[3:], reserved=COMPRESSED), 1002),
], ids=["a byte too long", "a bomb", "binary", "no text", "junk", "empty", "cut", "empty blocks", "a ping", "a continuation"])
async def test_what_may_not_come_costs_its_sender_the_connection(server, frames, code):
    async with server.client("43", options={"compression": "deflate"}) as bystander:
        before = server.resident_kilobytes()
        raw, _ = enter(server)
        with raw:
            raw.send(frames)
            while (got := next_frame(raw))[1] != CLOSE:
                pass
            assert int.from_bytes(got[2][:2]) == code
            raw.send(frame(CLOSE, got[2][:2]))
            assert raw.ended()
        # Bytes that were inflated in vain took no room.
        assert server.resident_kilobytes() < before + 2_000
        assert await bystander.heard() == []
    assert "panicked" not in server.log()
