"""Plain HTTP as monitors, balancers and old scrapers speak it: HEAD, OPTIONS, HTTP/1.0, and where a lost one is sent."""

import contextlib
import csv
import io
import subprocess
from types import SimpleNamespace

import pytest
from helpers.nginx import Nginx
from helpers.ports import free_port
from helpers.process import end, eventually, run
from helpers.raw_client import Raw, head
from helpers.server import counter
from helpers.tokens import token

ALLOWED = "GET, HEAD, OPTIONS"
METHODS = ["GET", "HEAD", "OPTIONS"]


def admin_of(server):
    host, _, port = server.line("admin").removeprefix("http://").rstrip("/").rpartition(":")
    return host, int(port)


def ask(server, first, *lines, address=None):
    """The whole answer to one request: (status, headers, body)."""
    with Raw(server, address=address) as raw:
        raw.send("\r\n".join([first, *lines, "", ""]).encode())
        status, headers = raw.answer()
        while raw.more():
            pass
        return status, headers, raw.input.decode()


def request(server, method, path, version="1.1", address=None):
    host = [] if version == "bare" else [f"Host: {server.host}"]
    return ask(server, f"{method} {path} HTTP/{'1.0' if version == 'bare' else version}", *host, address=address)


CLIENTS = {"/": 200, "/oneloop.js": 200, "/oneloop.mjs": 200, "/oneloop.d.ts": 200, "/healthz": 200,
           "/ws": 426, "/ws/": 404, "/nowhere": 404, "/metrics": 404}
ADMIN = {"/healthz": 200, "/readyz": 200, "/clients": 200, "/metrics": 200, "/": 404, "/ws": 404}


@pytest.mark.parametrize("version", ["1.1", "1.0", "bare"])
@pytest.mark.parametrize("listener", ["clients", "admin"])
async def test_each_path_is_served_by_each_method_and_version(start, listener, version):
    server = start("--page", "--topics", "news")
    address = admin_of(server) if listener == "admin" else None
    async with server.client("43") as bystander:
        for path, status in (ADMIN if listener == "admin" else CLIENTS).items():
            if (path, version) == ("/clients", "bare"):
                status = 403  # it is for those who ask by an address
            get, headers, body = request(server, "GET", path, version, address)
            assert (get, int(headers["content-length"])) == (status, len(body.encode())), path
            assert headers["connection"] == "close" and body, path
            got, same, nothing = request(server, "HEAD", path, version, address)
            assert (got, nothing) == (status, ""), path
            assert same.keys() == headers.keys(), path
            # The figures of /metrics are those of another moment.
            assert same == headers or path == "/metrics", path
            got, headers, nothing = request(server, "OPTIONS", path, version, address)
            assert (got, headers["allow"], nothing) == (204, ALLOWED, ""), path
            got, headers, body = request(server, "POST", path, version, address)
            assert (got, headers["allow"]) == (405, ALLOWED) and ALLOWED.split(", ")[1] in body, path
        assert request(server, "OPTIONS", "*", version, address)[0] == 204
        assert await bystander.heard() == []


@pytest.mark.parametrize("lines, status", [
    (["HEAD / HTTP/1.1"], 400),
    (["HEAD / HTTP/1.1", "Host: a", "Host: b"], 400),
    (["HEAD / HTTP/1.0", "Host: a", "Host: b"], 400),
    (["HEAD / HTTP/1.1", "Host: a", "no header"], 400),
    (["HEAD / HTTP/2.0", "Host: a"], 400),
    (["HEAD / HTTP/1.1", "Host: a", "X-Filler: " + "x" * 9000], 431),
    (["HEAD /ws HTTP/1.1", "Host: a", "Upgrade: websocket", "Connection: Upgrade"], 426),
])
def test_no_refusal_of_a_head_has_a_body(server, lines, status):
    got, headers, body = ask(server, *lines)
    assert (got, body) == (status, "") and int(headers["content-length"]) > 0


def test_a_head_is_refused_without_a_body_where_its_address_has_too_many(start):
    server = start("--clients-per-address-max", 1)
    with Raw(server) as raw:
        raw.upgrade(token())
        got, headers, body = request(server, "HEAD", "/ws")
        assert (got, body, headers["retry-after"]) == (429, "", "5")


