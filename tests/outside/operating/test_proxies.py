"""Behind the proxies that the manual shows: the address of a client, and how long it may be idle."""

import asyncio
import contextlib
import itertools
import json
import struct

import pytest
from helpers.event_stream import Stream
from helpers.process import eventually, run
from helpers.raw_client import Raw, head
from helpers.reverse_proxies import NAME, Proxy
from helpers.server import counter
from helpers.settings_file import OLD, Settings
from helpers.tokens import token

from websockets.exceptions import ConnectionClosed, InvalidStatus

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

# The flags that go with each proxy's snippet.
FLAGS = {
    "nginx": ("--proxies", "127.0.0.1"),
    "caddy": ("--proxies", "127.0.0.1"),
    "haproxy": ("--proxies", "127.0.0.1", "--proxy-protocol", "v2"),
}


@pytest.fixture
def start_proxy(tmp_path):
    with contextlib.ExitStack() as ends:
        def start_proxy(kind, server, change=None):
            proxy = Proxy(kind, server, tmp_path, change)
            ends.callback(lambda: print(proxy.log.read_text(errors="replace")))
            ends.callback(proxy.end)
            return proxy

        yield start_proxy


async def status(dial):
    """The status of the answer to a handshake; an opened connection is closed again."""
    try:
        async with dial:
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


@pytest.mark.parametrize("kind", FLAGS)
async def test_clients_behind_a_proxy_are_counted_apart(start, start_proxy, kind):
    server = start(*FLAGS[kind], "--clients-per-address-max", "1")
    proxy = start_proxy(kind, server)
    async with contextlib.AsyncExitStack() as stack:
        async def client(sub, source):
            connection = await stack.enter_async_context(proxy.dial(token(sub), source))
            return await server.enter(connection, sub)

        client_one, bystander = await client("1", "127.0.0.2"), await client("2", "127.0.0.3")
        # It may write what it likes, before what the proxy adds.
        for forged in [
            (), ("127.0.0.4",), ("127.0.0.1",), ("127.0.0.4", "127.0.0.5"), ("junk",), ("\xff",),
        ]:
            assert await status(proxy.dial(token("3"), "127.0.0.2", *forged)) == 429, forged
        assert await status(proxy.dial(token("3"), "127.0.0.4")) == 101
        assert server.publish("user.1", "to one") == 1
        assert await client_one.heard() == [("user.1", "to one")]
        assert await bystander.heard() == []
    assert counter(server, "forwarded_malformed_total") == 0


async def test_one_server_has_several_addresses_for_a_proxy(start, start_proxy):
    """As the manual says: each of them has ports of its own."""
    server = start(*FLAGS["nginx"], "--listen", "0.0.0.0:0", "--clients-per-address-max", "1")
    port = server.address[1]
    both = f"server 127.0.0.1:{port};\n    server 127.0.0.2:{port};"
    proxy = start_proxy("nginx", server, {f"server {server.host};": both})
    async with contextlib.AsyncExitStack() as stack:
        for number in range(2, 6):
            await stack.enter_async_context(proxy.dial(token(str(number)), f"127.0.0.{number}"))
        used = run("ss", "-Htn", "state", "established", f"( sport = :{port} )").stdout
        assert {line.split()[2].split(":")[0] for line in used.splitlines()} == {"127.0.0.1", "127.0.0.2"}, used


async def test_nobody_but_a_listed_proxy_chooses_an_address(start):
    server = start("--proxies", "127.0.0.1", "--clients-per-address-max", "1")
    lines = [f"X-Forwarded-For: 127.0.0.{number}" for number in (7, 8)]
    with Raw(server, source="127.0.0.2") as first:
        first.upgrade(token("1"), extra=lines[:1])
        with Raw(server, source="127.0.0.2") as second:
            second.send(head(server, bearer=token("2"), extra=lines[1:]))
            assert second.answer()[0] == 429
        with Raw(server, source="127.0.0.1") as other:
            other.upgrade(token("2"), extra=["X-Forwarded-For: 127.0.0.9, 127.0.0.8"])


