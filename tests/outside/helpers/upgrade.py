"""Upgrades in place, and messages that flow meanwhile."""

import os
import re
import signal
import threading

from helpers.loops import is_alive
from helpers.process import DEADLINE, ROOT, eventually
from helpers.resp_client import Publisher

# Runs the binary under the name of a file beside the test, which an upgrade starts.
UNDER = ("bash", "-c", 'exec -a "$0" "$@"')

# Another build of the same source, which reads and writes another version of the state if `STATE_VERSION` names one.
OTHER = ROOT / "target/debug/oneloop"

# Clients that are not read for a while are not slow.
DEEP = ["--backlog-bytes-max", "64MiB", "--backlog-frames-max", 100_000]


class Successor:
    """A process that is nobody's child here: just enough for `Server.stop`."""

    returncode = None

    def __init__(self, pid):
        self.pid = pid

    def poll(self):
        self.returncode = None if is_alive(self.pid) else 0
        return self.returncode

    def wait(self, timeout=DEADLINE):
        eventually(lambda: self.poll() is not None, "the end of the successor", timeout)
        return self.returncode

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class Publishing(threading.Thread):
    """Publishes rising numbers, up to a thousand a second, until it is stopped: on a topic, or to a stream for it."""

    def __init__(self, server, topic, stream=None):
        super().__init__()
        self.publisher = server.redis.publisher() if server.redis else Publisher(*server.publishers)
        self.topic, self.stream, self.count, self.is_over = topic, stream, 0, threading.Event()

    def run(self):
        while not self.is_over.wait(0.001):
            number = str(self.count)
            if self.stream:
                self.publisher.command("XADD", self.stream, "*", "topic", self.topic, "data", number)
            else:
                self.publisher.command("PUBLISH", f"pub.{self.topic}", number)
            self.count += 1

    def wait_for(self, more=20):
        before = self.count
        eventually(lambda: self.count >= before + more, "messages")

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.join(DEADLINE)
        self.publisher.close()


def upgrade(server):
    """Upgrades a server, whose process is the new one then."""
    os.kill(server.process.pid, signal.SIGUSR2)
    assert server.process.wait(DEADLINE) == 0, server.log()
    pids = re.findall(r"process (\d+) has taken over", server.log())
    server.process = Successor(int(pids[-1]))


async def received(client, count):
    return [(await client.next())["data"] for _ in range(count)]
