"""Clients over TLS in other languages: programs that print each message, send one after the first, and close after the last."""

import json
import subprocess

from helpers.process import HELPERS, NODE_MODULES, ROOT, environment

CLIENTS = HELPERS / "wss_clients"
GO = ROOT / "target/tests/go/libraries"


def node(library, *flags):
    def command(server, authority, bearer, version):
        pinned = [f"--tls-min-v{version}", f"--tls-max-v{version}"]
        return ["node", *flags, *pinned, CLIENTS / "client.cjs", library, f"{server.url}/ws", authority.path, bearer]
    return command


def php(server, authority, bearer, version):
    return ["php", CLIENTS / "client.php", server.host, authority.path, bearer, version]


def go(server, authority, bearer, version):
    return [GO, "gorilla", f"{server.url}/ws", authority.path, bearer, version]


def java(server, authority, bearer, version):
    return ["java", CLIENTS / "Client.java", f"{server.url}/ws", authority.path, bearer, version]


class Program:
    """A process that is a client, with the messages that it has printed."""

    def __init__(self, command, directory, authority):
        self.output, self.errors = directory / "out", directory / "err"
        variables = environment(NODE_PATH=NODE_MODULES, NODE_EXTRA_CA_CERTS=str(authority.path))
        with self.output.open("wb") as output, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*map(str, command)], stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=variables)

    def messages(self):
        assert not self.process.poll(), self.errors.read_text()
        text = self.output.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


PROGRAMS = {
    "node ws": node("ws"), "node itself": node("built-in", "--experimental-websocket"), "php": php, "go gorilla": go, "java": java,
}
