"""Troubles that people reported of servers of this kind, one row each: what was done, and what answers it now.

The rows stand in the groups of their kind of fault. Each kind has a file of its own beside this one."""

import json
import time

import pytest
from helpers.process import oneloop
from helpers.raw_client import TEXT, Raw, frame, head
from helpers.resp_client import Publisher
from helpers.tokens import issued, token, unsigned
from helpers.ws_client import closed

OWN = {"ONELOOP_JWT_SECRET": "a secret for tests that is long enough"}


def row(what, *values):
    return pytest.param(*values, id=what)


# ---- settings: good one by one and dead together, strict against what nobody typed, messages that lead on

SETTINGS = [
    row("pattern beside the prefix", ["--redis", "redis://h", "--patterns", "news.*"], {}, 2, "prefix"),
    row("unknown parameter", ["--redis", "redis://h/?db=1"], {}, 2, "redis://host:6379/1"),
    row("misspelt parameter", ["--redis", "redis://h/?protocl=resp2"], {}, 2, "did you mean protocol?"),
    row("Kubernetes' port", [], {"ONELOOP_REDIS_PORT": "tcp://10.96.0.7:6379"}, 0, "good"),
    row("Kubernetes' host", [], {"ONELOOP_ADMIN_SERVICE_HOST": "10.96.0.7"}, 0, "good"),
    row("Kubernetes' master", [], {"ONELOOP_REDIS_MASTER_PORT_6379_TCP_ADDR": "10.96.0.7"}, 0, "good"),
    row("compose's empty variable", [], {"ONELOOP_ADMIN": "", "ONELOOP_CONFIG": "", "ONELOOP_CLIENTS_MAX": ""}, 0, "good"),
    row("an empty secret", [], {"ONELOOP_JWT_SECRET": ""}, 2, "the secret is empty"),
    row("a port with a colon", ["--listen", ":8099"], {}, 2, "write 127.0.0.1:8099"),
    row("a port alone", ["--listen", "8099"], {}, 2, "write 127.0.0.1:8099"),
    row("a name", ["--listen", "localhost:8099"], {}, 2, "write 127.0.0.1:8099"),
    row("a switch with a word", ["--page", "on"], {}, 0, "good"),
]


@pytest.mark.parametrize("flags, variables, status, words", SETTINGS)
def test_settings(flags, variables, status, words):
    done = oneloop("--check", *flags, **(OWN | variables))
    assert (done.returncode, words in done.stdout + done.stderr) == (status, True), done


FILES = [
    row("[[routes]]", '[[routes]]\npath = "/ws"\n', "[[route]]"),
    row("text without quotes", "listen = 127.0.0.1:8099\n", "text needs quotes"),
]


@pytest.mark.parametrize("text, words", FILES)
def test_files(tmp_path, text, words):
    (tmp_path / "oneloop.toml").write_text(text)
    done = oneloop("--check", "--config", tmp_path / "oneloop.toml", **OWN)
    assert done.returncode == 2 and words in done.stderr, done


@pytest.mark.parametrize("word, words", [row("help", "help", "PUBLISH"), row("version", "version", "oneloop 0")])
def test_words_instead_of_flags(word, words):
    done = oneloop(word)
    assert done.returncode == 0 and words in done.stdout, done


# ---- plain HTTP that speaks as much as its callers