def test_a_preflight_lets_no_page_of_another_origin_in(server):
    lines = [f"Host: {server.host}", "Origin: https://a.example", "Access-Control-Request-Method: GET"]
    for path in ["/oneloop.js", "/ws", "/healthz", "*"]:
        status, headers, _ = ask(server, f"OPTIONS {path} HTTP/1.1", *lines)
        assert status == 204 and not any(name.startswith("access-control") for name in headers), path
    assert request(server, "HEAD", "/oneloop.js")[1]["access-control-allow-origin"] == "*"


def test_what_is_kept_of_a_file_is_still_good_for_a_head(server):
    tag = request(server, "HEAD", "/oneloop.js")[1]["etag"]
    status, headers, body = ask(server, "HEAD /oneloop.js HTTP/1.0", f"If-None-Match: {tag}")
    assert (status, headers["etag"], body) == (304, tag, "")


async def test_a_lost_request_is_told_where_websockets_are(start, tmp_path):
    config = tmp_path / "oneloop.toml"
    config.write_text('[[route]]\npath = "/ws"\n[[route]]\npath = "/raw"\nformat = "raw"\n')
    # Without a key the page has a path of its own to publish by, which is for nobody else.
    for server, paths in [(start(), "/ws"), (start(key=False), "/ws"), (start("--config", config), "/ws, /raw")]:
        for path in ["/page", "/ws/", "/wss", "/raw/"]:
            assert request(server, "GET", path)[::2] == (404, f"no such path: WebSockets are at {paths}\n"), path
        assert (await server.refusal(path="/ws/"))[0] == 404


def test_a_handshake_by_an_old_version_is_told_what_nginx_needs(server):
    old = head(server, bearer=token()).replace(b"HTTP/1.1", b"HTTP/1.0")
    for lines in [old, b"GET /ws HTTP/1.0\r\n\r\n"]:
        with Raw(server) as raw:
            raw.send(lines)
            status, headers = raw.answer()
            body = raw.take(int(headers["content-length"])).decode()
            assert (status, headers["upgrade"]) == (426, "websocket")
            assert "proxy_http_version 1.1;" in body


# ---- the health of the clients' listener

async def test_a_server_without_room_is_healthy(start):
    server = start("--clients-max", 1)
    async with server.client("42"):
        assert (await server.refusal(token("43")))[0] == 503
        assert request(server, "GET", "/healthz")[::2] == (200, "ok\n")


async def test_a_probe_counts_for_no_address(start):
    server = start("--proxies", "127.0.0.1", "--clients-per-address-max", 1)
    async with server.client("42"):
        assert (await server.refusal(token("43")))[0] == 429
        for method, status in [("GET", 200), ("HEAD", 200), ("OPTIONS", 204)]:
            assert request(server, method, "/healthz")[0] == status
    # Of the handshakes of the two.
    assert counter(server, "forwarded_missing_total") == 2


async def test_a_route_of_that_name_hides_no_health(start, tmp_path):
    config = tmp_path / "oneloop.toml"
    config.write_text('path = "/healthz"\n')
    server = start("--config", config)
    async with server.client("42", path="/healthz") as client, server.client("43", path="/healthz") as bystander:
        assert request(server, "GET", "/healthz")[::2] == (200, "ok\n")
        assert server.publish("user.42", "to one") == 1
        assert await client.heard() == [("user.42", "to one")]
        assert await bystander.heard() == []


def test_the_health_is_red_once_it_drains(start):
    server = start("--drain-seconds", 1)
    with Raw(server) as early:
        early.send(b"GET /healthz HTTP/1.1\r\n")
        # It was accepted before this one.
        assert request(server, "GET", "/healthz")[0] == 200
        server.signal()
        assert early.answer()[0] == 503

    def refuses():
        with contextlib.suppress(ConnectionResetError):
            try:
                request(server, "GET", "/healthz")
            except ConnectionRefusedError:
                return True
        return False

    eventually(refuses, "nobody is let in any more")


# ---- real ones

