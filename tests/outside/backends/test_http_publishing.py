"""Messages that come to the publishers' port by HTTP: real clients of several languages, refusals, and pages that try."""

import contextlib
import http.client
import json
import os
import sys

import pytest
from helpers.js_runtimes import BROWSERS, Page
from helpers.process import DEADLINE, environment, eventually, run
from helpers.resp_client import Publisher
from helpers.server import counter
from test_documented_snippets import blocks, php

PASSWORD = "correct horse"
JSON = {"Content-Type": "application/json"}
BEARER = {"Authorization": f"Bearer {PASSWORD}"}


def documented(language):
    [code] = blocks(language, "src/manual/publishing.md", "HTTP")
    return code


def by_curl(url, _):
    code = documented("sh").replace("http://127.0.0.1:6380", url)
    return run("sh", "-c", code.replace("curl ", f"curl --silent --show-error --oauth2-bearer '{PASSWORD}' "))


def by_php(url, path):
    code = documented("php") + "echo $receivers;"
    return php(code, path / "push.php", PUSH_URL=url, PUSH_PASSWORD=PASSWORD)


def by_python(url, _):
    code = documented("python") + "print(receivers)"
    return run(sys.executable, "-c", code, env=os.environ | {"PUSH_URL": url, "PUSH_PASSWORD": PASSWORD})


def by_node(url, path):
    (path / "push.mjs").write_text(documented("js") + "console.log(receivers);")
    return run("node", path / "push.mjs", env=environment(PUSH_URL=url, PUSH_PASSWORD=PASSWORD))


@pytest.fixture
def guarded(start, tmp_path):
    """A server whose publishers' port has a password."""
    (tmp_path / "password").write_text(PASSWORD)
    server = start("--publishers-password-file", tmp_path / "password", "--topics", "news")
    assert server.publisher.command("AUTH", PASSWORD) == "+OK"
    return server


@contextlib.contextmanager
def connection(server):
    with contextlib.closing(http.client.HTTPConnection(*server.publishers, timeout=DEADLINE)) as connection:
        yield connection


