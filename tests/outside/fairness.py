"""The time to an answer for one client while another, a publisher or Redis never stops sending.

`python tests/outside/fairness.py` measures each flood and prints a table; ONELOOP_BIN names the binary. The flood runs in
a process of its own, so that the two do not wait for each other's interpreter."""

import argparse
import contextlib
import json
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from helpers.process import environment, eventually
from helpers.raw_client import CONTINUATION, PING, PONG, TEXT, Raw, frame, head
from helpers.server import Server, counter
from helpers.tokens import token

# Bytes that a flooding connection hands to its socket at once.
BLOCK_BYTES = 256 * 1024

# Clients that share the questions: each may send fifty commands a second.
ASKERS = 20
PAUSE = 0.001

# More than this never comes without a flood.
FEW = {"accepted_total": 500, "received_bytes_total": 100_000, "messages_total": 500, "publishers": 0}

EMPTY = frame(TEXT, "ping", fin=False) + frame(CONTINUATION, fin=False) * 1000


def command(**words):
    return frame(TEXT, json.dumps(words))


def publish(channel, payload):
    words = [b"PUBLISH", channel.encode(), payload.encode()]
    return b"*3\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def pushed(channel, payload):
    words = [b"pmessage", b"pub.*", channel.encode(), payload.encode()]
    return b"*4\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


# Bytes that each flood repeats on an open WebSocket, and the flags of its server.
FRAMES = {
    "pings": (frame(PING), []),
    "long pings": (frame(PING, "x" * 125), []),
    "pongs": (frame(PONG), []),
    "empty continuations": (EMPTY, []),
    "one-byte texts": (frame(TEXT, "x"), []),
    "texts without a bound": (frame(TEXT, "ping"), ["--commands-per-second-max", 0]),
    "subscribes": (
        command(op="subscribe", topic="room.1") + command(op="unsubscribe", topic="room.1"),
        ["--may", "room.*"]),
    "subscribes without a bound": (
        command(op="subscribe", topic="room.1") + command(op="unsubscribe", topic="room.1"),
        ["--may", "room.*", "--commands-per-second-max", 0]),
    "auths": (None, []),
    "auths without a bound": (None, ["--commands-per-second-max", 0]),
}

# Bytes that each flood sends on a new connection every time.
HEADS = {
    "half heads": b"GET /ws HTTP/1.1\r\nHost: h\r\n",
    "refused handshakes": b"GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n",
    "refused tokens": None,
    "endless heads": b"GET /ws HTTP/1.1\r\nX: " + b"x" * 9000,
}

PUBLISHED = {
    "publisher to nobody": publish("pub.nobody", "x"),
    "publisher of garbage": publish("pub.no topic!", "x"),
    "publisher of small commands": b"PING\r\n",
    "publisher to a subscriber": publish("pub.user.subscriber", "x"),
    "thirty publishers": publish("pub.nobody", "x"),
}
REDIS = {
    "Redis to nobody": pushed("pub.nobody", "x"),
    "Redis to a subscriber": pushed("pub.user.subscriber", "x"),
}
FLOODS = [*FRAMES, *HEADS, *PUBLISHED, *REDIS]


# ---- the flood's own process

