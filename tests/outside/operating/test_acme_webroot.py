"""`acme_webroot`: the challenges of an ACME server are answered from the directory of certbot or lego, and nothing else in it."""

import contextlib
import json
import os
import socket
import subprocess

import pytest
from helpers.nginx import Certificate
from helpers.ports import free_port
from helpers.process import DEADLINE, ROOT, end, eventually, run
from helpers.settings_file import Settings

# `tests/run` builds it.
PEBBLE = str(ROOT / "target/tests/go/pebble")
CHALLENGES = "/.well-known/acme-challenge/"
TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
ANSWER = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"


@pytest.fixture
def webroot(tmp_path):
    (tmp_path / "acme" / CHALLENGES[1:]).mkdir(parents=True)
    return tmp_path / "acme"


def put(webroot, name, text=ANSWER):
    path = webroot / CHALLENGES[1:] / name
    path.write_text(text)
    return path


def ask(server, name, method="GET"):
    status, headers, body = server.http(method, CHALLENGES + name)
    return status, headers, body


async def test_a_challenge_is_answered_as_long_as_its_file_stands(start, webroot):
    server = start("--acme-webroot", webroot)
    async with server.client("42") as client, server.client("43") as bystander:
        assert ask(server, TOKEN)[0] == 404
        path = put(webroot, TOKEN)
        status, headers, body = ask(server, TOKEN)
        assert (status, headers["content-type"], body) == (200, "application/octet-stream", ANSWER)
        assert ask(server, TOKEN, "HEAD")[2] == ""
        path.unlink()
        assert ask(server, TOKEN)[0] == 404
        server.publish("user.42", 1)
        assert await client.heard() == [("user.42", 1)]
        assert await bystander.heard() == []


def test_nothing_else_is_served(start, webroot):
    server = start("--acme-webroot", webroot)
    outside = webroot / "secret"
    outside.write_text("a secret")
    put(webroot, "with.dot")
    folder = webroot / CHALLENGES[1:]
    (folder / "link").symlink_to(outside)
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    put(webroot, "large", "x" * 4097)
    put(webroot, "full", "x" * 4096)
    assert ask(server, "full")[0] == 200
    for name in ["", ".", "..", "../../secret", "..%2f..%2fsecret", "%2e%2e/secret", "with.dot", "link", "folder",
                 "folder/", "pipe", "large", "nothing", "a" * 300]:
        status, _, body = ask(server, name)
        assert (status, "secret" in body) == (404, False), name
    assert server.http("GET", "/secret")[0] == 404
    log = server.log()
    assert "acme_webroot: a challenge cannot be read: it is no regular file of at most 4096 bytes" in log


@pytest.mark.parametrize("linked", [".well-known", CHALLENGES[1:-1]])
def test_a_folder_that_is_a_link_leads_nowhere(start, webroot, tmp_path, linked):
    put(webroot, TOKEN)
    elsewhere = tmp_path / "elsewhere"
    (webroot / linked).rename(elsewhere)
    (webroot / linked).symlink_to(elsewhere)
    server = start("--acme-webroot", webroot)
    assert ask(server, TOKEN)[0] == 404
    (webroot / linked).unlink()
    elsewhere.rename(webroot / linked)
    assert ask(server, TOKEN)[0] == 200


def test_a_reload_brings_and_takes_it(tmp_path, start, webroot):
    put(webroot, TOKEN)
    settings = Settings(tmp_path, start)
    server = settings.start()
    assert ask(server, TOKEN)[0] == 404
    log = settings.reload(f'acme_webroot = "{webroot}"')
    assert "changed: acme_webroot\n" in log
    assert ask(server, TOKEN)[0] == 200
    settings.reload('acme_webroot = "off"')
    assert ask(server, TOKEN)[0] == 404


class Pebble:
    """Let's Encrypt's ACME server for tests, which looks for challenges at a port of localhost."""

    def __init__(self, directory, port):
        certificate = Certificate(directory)
        self.trusted, self.directory = certificate.authority, directory
        self.port = free_port()
        settings = {
            "listenAddress": f"127.0.0.1:{self.port}", "managementListenAddress": f"127.0.0.1:{free_port()}",
            "certificate": str(certificate.chain), "privateKey": str(certificate.key),
            "httpPort": port, "tlsPort": free_port(), "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
        }
        (directory / "pebble.json").write_text(json.dumps({"pebble": settings}))
        self.process = subprocess.Popen(
            [PEBBLE, "-config", directory / "pebble.json"], env={"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        eventually(self.listens, "pebble listens")

    def listens(self):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE).close()
            return True

    def lego(self, webroot, command):
        return run(
            "lego", "--server", f"https://localhost:{self.port}/dir", "--accept-tos", "--email", "a@example.com",
            "--domains", "localhost", "--http", "--http.webroot", webroot, "--path", self.directory / "lego", *command,
            env={"LEGO_CA_CERTIFICATES": str(self.trusted), "PATH": os.environ["PATH"]},
        )


async def test_lego_obtains_and_renews_a_certificate(start, webroot, tmp_path):
    port = free_port()
    server = start("--listen", f"127.0.0.1:{port}", "--acme-webroot", webroot)
    pebble = Pebble(tmp_path, port)
    try:
        async with server.client("42") as bystander:
            for command in [["run"], ["renew", "--days", "10000", "--no-random-sleep"]]:
                done = pebble.lego(webroot, command)
                assert done.returncode == 0, done.stderr
                assert (tmp_path / "lego/certificates/localhost.crt").read_text().count("BEGIN CERTIFICATE") > 1
            assert list((webroot / CHALLENGES[1:]).iterdir()) == [], "lego has taken the challenges away"
            assert await bystander.heard() == []
    finally:
        end(pebble.process)