REQUESTS = [
    row("wget --spider", "admin", b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200, b""),
    row("HEAD of what is not there", "admin", b"HEAD /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 404, b""),
    row("nginx' proxy_pass", "admin", b"GET /healthz HTTP/1.0\r\n\r\n", 200, b"ok"),
    row("HAProxy's httpchk", "admin", b"OPTIONS / HTTP/1.0\r\n\r\n", 204, b""),
    row("a load balancer", "clients", b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200, b"ok"),
    row("a slash too many", "clients", b"GET /ws/ HTTP/1.1\r\nHost: a\r\n\r\n", 404, b"/ws"),
    row("HEAD at the clients' port", "clients", b"HEAD /ws/ HTTP/1.1\r\nHost: a\r\n\r\n", 404, b""),
]


@pytest.mark.parametrize("listener, request_bytes, status, words", REQUESTS)
def test_requests(start, listener, request_bytes, status, words):
    server = start()
    host, _, port = server.line("admin").removeprefix("http://").rstrip("/").rpartition(":")
    address = (host, int(port)) if listener == "admin" else server.address
    with Raw(server, address=address) as raw:
        raw.send(request_bytes)
        assert raw.answer()[0] == status
        while raw.more():
            pass
        assert words in raw.input and (words or not raw.input), raw.input


# ---- identity as other issuers make it, refusals with a reason, nothing final for what is temporary

def ahead(seconds):
    return int(time.time()) + seconds


TOKENS = [
    row("nbf some seconds ahead", lambda: token(nbf=ahead(60)), 4004, "ahead"),
    row("nbf a day ahead", lambda: token(nbf=ahead(86_400), seconds=172_800), 4500, "ahead"),
    row("in quotes", lambda: f'"{token()}"', 4500, "quotes"),
    row("Bearer in the query", lambda: f"Bearer {token()}", 4500, "Bearer"),
    row("JWE", lambda: unsigned({"alg": "dir", "enc": "A128GCM"}, ".a.b.c.d"), 4500, "JWE"),
    row("none", lambda: unsigned({"alg": "none"}, ".e30."), 4500, "never accepted"),
    row("jjwt's HS512", lambda: token(algorithm="HS512"), 4500, "jwt.algorithms"),
    row("exp in milliseconds", lambda: issued(exp=ahead(600) * 1000), 4500, "milliseconds"),
    row("no sub", lambda: token(None), 4500, "sub is missing"),
]


@pytest.mark.parametrize("make, code, words", TOKENS)
async def test_tokens(start, make, code, words):
    server = start()
    async with server.client("43") as bystander:
        async with server.dial(make(), place="query") as connection:
            got, told = await closed(connection)
        assert got == code and words in told["detail"], told
        assert await bystander.heard() == []


HEARD = [
    row("a line break behind it", {}, "42", lambda sub: token(sub) + "\n"),
    row("sub of 255 bytes", {}, "4" * 255, token),
    row("16 KB of roles", {"head-bytes-max": "32KiB"}, "42", lambda sub: token(sub, roles=["role"] * 2_000)),
    row("user_id of Django", {"jwt-user-claim": "user_id"}, "42", lambda sub: token(None, user_id=int(sub))),
    row("two host names of one issuer", {"jwt-issuer": "https://a,https://b"}, "42", lambda sub: token(sub, iss="https://b")),
]


@pytest.mark.parametrize("settings, sub, make", HEARD)
async def test_tokens_that_are_good(start, settings, sub, make):
    server = start(*(word for name, value in settings.items() for word in (f"--{name}", value)))
    async with server.client(sub, bearer=make(sub), place="query") as client:
        async with server.client("43", bearer=make("43"), place="query") as bystander:
            assert server.publish(f"user.{sub}", 1) == 1
            assert await client.heard() == [(f"user.{sub}", 1)]
            assert await bystander.heard() == []


SENT = [
    row("?access_token=", "/ws?access_token=T", [], None, 4501, "access_token"),
    row("Authorization: Token", "/ws", ["Authorization: Token T"], None, 4501, "Bearer"),
    row("a cookie", "/ws", ["Cookie: jwt=T"], None, 4501, "cookie"),
    row("JSON in a binary frame", "/ws", [], frame(2, b'{"op":"ping"}'), 1003, "text"),
    row("a foreign page", "/ws", ["Origin: http://localhost:5173"], None, 4505, "--origins http://localhost:5173"),
]


@pytest.mark.parametrize("path, lines, sent, code, words", SENT)
def test_reasons(start, path, lines, sent, code, words):
    server = start("--auth-seconds", 1)
    with Raw(server) as raw:
        raw.send(head(server, path, extra=lines))
        assert raw.answer()[0] == 101
        raw.send(sent or b"")
        frames, got, reason = raw.frames_to_close()
        assert frames == [] and got == code and words in json.dumps(reason), reason


@pytest.mark.parametrize("origin", ["null", "file://", "https://app.example.com"])
async def test_origins_that_can_be_listed(start, origin):
    server = start("--origins", "null,file://,https://*.example.com")
    with Raw(server) as raw, Raw(server) as foreign:
        raw.send(head(server, f"/ws?token={token()}", extra=[f"Origin: {origin}"]))
        assert raw.answer()[0] == 101
        assert raw.frame()[0] == TEXT
        foreign.send(head(server, f"/ws?token={token()}", extra=["Origin: https://example.org"]))
        assert foreign.answer()[0] == 101 and foreign.close_code() == 4505
        assert server.publish("user.42", 1) == 1
        assert json.loads(raw.frame()[1])["data"] == 1


# ---- the publishers' port, taken for a Redis; names without a subscriber

COMMANDS = [
    row("ECHO", [("ECHO", "hi")], ["hi"]),
    row("a transaction", [("MULTI",), ("PUBLISH", "pub.user.42", "1"), ("EXEC",)], ["+OK", "+QUEUED", [1]]),
    row("a discarded one", [("MULTI",), ("PUBLISH", "pub.user.42", "1"), ("DISCARD",)], ["+OK", "+QUEUED", "+OK"]),
    row("CLIENT TRACKING", [("CLIENT", "TRACKING", "OFF")], ["+OK"]),
    row("ROLE", [("ROLE",)], [["master", 0, []]]),
    row("a blank in the name", [("PUBLISH", "pub.room 7", "1")], "-ERR nobody hears this"),
    row("Laravel's prefix", [("PUBLISH", "laravel-database-pub.user.42", "1")], "-ERR nobody hears this"),
    row("no prefix", [("PUBLISH", "user.42", "1")], "-ERR nobody hears this"),
]


@pytest.mark.parametrize("commands, answers", COMMANDS)
async def test_commands(start, commands, answers):
    server = start()
    async with server.client("42") as client, server.client("43") as bystander:
        publisher = Publisher(*server.publishers)
        got = [publisher.command(*command) for command in commands]
        publisher.close()
        assert got == answers if isinstance(answers, list) else got[0].startswith(answers), got
        published = ("EXEC",) in commands
        assert await client.heard() == ([("user.42", 1)] if published else [])
        assert await bystander.heard() == []


# ---- the unit that is printed agrees with the settings

def test_the_unit_waits_for_the_drain(tmp_path):
    (tmp_path / "oneloop.toml").write_text("drain_seconds = 300\n")
    done = oneloop("unit", "--config", tmp_path / "oneloop.toml", **OWN)
    assert done.returncode == 0, done
    [timeout] = [line for line in done.stdout.splitlines() if line.startswith("TimeoutStopSec=")]
    assert int(timeout.partition("=")[2]) > 300, timeout
