"""Faults of two Redis servers behind one address, in a random order, and the way out of each."""

import random
import signal
import time

from helpers.process import eventually

# The ACL user of the server.
USER = ["push", "on", ">pass", "resetchannels", "&pub.*", "+@all"]
LIMIT = ["CONFIG", "SET", "client-output-buffer-limit"]


class RedisFaults:
    """Faults one at a time; often, not always, the server is ready again before the next one."""

    def __init__(self, seed, server, proxy, redises):
        self.random = random.Random(seed)
        self.server, self.proxy, self.redises = server, proxy, redises
        self.faults = [
            self.kill, self.restart, self.freeze, self.hiccup, self.cut, self.take_channels,
            self.delete_user, self.change_password, self.fill, self.overflow, self.fail_over,
            self.fail_over_hanging, self.slow_down,
        ]
        self.seen = []

    def run(self, seconds):
        """In each round every fault comes once."""
        end, left = time.monotonic() + seconds, []
        while time.monotonic() < end:
            if not left:
                left = self.random.sample(self.faults, len(self.faults))
            fault = left.pop()
            self.seen.append(fault.__name__)
            fault()
            assert self.server.admin("/healthz")[0] == 200
            if self.random.random() < 0.7:
                self.server.wait_ready()
                time.sleep(self.random.uniform(0, 0.3))
        # The server may not know yet that the last fault cut it off, and say that it is ready: Redis knows.
        eventually(lambda: self.redis.command("PUBSUB", "NUMPAT") == 1, "the subscription is there")
        self.server.wait_ready()

    @property
    def redis(self):
        return self.proxy.target

    def last(self, longest=0.4):
        """The fault holds on for a while."""
        time.sleep(self.random.uniform(0, longest))

    # ---- faults that must cost nothing

    def hiccup(self):
        """Shorter than the silence after which Redis is asked whether it lives."""
        self.redis.freeze()
        self.last()
        self.redis.thaw()

    def slow_down(self):
        self.proxy.slow_down(piece=self.random.randint(1, 50), pause=0.0005)
        self.last()
        self.proxy.slow_down(piece=65536, pause=0)

    # ---- faults that end the connection

    def kill(self, ending=signal.SIGKILL):
        redis = self.redis
        redis.process.send_signal(ending)
        redis.process.wait()
        self.last()
        redis.revive()

    def restart(self):
        self.kill(signal.SIGTERM)

    def freeze(self):
        """For longer than silence is borne."""
        self.redis.freeze()
        try:
            self.server.wait_ready(False)
        finally:
            self.redis.thaw()

    def cut(self):
        for _ in range(self.random.randint(1, 4)):
            self.redis.command("CLIENT", "KILL", "TYPE", "pubsub")
            self.last(0.1)

    def take_channels(self):
        self.redis.command("ACL", "SETUSER", "push", "resetchannels")
        self.last()
        self.redis.command("ACL", "SETUSER", "push", "&pub.*")

    def delete_user(self):
        self.redis.command("ACL", "DELUSER", "push")
        self.last()
        self.redis.command("ACL", "SETUSER", *USER)

    def change_password(self):
        self.redis.command("ACL", "SETUSER", "push", "resetpass", ">another")
        if self.random.random() < 0.5:
            self.redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        self.last()
        self.redis.command("ACL", "SETUSER", "push", ">pass")

    def fill(self):
        """No room for another client, not even for ours when it comes back."""
        admin = self.redis.publisher()
        admin.command("CONFIG", "SET", "maxclients", 1)
        admin.command("CLIENT", "KILL", "TYPE", "pubsub")
        self.last()
        admin.command("CONFIG", "SET", "maxclients", 10000)
        admin.close()

    def overflow(self):
        """Stops the server until Redis has no room left in its output buffer."""
        filler = self.redis.publisher()
        filler.command(*LIMIT, "pubsub 65536 0 0")
        self.server.signal(signal.SIGSTOP)
        try:
            eventually(lambda: filler.command("PUBLISH", "pub.filler", "x" * 30_000) == 0,
                       "Redis gives us up")
        finally:
            self.server.signal(signal.SIGCONT)
        filler.command(*LIMIT, "pubsub 33554432 8388608 60")
        filler.close()

    def fail_over(self, hangs=False):
        one, other = self.redises
        self.proxy.fail_over(one if self.redis is other else other, hangs)
        self.last()

    def fail_over_hanging(self):
        """Until we notice, the old server believes that it has a subscriber."""
        self.fail_over(hangs=True)
        self.proxy.end_hanging()
