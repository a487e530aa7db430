"""The first minute of a new user: no key, one redis-cli line, one page."""

import asyncio
import re
import shutil

import pytest
from helpers.process import node, run
from helpers.tokens import token
from helpers.ws_client import closed

HELLO = '{"hello":"world"}'


def redis_cli(server, *words, **options):
    host, port = server.publishers
    done = run("redis-cli", "-h", host, "-p", port, *words, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_start_up_lines_name_every_address(start):
    server = start(key=False)
    lines = server.output.read_text().splitlines()
    assert re.fullmatch(r"oneloop \d+\.\d+\.\d+", lines[0]), lines
    names = [re.fullmatch(r"  (\w+) +(.*)", line)[1] for line in lines[1:]]
    assert names == ["clients", "publishers", "admin", "page", "token", "try"]
    assert server.line("clients") == f"ws://{server.host}/ws"
    assert server.line("page") == f"http://{server.host}/"
    assert server.line("admin").startswith("http://127.0.0.1:")
    port = server.publishers[1]
    assert server.line("try") == f"redis-cli -p {port} PUBLISH pub.news '{HELLO}'"
    assert 0 not in (port, server.address[1])


def test_with_a_key_there_is_neither_page_nor_token(start):
    server = start(admin=False)
    lines = server.output.read_text().splitlines()
    names = [re.fullmatch(r"  (\w+) +(.*)", line)[1] for line in lines[1:]]
    assert names == ["clients", "publishers", "try"]
    assert server.http(path="/")[0] == 404


def test_each_route_has_a_line(start, tmp_path):
    config = tmp_path / "oneloop.toml"
    config.write_text('[[route]]\npath = "/ws"\n[[route]]\npath = "/other"\n')
    server = start("--config", config)
    assert server.lines("clients") == [f"ws://{server.host}/ws", f"ws://{server.host}/other"]


async def test_the_printed_token_and_command_work(start):
    server = start(key=False)
    async with server.client("x", bearer=server.line("token")) as client:
        sub = client.welcome["sub"]
        client.sub = sub
        assert sorted(client.welcome["topics"]) == sorted(["news", f"user.{sub}"])
        assert redis_cli(server, "PUBLISH", "pub.news", HELLO) == "1"
        assert await client.heard() == [("news", {"hello": "world"})]


async def test_the_answer_counts_the_clients(server):
    async with server.client("1") as one, server.client("2") as two:
        assert redis_cli(server, "--no-raw", "PUBLISH", "pub.news", HELLO) == "(integer) 2"
        assert redis_cli(server, "PUBLISH", "pub.user.1", HELLO) == "1"
        assert redis_cli(server, "PUBLISH", "pub.user.3", HELLO) == "0"
        message = {"hello": "world"}
        assert await one.heard() == [("news", message), ("user.1", message)]
        assert await two.heard() == [("news", message)]


async def test_with_a_key_the_page_asks_for_a_token(start, tmp_path):
    server = start("--page", "--topics", "news")
    assert server.line("page") == f"http://{server.host}/"
    assert not server.lines("token")
    # There is nothing secret in it, so it has no reason to look at the name it is asked by.
    status, _, body = server.http(path="/", headers={"Host": "push.example.com"})
    assert status == 200 and "eyJ" not in body
    async with server.client("7") as bystander:
        host, port = server.publishers
        [page] = await asyncio.to_thread(
            node, "page_stories.cjs", "key", shutil.which("chromium"), tmp_path / "profile", server.line("page"),
            token("42"), "redis-cli", "-h", host, "-p", port, "PUBLISH", "pub.user.42", '{"for":"nobody else"}',
        )
        assert await bystander.heard() == []
    assert "oneloop token --sub 42" in page["before"] and "closed" in page["before"]
    assert "as user 42" in page["after"] and "nobody else" in page["after"]
    assert page["errors"] == []


async def test_the_page_needs_no_token_where_anybody_may_hear(start):
    server = start("--page", "--anonymous", "news")
    assert 'data-anonymous="true"' in server.http(path="/")[2]
    server = start("--page=false", key=False)
    assert server.http(path="/")[0] == 404 and not server.lines("page") and server.lines("token")


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/nowhere", 404),
    ("GET", "/wsx", 404),
    ("POST", "/ws", 405),
    ("DELETE", "/ws", 405),
    ("GET", "/ws", 426),
])
def test_plain_http_is_answered(server, method, path, status):
    got, headers, _ = server.http(method, path)
    assert got == status
    if status == 426:
        assert headers["Sec-WebSocket-Version"] == "13"
        assert headers["Upgrade"].lower() == "websocket"


def test_the_page_is_served(start):
    server = start(key=False)
    status, headers, body = server.http(path="/")
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    assert "new WebSocket" in body


async def test_the_page_shows_what_is_published_and_why_it_hears_it(start, tmp_path):
    server = start("--may", "room.*", key=False)
    async with server.client("x", bearer=server.line("token")) as other:
        other.sub = other.welcome["sub"]
        host, port = server.publishers
        [page] = await asyncio.to_thread(
            node, "page_stories.cjs", "ready", shutil.which("chromium"), tmp_path / "profile", server.line("page"),
            token("42", seconds=-60), "redis-cli", "-h", host, "-p", port, "--no-raw",
            "PUBLISH", "pub.room.7", '{"hello":"page of the test"}',
        )
        assert await other.heard() == []
    assert f"redis-cli -p {port} PUBLISH pub.news" in page["before"]
    rows = [" ".join(line.split()) for line in page["before"].splitlines()]
    for row in ["news setting topics", "user.42 its user's own topic", 'sub "42"']:
        assert row in rows, rows
    assert page["published"].strip() == "(integer) 1"
    assert '"hello"' in page["after"] and "page of the test" in page["after"]
    assert "(expired)" in page["refused"] and "room.7" not in page["topics"]
    width, narrow = page["widths"]
    assert width <= narrow, "it need not be scrolled sideways"
    assert page["errors"] == [] and page["loaded"] == [server.line("page")]


async def test_without_a_key_a_foreign_page_or_token_gets_nothing(start):
    server = start(key=False)
    async with server.dial(server.line("token"), place="query", origin="http://evil.example") as page:
        assert (await closed(page))[0] == 4505
    # A secret made at start is not the key of the tests, nor guessable as none.
    assert (await server.refusal(token()))[0] == 401


def test_healthz_and_readyz_and_metrics_answer(server):
    assert server.admin("/healthz")[0] == 200
    assert server.admin("/readyz")[0] == 200
    status, headers, body = server.admin("/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain")
    assert re.search(r"^oneloop_\w+(\{.*\})? \d+$", body, re.MULTILINE), body
    assert server.admin("/nowhere")[0] == 404