async def test_a_proxy_that_says_no_address_is_told_of(start):
    server = start("--proxies", "127.0.0.0/8", "--clients-per-address-max", "1")
    with Raw(server) as first, Raw(server) as second:
        first.upgrade(token("1"), extra=["X-Forwarded-For: unknown"])
        second.send(head(server, bearer=token("2"), extra=["X-Forwarded-For: _hidden"]))
        assert second.answer()[0] == 429
    assert counter(server, "forwarded_malformed_total") == 2
    server.wait_for_log(r"127\.0\.0\.1 says no address in X-Forwarded-For")


@pytest.mark.parametrize("kind, timeouts", [
    ("nginx", {"proxy_read_timeout 90s": "proxy_read_timeout 3s", "proxy_send_timeout 90s": "proxy_send_timeout 3s"}),
    ("haproxy", {"timeout tunnel 90s": "timeout tunnel 3s", "timeout client 30s": "timeout client 3s"}),
])
async def test_pings_keep_a_connection_through_a_proxy(start, start_proxy, kind, timeouts):
    """An idle client outlives the timeout of the proxy, and would not without pings."""
    server = start(*FLAGS[kind], "--ping-seconds", "1", "--silence-seconds", "9")
    proxy = start_proxy(kind, server, timeouts)
    async with proxy.dial(token("1"), "127.0.0.2") as connection:
        client = await server.enter(connection, "1")
        # A ping each second. The library answers meanwhile.
        await asyncio.to_thread(eventually, lambda: counter(server, "pings_total") >= 6, "six pings")
        assert server.publish("user.1", "still there") == 1
        assert await client.heard() == [("user.1", "still there")]
    silent = start(*FLAGS[kind], "--ping-seconds", "0")
    proxy.end()
    proxy = start_proxy(kind, silent, timeouts)
    async with proxy.dial(token("1"), "127.0.0.2") as connection:
        await silent.enter(connection, "1")
        with pytest.raises(ConnectionClosed):
            await connection.recv()


TIMEOUTS = {
    "nginx": {"proxy_read_timeout 90s": "proxy_read_timeout 3s", "proxy_send_timeout 90s": "proxy_send_timeout 3s"},
    "caddy": {},
    "haproxy": {"timeout client 30s": "timeout client 3s", "timeout server 30s": "timeout server 3s"},
}


@pytest.mark.parametrize("kind", FLAGS)
def test_event_streams_pass_through_each_proxy_at_once_and_live_as_long(start, start_proxy, kind):
    """Nothing is kept for later, heartbeats keep an idle one, and each counts under its own address."""
    server = start(*FLAGS[kind], "--ping-seconds", "1", "--silence-seconds", "2", "--clients-per-address-max", "1")
    proxy = start_proxy(kind, server, TIMEOUTS[kind])
    way = {"address": ("127.0.0.1", proxy.port), "context": proxy.context, "server_hostname": NAME}
    with Stream(server, "1", source="127.0.0.2", **way) as stream, \
            Stream(server, "2", source="127.0.0.3", **way) as bystander:
        stream.welcomed()
        bystander.welcomed()
        with Stream(server, "3", source="127.0.0.2", **way) as other:
            assert other.status == 429
        for number in range(3):
            server.publish("user.1", number)
            assert stream.next()["data"] == number
        eventually(lambda: counter(server, "pings_total") >= 12, "six heartbeats for each")
        assert stream.heard() == bystander.heard() == []
        assert stream.comments >= 5
        server.signal()
        assert stream.closed()[0] == bystander.closed()[0] == 1001