def pour(one, data):
    """Sends `data` over and over and reads whatever comes, until the other side ends it."""
    one.setblocking(False)
    block = memoryview(data * max(1, BLOCK_BYTES // len(data)))
    sent = 0
    with contextlib.suppress(BrokenPipeError, ConnectionError):
        while True:
            readable, writable, _ = select.select([one], [one], [])
            if readable and not one.recv(1 << 20):
                return
            if writable:
                sent = (sent + one.send(block[sent:])) % len(block)


def flood_frames(address, data, bearer):
    target = SimpleNamespace(host="h", address=address)
    while True:
        with contextlib.suppress(OSError, EOFError, AssertionError), Raw(target) as raw:
            raw.upgrade(bearer)
            pour(raw.socket, data)


def flood_heads(address, data, kept_max=200):
    """Connection after connection. Those that are answered end at once, the others stay until there are too many."""
    kept = []
    while True:
        with contextlib.suppress(OSError):
            kept.append(socket.create_connection(address))
            kept[-1].sendall(data)
            kept[-1].setblocking(False)
        if len(kept) >= kept_max:
            kept.pop(0).close()


def flood_publisher(address, data):
    while True:
        with contextlib.suppress(OSError), socket.create_connection(address) as one:
            pour(one, data)


def flood_redis(data):
    """A Redis that grants everything it is asked for, and then never stops."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    subscribed = b"*3\r\n$10\r\npsubscribe\r\n$5\r\npub.*\r\n:1\r\n"
    while True:
        one, _ = listener.accept()
        with contextlib.suppress(OSError), one:
            received = b""
            while b"psubscribe" not in received.lower():
                got = one.recv(65536)
                received += got
                if b"HELLO" in got.upper():
                    one.sendall(b"-ERR unknown command 'HELLO'\r\n")
                elif b"CLIENT" in got.upper():
                    one.sendall(b"+OK\r\n")
            one.sendall(subscribed)
            pour(one, data)


def flood(name, address, bearer):
    host, _, port = address.rpartition(":")
    address = (host, int(port)) if host else None
    if name in FRAMES:
        data = FRAMES[name][0] or command(op="auth", token=bearer)
        flood_frames(address, data, bearer)
    elif name in HEADS:
        flood_heads(address, HEADS[name] or head(SimpleNamespace(host="h"), bearer=bearer + "x"))
    elif name in PUBLISHED:
        for _ in range(29 if name == "thirty publishers" else 0):
            threading.Thread(target=flood_publisher, args=[address, PUBLISHED[name]]).start()
        flood_publisher(address, PUBLISHED[name])
    else:
        flood_redis(REDIS[name])


# ---- what is measured

class Flood:
    """A process that floods, from its start to its end."""

    def __init__(self, name, address="", bearer=""):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--flood", name, address, bearer],
            stdout=subprocess.PIPE, text=True, env=environment(), cwd=Path(__file__).parent)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def flooded(name, start, directory):
    """A server under this flood: the server, and a function that makes a user's token."""
    # The costliest check of a token that the server has.
    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path = Path(directory) / "key"
    path.write_bytes(public)

    def bearer(sub):
        return token(sub, secret=private, algorithm="ES256")

    flags = ["--jwt-key-file", path, *FRAMES.get(name, (None, []))[1]]
    with contextlib.ExitStack() as ends:
        if name in REDIS:
            source = ends.enter_context(Flood(name))
            url = f"redis://127.0.0.1:{int(source.process.stdout.readline())}"
            server = start(*flags, "--history-bytes-max", "0", "--redis", url, redis=True, secret=None)
        else:
            server = start(*flags, "--history-bytes-max", "0", secret=None)
        subscriber = ends.enter_context(Raw(server))
        subscriber.upgrade(bearer("subscriber"))
        ends.callback(drained(subscriber.socket))
        if name in PUBLISHED:
            ends.enter_context(Flood(name, server.line("publishers")))
        elif name not in REDIS:
            ends.enter_context(Flood(name, server.host, bearer("flooder")))
        eventually(lambda: has_come(server), "the flood comes")
        yield server, bearer


def drained(one):
    """Has all that comes on a socket read, by a process that costs this one nothing; returns its end."""
    one.setblocking(True)
    process = subprocess.Popen(["cat"], stdin=one.fileno(), stdout=subprocess.DEVNULL)

    def end():
        process.kill()
        process.wait()
    return end


def has_come(server):
    """Returns whether more has arrived, of any kind, than ever does without a flood."""
    return any(counter(server, name) > few for name, few in FEW.items())


def measure(server, bearer, answers, welcomes):
    """Sorted seconds of answers to `ping`, of handshakes, and of answers to another publisher."""
    with contextlib.ExitStack() as ends:
        askers = []
        for number in range(ASKERS):
            askers.append(ends.enter_context(Raw(server)))
            askers[-1].upgrade(bearer(f"asker{number}"))
        asked = timed(answers, lambda number: ask(askers[number % ASKERS]), PAUSE)
    shown = [bearer(f"late{number}") for number in range(welcomes)]
    welcomed = timed(welcomes, lambda number: welcome(server, shown[number]))
    published = [] if server.redis else timed(welcomes, lambda number: publish_to_nobody(server))
    return asked, welcomed, published


def timed(count, act, pause=0):
    seconds = []
    for number in range(count):
        begun = time.monotonic()
        act(number)
        seconds.append(time.monotonic() - begun)
        time.sleep(pause)
    return sorted(seconds)


def ask(raw):
    raw.send(frame(TEXT, "ping"))
    # Nobody else's messages come in between, and nothing of its own is missing.
    assert raw.frame() == (TEXT, b"pong")


def welcome(server, bearer):
    with Raw(server) as raw:
        raw.upgrade(bearer)


def publish_to_nobody(server):
    assert server.publish("user.nobody", "x") == 0


def report(names, answers, welcomes):
    columns = ["answer p50", "p99", "max", "welcome p50", "max", "publish p50", "max", "MB"]
    print(f"{'ms':27}", *(f"{column:>{max(8, len(column))}}" for column in columns))
    for name in names:
        with contextlib.ExitStack() as ends, tempfile.TemporaryDirectory() as directory:
            def start(*flags, **options):
                server = Server(*flags, **options)
                ends.callback(server.kill)
                return server

            with flooded(name, start, directory) as (server, bearer):
                asked, welcomed, published = measure(server, bearer, answers, welcomes)
                figures = [middle(asked), asked[len(asked) * 99 // 100], asked[-1],
                           middle(welcomed), welcomed[-1], middle(published), max(published, default=0)]
                figures = [1000 * seconds for seconds in figures] + [server.resident_kilobytes() / 1024]
        print(f"{name:27}", *(f"{figure:{max(8, len(column))}.2f}" for figure, column in zip(figures, columns)),
              flush=True)


def middle(seconds):
    return seconds[len(seconds) // 2] if seconds else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("floods", nargs="*", help="all, if none is named")
    parser.add_argument("--answers", type=int, default=600)
    parser.add_argument("--welcomes", type=int, default=50)
    parser.add_argument("--flood", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.flood:
        flood(*options.flood)
    else:
        report(options.floods or FLOODS, options.answers, options.welcomes)