@pytest.mark.plain
@pytest.mark.parametrize("path", ["/healthz", "/oneloop.js", "/"])
def test_wget_and_curl_call_a_healthy_server_healthy(start, path):
    server = start("--page", "--topics", "news")
    url = f"http://{server.host}{path}"
    for command in [
        ["wget", "--no-proxy", "--tries=1", "--spider", url],
        ["curl", "--noproxy", "*", "-sS", "--fail", "-I", url],
        ["curl", "--noproxy", "*", "-sS", "--fail", "-0", "-o", "/dev/null", url],
        ["curl", "--noproxy", "*", "-sS", "--fail", "-0", "-I", url],
        ["curl", "--noproxy", "*", "-sS", "--fail", "-X", "OPTIONS", url],
    ]:
        done = run(*command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    lost = run("wget", "--no-proxy", "--tries=1", "--spider", f"http://{server.host}/nowhere")
    assert lost.returncode == 8, lost.stderr


@pytest.mark.plain
def test_nginx_as_it_comes_finds_both_listeners_healthy(server, tmp_path):
    """It speaks HTTP/1.0, with a name of its own for the host."""
    with contextlib.ExitStack() as ends:
        def through(number, host):
            (tmp_path / number).mkdir()
            nginx = Nginx(tmp_path / number, SimpleNamespace(host=host), lines="")
            ends.callback(nginx.end)
            return lambda method, path: server.http(method, path, address=("127.0.0.1", nginx.port))

        clients = through("clients", server.host)
        admin = through("admin", ":".join(map(str, admin_of(server))))
        for http, paths in [(clients, ["/healthz", "/oneloop.js"]), (admin, ["/healthz", "/readyz", "/clients"])]:
            for path in paths:
                status, headers, body = http("GET", path)
                assert (status, int(headers["Content-Length"])) == (200, len(body.encode())), path
                assert http("HEAD", path)[::2] == (200, ""), path
                assert http("OPTIONS", path)[::2] == (204, ""), path
        status, _, body = clients("GET", "/ws")
        assert status == 426 and "proxy_http_version 1.1;" in body
        assert "oneloop_clients" in admin("GET", "/metrics")[2]
    server.wait_for_log("does a proxy in front speak HTTP/1.1")


class Haproxy:
    """Checks the health of a server and tells of it; `lines` are those of its backend."""

    def __init__(self, directory, lines, address, options=""):
        self.directory = directory
        for _ in range(10):
            self.port = free_port()
            if self.launch(lines, address, options):
                return
        raise AssertionError("haproxy does not start")

    def launch(self, lines, address, options):
        (self.directory / "haproxy.cfg").write_text(f"""
            defaults
                mode http
                timeout connect 5s
                timeout client 5s
                timeout server 5s
            frontend told
                bind 127.0.0.1:{self.port}
                stats enable
                stats uri /stats
            backend checked
                {lines}
                server it {address} check inter 100ms {options}
        """.rstrip() + "\n")
        self.process = subprocess.Popen(
            ["haproxy", "-db", "-f", self.directory / "haproxy.cfg"], stderr=subprocess.DEVNULL)
        try:
            eventually(lambda: self.checks() or self.process.poll() is not None, "haproxy tells")
        except BaseException:
            # Nobody else knows of it yet.
            self.end()
            raise
        return self.process.poll() is None

    def checks(self):
        """The server's row; empty before the first check is over."""
        with contextlib.suppress(ConnectionError):
            rows = csv.DictReader(io.StringIO(self.stats().removeprefix("# ")))
            row = next(row for row in rows if (row["pxname"], row["svname"]) == ("checked", "it"))
            return row if row["check_status"] not in ("", "INI") else {}
        return {}

    def stats(self):
        done = run("curl", "--noproxy", "*", "-sS", f"http://127.0.0.1:{self.port}/stats;csv")
        if done.returncode:
            raise ConnectionError(done.stderr)
        return done.stdout

    def end(self):
        end(self.process)


@pytest.mark.plain
@pytest.mark.parametrize("lines", [
    "option httpchk",
    "option httpchk GET /healthz",
    "option httpchk HEAD /healthz",
    "option httpchk\nhttp-check send meth GET uri /healthz ver HTTP/1.1 hdr Host h",
])
@pytest.mark.parametrize("listener", ["clients", "proxied", "admin"])
def test_haproxy_finds_each_listener_healthy(start, tmp_path, listener, lines):
    flags = ["--proxies", "127.0.0.1", "--proxy-protocol", "v2"] if listener == "proxied" else []
    server = start(*flags)
    address = ":".join(map(str, admin_of(server))) if listener == "admin" else server.host
    haproxy = Haproxy(tmp_path, lines, address, "send-proxy-v2" if flags else "")
    try:
        row = haproxy.checks()
        # An asterisk stands before the last result while the next check is on its way.
        assert (row["status"], row["check_status"].removeprefix("* ")) == ("UP", "L7OK"), row
        if listener != "admin":
            server.signal()
            eventually(lambda: haproxy.checks()["status"] == "DOWN", "it is called down")
    finally:
        haproxy.end()
