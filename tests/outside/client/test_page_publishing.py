"""The box of the page, which publishes: for the page of this machine, and for no other."""

import asyncio
import re
import shutil

import pytest
from helpers.process import node
from helpers.raw_client import Raw

PATH = "/page/publish"
UPGRADE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def nonce(server):
    return re.search(r'data-nonce="(.*?)"', server.http(path="/")[2])[1]


def handshake(server, **changes):
    """The status of a handshake as the page makes it, but for `changes`; a header that is None is left out."""
    headers = UPGRADE | {
        "Host": server.host, "Origin": f"http://{server.host}",
        "Sec-WebSocket-Protocol": f"oneloop.publish.{nonce(server)}",
    }
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    return server.http(path=PATH, headers={name: value for name, value in headers.items() if value is not None})[0]


def test_nobody_but_the_page_publishes(start):
    server, other = start(key=False), start(key=False)
    assert handshake(server) == 101
    for changes in [
        {"Origin": "http://evil.example"},
        {"Origin": f"http://{other.host}"},
        {"Origin": "null"},
        {"Origin": None},
        {"Host": "evil.example"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Sec_WebSocket_Protocol": None},
        {"Sec_WebSocket_Protocol": "oneloop.v1"},
        {"Sec_WebSocket_Protocol": f"oneloop.publish.{nonce(other)}"},
    ]:
        assert handshake(server, **changes) == 403, changes
    assert server.http("POST", PATH)[0] == 405


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
def test_nobody_gets_the_page_through_a_proxy(start, name):
    """A proxy that passes the name `localhost` on, or a tunnel that ends on this machine."""
    server = start(key=False)
    assert server.http(path="/")[0] == 200
    assert server.http(path="/", headers={name: "203.0.113.9"})[0] == 404
    assert handshake(server, **{name: "203.0.113.9"}) == 403
    with Raw(server) as raw:
        raw.send(f"GET / HTTP/1.0\r\nHost: {server.host}\r\n\r\n".encode())
        assert raw.answer()[0] == 404


@pytest.mark.parametrize("flags", [["--page"], ["--page", "--listen", "0.0.0.0:0"]])
def test_a_page_that_others_may_see_publishes_nothing(start, flags):
    server = start(*flags)
    assert nonce(server) == "" and handshake(server) == 404
    assert start("--page=false", key=False).http(path=PATH, headers=UPGRADE)[0] == 404


@pytest.mark.parametrize("by_redis", [False, True])
async def test_what_is_typed_into_the_box_is_published(start, start_redis, tmp_path, by_redis):
    redis = start_redis() if by_redis else None
    server = start("--may", "room.*", key=False, redis=redis)
    async with server.client("42", bearer=server.line("token")) as bystander:
        [page] = await asyncio.to_thread(
            node, "page_stories.cjs", "box", shutil.which("chromium"), tmp_path / "profile", server.line("page"),
            "", "room.7", "pub.room.8", "pub.room.7",
        )
        assert await bystander.heard() == []
    assert page["messages"] == ['{"on":"pub.room.7"}'] and page["errors"] == []
    unprefixed, nobody, heard = page["answers"]
    # With oneloop's password for Redis, this would reach other programs there.
    assert "the channel room.7 does not begin with pub." in unprefixed
    if by_redis:
        assert nobody == heard == "Redis passed it on."
    else:
        assert nobody == "Nobody listens to this topic."
        assert heard == "It went to 1 client or subscriber."