@pytest.mark.parametrize("options", ["", " proxy-v2-options crc32c,unique-id,authority,ssl"])
@pytest.mark.parametrize("check, name", [
    ("option httpchk GET /healthz", 'http_responses_total{status="200"}'),
    # Without a request, each is a connection that ends, and no client gave up a handshake.
    ("", "accepted_total"),
], ids=["http", "tcp"])
async def test_health_checks_and_what_is_added_to_a_proxy_header(start, start_proxy, options, check, name):
    server = start(*FLAGS["haproxy"], "--clients-per-address-max", "1")
    change = {"send-proxy-v2 check": f"send-proxy-v2{options} check inter 100ms",
              "option httpchk GET /healthz": check}
    proxy = start_proxy("haproxy", server, change)
    eventually(lambda: counter(server, name) >= 3, "health checks")
    async with proxy.dial(token("1"), "127.0.0.2") as connection:
        client = await server.enter(connection, "1")
        assert await status(proxy.dial(token("2"), "127.0.0.2", "127.0.0.9")) == 429
        assert await client.heard() == []
    assert counter(server, "unproxied_total") == 0
    assert counter(server, 'handshakes_total{result="abandoned"}') == 0


def header(source="192.0.2.1", command=0x21, added=b""):
    addresses = bytes(map(int, source.split("."))) + bytes([127, 0, 0, 1, 1, 2, 3, 4])
    rest = addresses + added
    return SIGNATURE + struct.pack("!BBH", command, 0x11, len(rest)) + rest


async def test_with_the_proxy_protocol_nobody_else_is_let_in(start):
    server = start(*FLAGS["haproxy"], "--head-seconds", "1", "--clients-per-address-max", "1")
    request = head(server, bearer=token("1"))
    with Raw(server) as bystander:
        bystander.send(header("192.0.2.99"))
        bystander.upgrade(token("2"))
        refused = [
            (request, None), (b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n" + request, None),
            (header(command=0x22) + request, None), (header(added=bytes(509)), None),
            # A valid header, from elsewhere.
            (header() + request, "127.0.0.2"),
        ]
        for number, (said, source) in enumerate(refused, 1):
            with Raw(server, source=source) as raw:
                with contextlib.suppress(ConnectionError):
                    raw.send(said)
                assert not raw.more() and raw.input == b"", said
            assert counter(server, "unproxied_total") == number
        server.wait_for_log(r"127\.0\.0\.1 sent no PROXY header")
        for said in [b"", header()[:20], header()]:
            with Raw(server) as raw:
                raw.send(said)
                assert raw.answer()[0] == 408, said
        with Raw(server) as raw, Raw(server) as same, Raw(server) as itself:
            for byte in header(added=bytes(508)) + request:
                raw.send(bytes([byte]))
            assert raw.answer()[0] == 101
            same.send(header() + request)
            assert same.answer()[0] == 429
            itself.send(header(command=0x20) + request)
            assert itself.answer()[0] == 101
        assert server.publish("user.2", "end") == 1
        assert json.loads(bystander.frame()[1])["data"] == "end"


async def test_a_reload_changes_who_is_believed(tmp_path, start):
    settings = Settings(tmp_path, start)
    server = settings.start("clients_per_address_max = 1\n")
    bearers = (token(str(number), secret=OLD) for number in itertools.count())
    line = ["X-Forwarded-For: 192.0.2.1"]
    with Raw(server) as first:
        first.upgrade(next(bearers), extra=line)
        with Raw(server) as second:
            second.send(head(server, bearer=next(bearers), extra=["X-Forwarded-For: 192.0.2.2"]))
            assert second.answer()[0] == 429
        log = settings.reload('clients_per_address_max = 1\nproxies = ["127.0.0.1"]\n')
        assert "changed: proxies" in log
        with Raw(server) as third:
            third.upgrade(next(bearers), extra=line)
            text = 'clients_per_address_max = 1\nproxies = ["127.0.0.1"]\nproxy_protocol = "v2"\n'
            assert "needs a restart: proxy_protocol" in settings.reload(text)
            log = settings.reload('proxies = ["127.0.0.1/8"]\n', refused=True)
            assert "is not like 10.0.0.0/8" in log
            assert first.server.publish("user.0", "to one") == 1
            assert json.loads(first.frame()[1])["data"] == "to one"
