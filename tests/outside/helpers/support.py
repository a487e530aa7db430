"""Starts the binary, makes tokens and speaks WebSocket: what every outside test stands on."""

import asyncio
import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode

import jwt
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

HELPERS = Path(__file__).resolve().parent
ROOT = HELPERS.parents[2]
BINARY = os.environ.get("ONELOOP_BIN", str(ROOT / "target/release/oneloop"))
NODE_MODULES = os.environ.get("NODE_PATH", str(ROOT / "target/tests/node/node_modules"))
SECRET = "the secret of the outside tests, long enough even for HS512: 0123456789"

# The longest wait for anything that must happen. Never the proof that something did not.
DEADLINE = 20

MARKERS = itertools.count(1)


def eventually(condition, what, seconds=DEADLINE):
    """Waits until `condition()` is true, returns its value, and fails naming `what`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"did not happen within {seconds} s: {what}"
        time.sleep(0.01)
    return value


def end(process):
    """Ends a process in good order, or else by force."""
    process.terminate()
    try:
        process.wait(timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()


def brief(value):
    """The name of a test's parameter: short, and safe to print."""
    return repr(value)[:24]


def token(sub="42", *, secret=SECRET, algorithm="HS256", headers=None, seconds=600, **claims):
    """A token of user `sub` that expires in `seconds`; a claim that is None is left out."""
    claims = {"sub": sub, "exp": int(time.time()) + seconds, **claims}
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, secret, algorithm=algorithm, headers=headers)


def environment(**variables):
    """The environment without any ONELOOP_ variable but the given ones."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ONELOOP_")}
    return clean | variables


def run(*arguments, timeout=60, **options):
    """Runs a command to its end, as a person would type it."""
    options.setdefault("env", environment())
    return subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True, text=True, timeout=timeout, **options,
    )


def oneloop(*arguments, **variables):
    """Runs the binary to its end, with the given variables and no others of its own."""
    return run(BINARY, *arguments, timeout=DEADLINE, env=environment(**variables))


def oneloop_under(wrapper, *arguments):
    """The same, run by another command in its own place."""
    return run(*wrapper, BINARY, *arguments, timeout=DEADLINE)


def node(script, *arguments, timeout=90):
    """Runs one of the node scripts beside this file and returns the JSON lines it printed."""
    done = run("node", HELPERS / script, *arguments, timeout=timeout,
               env=environment(NODE_PATH=NODE_MODULES))
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def counter(server, name, text=None):
    """What /metrics says of `oneloop_{name}`, labels included; 0 if it says nothing."""
    lines = (text or server.admin("/metrics")[2]).splitlines()
    found = [line.split()[-1] for line in lines if line.rpartition(" ")[0] == f"oneloop_{name}"]
    return float(found[0]) if found else 0


class Publisher:
    """One connection that speaks just enough RESP to publish; errors come back as values."""

    def __init__(self, host, port):
        self.socket = socket.create_connection((host, port), timeout=DEADLINE)
        self.input = self.socket.makefile("rb")

    def command(self, *words):
        self.send(*words)
        return self.reply()

    def send(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        parts = [b"*%d\r\n" % len(words)]
        parts += [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        self.socket.sendall(b"".join(parts))

    def reply(self):
        line = self.input.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError(f"the connection ended in a reply: {line!r}")
        kind, rest = line[:1], line[1:-2].decode()
        match kind:
            case b":":
                return int(rest)
            case b"+" | b"-":
                return line[:-2].decode()
            case b"_":
                return None
            case b"$" if rest == "-1":
                return None
            case b"$":
                return self.input.read(int(rest) + 2)[:-2].decode()
            case b"*" | b">":
                return [self.reply() for _ in range(int(rest))]
            case b"%":
                return {self.reply(): self.reply() for _ in range(int(rest))}
        raise AssertionError(f"not RESP: {line!r}")

    def ended(self):
        """True once the other side has closed, whatever it sent before."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return True

    def close(self):
        self.input.close()
        self.socket.close()


class Server:
    """One running binary, with the addresses that its start-up lines name."""

    def __init__(self, *flags, key=True, secret=SECRET, redis=None, admin=True, variables=None,
                 wrapper=()):
        """Without `key` the binary is given none; without `secret` one comes by the flags.

        `wrapper` is a command that runs the binary in its own place."""
        self.redis = redis
        self.directory = tempfile.TemporaryDirectory(prefix="oneloop-")
        flags = [str(flag) for flag in flags]
        command = [*wrapper, BINARY, "--listen", "127.0.0.1:0", *flags]
        if redis:
            command += ["--redis", redis.url] if "--redis" not in flags else []
        elif "--publishers" not in flags:
            command += ["--publishers", "127.0.0.1:0"]
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
        self.host = self.line("clients").removeprefix("ws://").split("/")[0]
        self.url = f"ws://{self.host}"
        name, _, port = self.host.rpartition(":")
        self.address = (name, int(port))

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
        """One request of its own connection: (status, headers, body)."""
        connection = http.client.HTTPConnection(*(address or self.address), timeout=DEADLINE)
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
             protocols=(), **options):
        """A WebSocket connection with its token in that place, or with none."""
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
            additional_headers=headers, subprotocols=protocols or None, compression=None,
            ping_interval=None, proxy=None, open_timeout=DEADLINE, close_timeout=DEADLINE,
            max_size=None, **options,
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
    async def crowd(self, count):
        """So many clients, each a user of its own: `user0`, `user1`, …"""
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


class Client:
    """One welcomed client; it checks that ids rise over all that it hears."""

    def __init__(self, server, connection, sub):
        self.server, self.connection, self.sub = server, connection, sub
        self.welcome, self.id = None, ""

    async def send(self, text=None, **command):
        await self.connection.send(text if text is not None else json.dumps(command))

    async def frame(self):
        """The next frame as it is: str or bytes."""
        async with asyncio.timeout(DEADLINE):
            return await self.connection.recv()

    async def next(self):
        """The next frame as JSON."""
        frame = await self.frame()
        assert isinstance(frame, str), frame
        message = json.loads(frame)
        if "id" in message and message.get("op") != "sent":
            assert message["id"] > self.id, f"{message} does not rise over {self.id}"
            self.id = message["id"]
        return message

    async def ask(self, **command):
        """Sends a command and returns the next frame."""
        await self.send(**command)
        return await self.next()

    async def heard(self):
        """All that came up to now: (topic, data) for a message, the object for anything else.

        A marker on the client's own topic comes last, so nothing can still be on its way."""
        marker = {"marker": next(MARKERS)}
        self.server.publish(f"user.{self.sub}", marker)
        heard = []
        while (message := await self.next()).get("data") != marker:
            plain = set(message) == {"topic", "id", "data"}
            heard.append((message["topic"], message["data"]) if plain else message)
        assert message["topic"] == f"user.{self.sub}", message
        return heard

    async def closed(self):
        return await closed(self.connection)


async def closed(connection):
    """How the server closed it, with nothing before that: (code, reason as JSON or None)."""
    async with asyncio.timeout(DEADLINE):
        try:
            frame = await connection.recv()
        except ConnectionClosed as end:
            assert end.rcvd is not None, "it ended without a close frame"
            return end.rcvd.code, json.loads(end.rcvd.reason) if end.rcvd.reason else None
    raise AssertionError(f"a frame before the end: {frame!r}")


async def all_heard(client, last):
    """Messages as (topic, data), anything else as it is, up to the message with that data."""
    found = []
    while True:
        message = await client.next()
        plain = set(message) == {"topic", "id", "data"}
        found.append((message["topic"], message["data"]) if plain else message)
        if message.get("data") == last:
            return found
