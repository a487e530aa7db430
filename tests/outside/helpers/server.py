"""The server under test, as a process of its own."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import urlencode

from helpers.process import BINARY, DEADLINE, environment, eventually
from helpers.resp_client import Publisher
from helpers.tokens import SECRET, token
from helpers.ws_client import Client
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus


def counter(server, name, text=None):
    """The value of `oneloop_{name}` in /metrics, labels included; 0 if it is missing."""
    lines = (text or server.admin("/metrics")[2]).splitlines()
    found = [line.split()[-1] for line in lines if line.rpartition(" ")[0] == f"oneloop_{name}"]
    return float(found[0]) if found else 0


def unix_stream(path):
    """A connection to a Unix socket, for a client that takes an open one."""
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(str(path))
    return stream


class Server:
    """A running binary, with the addresses that its start-up lines name."""

    # The `authority` of all servers that are given none: with `--over-tls` of pytest.
    authority = None
    # The loops of all servers whose flags do not say: with `--loops` of pytest.
    loops = None

    def __init__(self, *flags, key=True, secret=SECRET, redis=None, admin=True, variables=None,
                 wrapper=(), listen="127.0.0.1:0", authority=None):
        """Without `listen` the settings name the addresses. Without `key` the binary is given none; without `secret` one comes by the flags.

        `wrapper` is a command that runs the binary in its own place. With an `authority` clients come by TLS, and find a certificate
        that it has issued."""
        self.redis = redis
        self.directory = tempfile.TemporaryDirectory(prefix="oneloop-")
        flags = [str(flag) for flag in flags]
        # A test of the addresses themselves names them; any other comes by TLS if the tests are to.
        self.tls = None
        if listen == "127.0.0.1:0" and "--listen" not in flags and (authority := authority or self.authority):
            files = map(str, authority.issued)
            flags += ["--tls-cert-file", next(files), "--tls-key-file", next(files)]
            self.tls = ssl.create_default_context(cafile=authority.path)
            listen = "tls://127.0.0.1:0"
        command = [*wrapper, BINARY, *(["--listen", listen] if listen else []), *flags]
        if redis:
            command += ["--redis", redis.url] if "--redis" not in flags else []
            # One that is named by a flag alone is no object, and another oneloop has no flags.
            command += getattr(redis, "flags", ()) if "--redis-ca-file" not in flags else []
        elif "--publishers" not in flags:
            command += ["--publishers", "127.0.0.1:0"]
        if self.loops and "--loops" not in flags:
            command += ["--loops", self.loops]
        if admin:
            command += ["--admin", "127.0.0.1:0"]
        if "--drain-seconds" not in flags:
            command += ["--drain-seconds", "1"]
        variables = ({"ONELOOP_JWT_SECRET": secret} if key and secret else {}) | (variables or {})
        self.output, self.errors = (Path(self.directory.name) / name for name in ("out", "err"))
        with self.output.open("wb") as output, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=errors, stdin=subprocess.DEVNULL,
                env=environment(**variables),
            )
        self._publisher, self.signalled = None, False
        awaited = ["clients", "redis" if redis else "publishers"]
        awaited += ["admin"] if admin else []
        # The last one of them.
        awaited += ["try"]
        try:
            for name in awaited:
                self.wait_for_line(name)
        except BaseException:
            # Nobody else knows of it yet.
            self.kill()
            raise
        self.listens_at(self.line("clients"))

    def listens_at(self, url):
        """Makes clients connect at one of several addresses."""
        scheme, _, rest = url.partition("://")
        # A Unix socket has no name: its clients name another one.
        self.host = rest.split("/")[0] if rest else "localhost"
        self.url = f"{scheme if rest else 'ws'}://{self.host}"
        name, _, port = self.host.rpartition(":")
        self.address = (name, int(port)) if rest else url.removeprefix("unix:").rpartition(":/")[0]

    def wait_for_line(self, name):
        def there():
            assert self.process.poll() is None, f"it ended:\n{self.output.read_text()}{self.log()}"
            return self.lines(name)
        eventually(there, f"the start-up line {name}")

    def lines(self, name):
        """The values of the start-up lines of that name, in their order."""
        text = self.output.read_text()
        whole = text[: text.rfind("\n") + 1]
        return re.findall(rf"^  {name} +(.*)$", whole, re.MULTILINE)

    def line(self, name):
        return self.lines(name)[0]

    def log(self):
        return self.errors.read_text(errors="replace")

    def wait_for_log(self, pattern):
        """Waits until the log, in any case of letters, holds a match of the pattern."""
        eventually(lambda: re.search(pattern, self.log(), re.IGNORECASE), f"{pattern!r} in the log")

    def resident_kilobytes(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    # ---- publishing

    @property
    def publishers(self):
        host, _, port = self.line("publishers").rpartition(":")
        return host, int(port)

    @property
    def publisher(self):
        if self._publisher is None:
            self._publisher = self.redis.publisher() if self.redis else Publisher(*self.publishers)
        return self._publisher

    def publish(self, topic, payload):
        """PUBLISHes under `pub.`; what is neither text nor bytes goes as JSON. The answer."""
        if not isinstance(payload, (str, bytes)):
            payload = json.dumps(payload)
        return self.publisher.command("PUBLISH", f"pub.{topic}", payload)

    def forget_publisher(self):
        """To be called when the Redis behind the connection is gone."""
        if self._publisher:
            self._publisher.close()
            self._publisher = None

    # ---- plain HTTP

    def http(self, method="GET", path="/", headers=None, address=None):
        """Sends a request on a connection of its own: (status, headers, body)."""
        address, has_tls = address or self.address, address is None and self.tls
        connection = http.client.HTTPConnection(*address, timeout=DEADLINE)
        if has_tls:
            connection = http.client.HTTPSConnection(*address, timeout=DEADLINE, context=self.tls)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()

    def admin(self, path):
        host, _, port = self.line("admin").removeprefix("http://").rstrip("/").rpartition(":")
        return self.http(path=path, address=(host, int(port)))

    def ready(self):
        return self.admin("/readyz")[0] == 200

    def wait_ready(self, ready=True, seconds=DEADLINE):
        eventually(lambda: self.ready() == ready, f"/readyz {'green' if ready else 'red'}", seconds)

    # ---- clients

    def dial(self, bearer=None, *, place="header", path="/ws", since=None, headers=(),
             protocols=(), compression=None, **options):
        """A WebSocket connection with its token in that place, or with none."""
        if isinstance(self.address, str) and "sock" not in options:
            options["sock"] = unix_stream(self.address)
        headers, protocols, query = list(dict(headers).items()), list(protocols), {}
        if since is not None:
            query["since"] = since
        if bearer and place == "header":
            headers.append(("Authorization", f"Bearer {bearer}"))
        if bearer and place == "subprotocol":
            protocols += ["oneloop.v1", f"bearer.{bearer}"]
        if bearer and place == "query":
            query["token"] = bearer
        return connect(
            f"{self.url}{path}" + (f"?{urlencode(query)}" if query else ""),
            additional_headers=headers, subprotocols=protocols or None, compression=compression,
            ping_interval=None, proxy=None, open_timeout=DEADLINE, close_timeout=DEADLINE,
            max_size=None, **({"ssl": self.tls} if self.tls else {}), **options,
        )

    async def enter(self, connection, sub, bearer=None, place="header", since=None):
        """Shows the token if its place is the first frame, and reads the welcome.

        The welcome is the first frame in every case; the answer to the command comes behind it."""
        client = Client(self, connection, sub)
        if place == "frame":
            since = {} if since is None else {"since": since}
            await client.send(op="auth", token=bearer, **since)
        welcome = client.welcome = await client.next()
        assert welcome["op"] == "welcome", welcome
        if place == "frame":
            authed = await client.next()
            assert authed == {"op": "authed", "sub": welcome["sub"], "topics": welcome["topics"]}
        return client

    @contextlib.asynccontextmanager
    async def client(self, sub="42", *, bearer=None, place="header", path="/ws", since=None,
                     options=None, **claims):
        """A client that is connected, with a token of its own, and welcomed."""
        bearer = bearer or token(sub, **claims)
        dial = self.dial(bearer, place=place, path=path, **(options or {}),
                         since=None if place == "frame" else since)
        async with dial as connection:
            yield await self.enter(connection, str(sub), bearer, place, since)

    @contextlib.asynccontextmanager
    async def anonymous(self, **options):
        async with self.dial(**options) as connection:
            yield await self.enter(connection, None)

    @contextlib.asynccontextmanager
    async def many_clients(self, count):
        """`count` clients, each a user of its own: `user0`, `user1`, …"""
        clients = []

        async def join(number):
            sub = f"user{number}"
            connection = await self.dial(token(sub))
            clients.append(await self.enter(connection, sub))

        try:
            for first in range(0, count, 100):
                await asyncio.gather(*map(join, range(first, min(first + 100, count))))
            yield clients
        finally:
            await asyncio.gather(*(client.connection.close() for client in clients))

    async def refusal(self, bearer=None, **options):
        """The HTTP answer to a handshake that must be refused: (status, headers, body)."""
        try:
            async with self.dial(bearer, **options) as connection:
                raise AssertionError(f"not refused: {connection.response}")
        except InvalidStatus as refused:
            answer = refused.response
            return answer.status_code, answer.headers, (answer.body or b"").decode()

    # ---- the end

    def signal(self, number=signal.SIGTERM):
        self.signalled |= number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
        os.kill(self.process.pid, number)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        """Ends it by SIGTERM and checks that it went in good order."""
        self.forget_publisher()
        # A second signal would end it in haste, with another status.
        if self.process.poll() is None and not self.signalled:
            self.signal()
        try:
            self.process.wait(timeout=DEADLINE)
        finally:
            self.kill()
        log = self.log()
        assert "panicked" not in log, log
        assert "eyJ" not in log, f"a token in the log:\n{log}"
        assert self.process.returncode == 0, (self.process.returncode, log)