def post(connection, channel="pub.user.42", payload=b"1", headers=JSON, method="POST"):
    """(status, text), read on a connection that may go on."""
    connection.request(method, f"/publish/{channel}", payload, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode().rstrip("\n")


@pytest.mark.parametrize("publish", [by_curl, by_php, by_python, by_node])
async def test_the_documented_ways_publish(guarded, tmp_path, publish):
    host, port = guarded.publishers
    async with guarded.client("42") as client, guarded.client("43") as bystander:
        done = publish(f"http://{host}:{port}", tmp_path)
        text = done if isinstance(done, str) else done.stdout
        assert text.strip() == "1", done
        assert await client.heard() == [("user.42", {"paid": True})]
        assert await bystander.heard() == []


async def test_one_connection_publishes_much_in_order(server):
    async with server.client("42") as client, server.client("43") as bystander:
        with connection(server) as http:
            for number in range(200):
                assert post(http, payload=str(number).encode()) == (200, "1")
            assert post(http, "pub.user%2E41") == (200, "0")
            assert post(http, payload=b"x" * 200_000) == (200, "1")
        assert await client.heard() == [*[("user.42", number) for number in range(200)], ("user.42", "x" * 200_000)]
        assert await bystander.heard() == []


async def test_a_pipeline_of_requests_is_answered_in_order(server):
    head = "POST /publish/pub.user.%d HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n%d"
    async with server.client("42") as client, server.client("43", topics=["x"]) as bystander:
        with contextlib.closing(Publisher(*server.publishers)) as publisher:
            requests = [head % (42 - number % 2, number) for number in range(1000, 2000)]
            publisher.socket.sendall("".join(requests).encode())
            for number in range(1000, 2000):
                assert publisher.input.readline() == b"HTTP/1.1 200 OK\r\n"
                headers = dict(http.client.parse_headers(publisher.input))
                assert headers["Content-Length"] == "2"
                assert publisher.input.read(2) == (b"0\n" if number % 2 else b"1\n")
        assert await client.heard() == [("user.42", number) for number in range(1000, 2000, 2)]
        assert await bystander.heard() == []


async def test_each_request_needs_the_password(guarded):
    async with guarded.client("42") as client, guarded.client("43") as bystander:
        with connection(guarded) as http:
            assert post(http, payload=b"0")[0] == 401
            assert post(http, payload=b"1", headers=JSON | BEARER) == (200, "1")
            assert post(http, payload=b"2", headers=JSON | {"Authorization": "Bearer wrong"})[0] == 401
            assert post(http, payload=b"3", headers=JSON | BEARER) == (200, "1")
        assert await client.heard() == [("user.42", 1), ("user.42", 3)]
        assert await bystander.heard() == []
    assert "401" in guarded.log() and PASSWORD not in guarded.log() and "wrong" not in guarded.log()


async def test_every_refusal_has_its_status_and_its_reason(start):
    server = start("--payload-bytes-max", 1000, "--topics", "news")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    async with server.client("43") as bystander:
        with connection(server) as http:
            for status, words in [
                (404, {"channel": "user.43"}), (404, {"channel": "pub."}), (404, {"channel": "pub.a b".replace(" ", "%20")}),
                (404, {"channel": ""}), (405, {"method": "GET", "payload": None}), (405, {"method": "OPTIONS", "payload": None}),
                (400, {"channel": "%ff"}), (413, {"payload": b"x" * 1001}), (413, {"payload": b"x" * 300_000}),
                (415, {"headers": form}), (415, {"headers": {"Content-Type": "text/plain"}}),
            ]:
                found, reason = post(http, **words)
                assert found == status and len(reason) > 10, (words, found, reason)
            assert post(http, "pub.user.43", b"good") == (200, "1")
        with connection(server) as http:
            # No chunk: the server has closed before it could be sent.
            http.putrequest("POST", "/publish/pub.user.43")
            for name, value in {**JSON, "Transfer-Encoding": "chunked"}.items():
                http.putheader(name, value)
            http.endheaders()
            assert http.getresponse().status == 411
        assert await bystander.heard() == [("user.43", "good")]
        assert counter(server, "messages_oversized_total") == 2
        # Channels that nobody can receive are counted among messages.
        assert counter(server, "publisher_commands_refused_total") == 7
        assert counter(server, "messages_malformed_total") == 3


async def test_curl_waits_for_leave_and_is_given_it(server, tmp_path):
    (tmp_path / "payload").write_text(json.dumps("x" * 900_000))
    host, port = server.publishers
    curl = ["curl", "--silent", "--show-error", "--header", "Expect: 100-continue", "--expect100-timeout", "60"]
    async with server.client("42") as client, server.client("43") as bystander:
        done = run(*curl, "--json", f"@{tmp_path / 'payload'}", f"http://{host}:{port}/publish/pub.user.42")
        assert done.stdout == "1\n", done.stderr
        assert await client.heard() == [("user.42", "x" * 900_000)]
        assert await bystander.heard() == []


@pytest.mark.parametrize("browser", BROWSERS)
async def test_no_page_publishes(server, tmp_path, browser):
    host, port = server.publishers
    url = f"http://{host}:{port}/publish/pub.news"
    async with server.client("43") as bystander:
        with Page(tmp_path, server.host, browser) as page:
            for options in [
                '{ method: "POST", mode: "no-cors", body: "evil" }',
                '{ method: "POST", body: new Blob(["evil"]) }',
                '{ method: "POST", headers: { "Content-Type": "application/json" }, body: "evil" }',
                '{ method: "POST", mode: "no-cors", body: new URLSearchParams({ evil: 1 }) }',
                '{ method: "GET", mode: "no-cors" }',
            ]:
                code = f"fetch(url, {options}).then(() => 'answered', () => 'failed')"
                assert page.run(code, url=url) == "failed", options
            page.run("""(() => {
                const form = Object.assign(document.createElement("form"), {
                    action: url, method: "POST", enctype: "text/plain", target: "_blank",
                });
                form.append(Object.assign(document.createElement("input"), { name: "evil" }));
                document.body.append(form);
                form.submit();
                navigator.sendBeacon(url, "evil");
            })()""", url=url)
            # Each of the seven is seen, some of them twice: a browser may try again.
            eventually(lambda: counter(server, "publisher_commands_refused_total") >= 7, "all of them came")
        assert server.publish("news", "good") == 1
        assert await bystander.heard() == [("news", "good")]
    assert "a page in a browser asked for something" in server.log()

