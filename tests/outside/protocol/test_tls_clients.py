"""Clients as people have them, over TLS: each hears its own messages, whole and in order, and a bystander none of them."""

import asyncio
import json
import ssl

import pytest
from helpers.js_runtimes import BROWSERS, Page
from helpers.process import DEADLINE, eventually, run
from helpers.raw_client import HANDSHAKE, PING, PONG, TEXT, frame, head
from helpers.s_client import SClient
from helpers.server import counter
from helpers.tokens import token
from helpers.wss_programs import PROGRAMS, Program

# The connections are over TLS in any case.
pytestmark = pytest.mark.plain

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
# In one record, in several with another at the end, and in many; text beyond ASCII.
PAYLOADS = [1, "x" * 100, "y" * 16_384, {"text": "Grüße, 世界"}, "z" * 300_000, *range(100), "last"]


@pytest.fixture
def server(start, authority):
    """A server whose clients come by TLS alone."""
    server = start("--topics", "news", authority=authority)
    assert server.url.startswith("wss://")
    return server


def handshakes(server, version):
    """The connections that were made with a version of TLS, by full handshakes and by tickets."""
    name = 'tls_handshakes_total{{version="{}",resumed="{}"}}'
    return sum(counter(server, name.format(version, resumed)) for resumed in ("true", "false"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_program_hears_its_messages(server, authority, tmp_path, program, version):
    if program == "node itself" and run("node", "--experimental-websocket", "-e", "WebSocket").returncode:
        pytest.skip("this node has no WebSocket of its own")
    command = PROGRAMS[program](server, authority, token("42"), version)
    async with server.client("43") as bystander:
        before = handshakes(server, version)
        with Program(command, tmp_path, authority) as client:
            await asyncio.to_thread(eventually, client.messages, "the welcome", 2 * DEADLINE)
            await asyncio.to_thread(eventually, lambda: len(client.messages()) == 2, "the pong")
            for payload in PAYLOADS:
                server.publish("user.42", payload)
            assert await asyncio.to_thread(client.process.wait, DEADLINE) == 0, client.errors.read_text()
            welcome, pong, *heard = client.messages()
        assert (welcome["op"], welcome["sub"], pong) == ("welcome", "42", {"op": "pong"})
        assert [(message["topic"], message["data"]) for message in heard] == [("user.42", data) for data in PAYLOADS]
        assert handshakes(server, version) == before + 1
        # It took its leave in good order.
        assert counter(server, "tls_truncated_total") == 0
        assert await bystander.heard() == []


@pytest.mark.parametrize("version", VERSIONS)
async def test_python_hears_its_messages(server, authority, version):
    context = ssl.create_default_context(cafile=authority.path)
    context.minimum_version = context.maximum_version = VERSIONS[version]
    server.tls = context
    async with server.client("42") as client, server.client("43") as bystander:
        for payload in PAYLOADS:
            server.publish("user.42", payload)
        assert await client.heard() == [("user.42", payload) for payload in PAYLOADS]
        await client.send(json.dumps({"op": "ping", "padding": "x" * 3000}))
        assert await client.next() == {"op": "pong"}
        assert await bystander.heard() == []
    assert handshakes(server, version) == 2


@pytest.mark.parametrize("version", VERSIONS)
async def test_curl_fetches_and_upgrades(server, authority, tmp_path, version):
    curl = ["curl", "--silent", "--show-error", "--include", "--cacert", authority.path,
            f"--tlsv{version}", "--tls-max", version]
    url = f"https://{server.host}"
    async with server.client("43") as bystander:
        done = run(*curl, f"{url}/healthz")
        assert done.returncode == 0 and done.stdout.startswith("HTTP/1.1 200 "), done.stderr
        headers = {**HANDSHAKE, "Authorization": f"Bearer {token('42')}"}
        lines = [word for name, value in headers.items() for word in ("--header", f"{name}: {value}")]
        with Program([*curl, "--no-buffer", "--http1.1", *lines, f"{url}/ws"], tmp_path, authority) as client:
            # It prints frames as they are, with their heads.
            eventually(lambda: b'"op":"welcome"' in client.output.read_bytes(), "the welcome")
            server.publish("user.42", 7)
            eventually(lambda: b'"data":7}' in client.output.read_bytes(), "a message")
            assert client.output.read_bytes().startswith(b"HTTP/1.1 101 ")
        assert handshakes(server, version) >= 2
        assert await bystander.heard() == []
    # It trusts no certificate that its file does not vouch for.
    done = run("curl", "--silent", f"{url}/healthz")
    assert done.returncode == 60
    eventually(lambda: counter(server, 'tls_failures_total{reason="certificate_refused"}') == 1, "it is counted")


@pytest.mark.parametrize("version", VERSIONS)
async def test_openssl_hears_its_messages(server, authority, tmp_path, version):
    async with server.client("43") as bystander:
        with SClient(server, authority, tmp_path, f"-tls1_{version[-1]}", "-ign_eof") as client:
            client.send(head(server, bearer=token("42")))
            client.wait_for(rb'"op":"welcome".*}')
            server.publish("user.42", "w" * 20_000)
            client.wait_for(rb'"data":"w{20000}"}')
            client.send(frame(PING, b"here?"))
            client.wait_for(bytes([0x80 | PONG, 5]) + b"here[?]")
            client.send(frame(TEXT, '{"op":"ping"}'))
            client.wait_for(rb'{"op":"pong"}')
        assert await bystander.heard() == []


@pytest.mark.parametrize("browser", BROWSERS)
async def test_a_page_and_its_client_come_by_tls(server, tmp_path, browser):
    def visit():
        with Page(tmp_path, server.host, browser, scheme="https") as page:
            assert page.run("[location.protocol, isSecureContext]") == ["https:", True]
            page.open("live", f"{server.url}/ws", token("42"))
            page.wait_open("live")
            for payload in PAYLOADS:
                server.publish("user.42", payload)
            return page.heard("live", "last")

    async with server.client("43") as bystander:
        assert await asyncio.to_thread(visit) == [("user.42", payload) for payload in PAYLOADS]
        assert await bystander.heard() == []
        assert handshakes(server, "1.3") >= 3
