"""A false Sentinel does what real ones do not on command: it costs no loop, and the log says what to do."""

import contextlib
import itertools
import re
import threading
import time

import pytest
from helpers.outage_check import QUICK, audience
from helpers.ports import free_port
from helpers.process import eventually, oneloop
from helpers.redis_server import FalseRedis, bulks

# The longest wait between two attempts with QUICK is 100 ms, of which a quarter at least is kept.
SHORTEST_WAIT = 0.025


class FalseSentinel(FalseRedis):
    """Names a primary as the test says: `names` holds (port, epoch) and whether there is a quorum."""

    def __init__(self, *names, quorum=True):
        self.names, self.quorum, self.asked = itertools.cycle(names), quorum, []
        super().__init__(self.speak)

    @property
    def place(self):
        return f"127.0.0.1:{self.port}"

    def speak(self, received):
        said = b""
        for word, answer in [
            (b"SETNAME", b"+OK\r\n"), (b"\r\nPING", b"+PONG\r\n"), (b"HELLO", b"%1\r\n+proto\r\n:3\r\n"),
            (b"SUBSCRIBE", b">3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n"),
        ]:
            said += answer if word in received else b""
        if b"CKQUORUM" in received:
            self.asked.append(time.monotonic())
            port, epoch = next(self.names)
            said += bulks(b"*", "ip", "127.0.0.1", "port", port, "flags", "master", "config-epoch", epoch)
            said += bulks(b"*", "127.0.0.1", port)
            said += b"+OK 3 usable Sentinels\r\n" if self.quorum else b"-NOQUORUM 1 usable Sentinels\r\n"
        return said

    def switch(self):
        """Announces another primary."""
        self.say(bulks(b">", "message", "+switch-master", "main 127.0.0.1 1 127.0.0.1 2"))


def url_of(*sentinels):
    return f"redis+sentinel://{','.join(sentinel.place for sentinel in sentinels)}/main"


def is_slow(times):
    """True if attempts came no faster than the shortest wait lets them: the first three are quicker."""
    return len(times) < 4 or times[-1] - times[3] >= (len(times) - 4) * SHORTEST_WAIT


async def test_a_primary_that_is_never_there_is_told_and_not_dialed_in_a_loop(start):
    with FalseRedis(lambda _: None) as nobody, FalseSentinel((nobody.port, 1)) as sentinel:
        server = start(*QUICK, "--redis", url_of(sentinel), redis=nobody, ready=False)
        server.wait_for_log("still names .* the primary of main, and no connection there comes up")
        eventually(lambda: len(nobody.times) > 10, "attempts")
        assert is_slow(nobody.times)
        # It is asked after each attempt in vain, once in 100 ms at most.
        pauses = [after - before for before, after in itertools.pairwise(sentinel.asked)]
        assert sum(pauses) >= (len(pauses) - len(sentinel.times)) * 0.09
        assert server.admin("/readyz")[0] == 503 and server.admin("/healthz")[0] == 200


async def test_a_replica_that_is_named_the_primary_is_red_and_told(start, start_redis, redis):
    replica = start_redis("--replicaof", "127.0.0.1", str(redis.port))
    eventually(lambda: "master_link_status:up" in replica.command("INFO"), "it follows")
    with FalseSentinel((replica.port, 1)) as sentinel:
        server = start(*QUICK, "--streams", "pub", "--redis", url_of(sentinel), redis=redis, ready=False)
        for name in ["link to Redis", "link to Redis for streams", "link to Redis for commands"]:
            server.wait_for_log(f"no {name}: Redis at .*{replica.port} is a replica, and a Sentinel has named it")
        assert "is a replica" in server.admin("/readyz")[2]
        replica.command("REPLICAOF", "NO", "ONE")
        server.wait_ready()


async def test_a_primary_that_is_demoted_and_answers_for_ever_is_left(start, start_redis, redis):
    """No Sentinel says so, and no connection ends: the role is looked at after each silence."""
    with FalseSentinel((redis.port, 1)) as sentinel:
        server = start(*QUICK, "--streams", "pub", "--redis", url_of(sentinel), redis=redis)
        primary = start_redis()
        redis.command("REPLICAOF", "127.0.0.1", str(primary.port))
        server.wait_for_log("no link to Redis: Redis at .* is a replica, and a Sentinel has named it")
        server.wait_for_log("no link to Redis for commands: Redis at .* is a replica")
        redis.command("REPLICAOF", "NO", "ONE")
        server.wait_ready()


@pytest.mark.parametrize("epochs", [(2, 1), (2, 2)], ids=["older", "same"])
async def test_two_primaries_are_told_and_the_one_that_serves_is_kept(start, start_redis, redis, epochs):
    other = start_redis()
    true, false = FalseSentinel((redis.port, epochs[0])), FalseSentinel((other.port, epochs[1]))
    with true, false:
        server = start(*QUICK, "--redis", url_of(true, false), redis=redis)
        async with audience(server) as clients:
            true.close()
            expected = "which is older than epoch 2" if epochs[1] < 2 else "were they given two primaries"
            server.wait_for_log(expected)
            await clients.hears()
            eventually(lambda: len(false.times) > 10, "it is asked again")
            assert is_slow(false.times)
            await clients.hears()
            assert other.command("PUBSUB", "NUMPAT") == 0
            assert server.log().count(expected) == 1, "one line for one trouble"


async def test_a_sentinel_that_names_another_primary_each_time_makes_no_storm(start, start_redis, redis):
    other = start_redis()
    ports = itertools.cycle([other.port, redis.port])
    with FalseSentinel((redis.port, 1)) as sentinel:
        sentinel.names = ((next(ports), epoch) for epoch in itertools.count(1))
        server = start(*QUICK, "--redis", url_of(sentinel), redis=redis, ready=False)
        eventually(lambda: sentinel.asked, "it is asked")
        begun = time.monotonic()
        done = threading.Event()

        def shout():
            while not done.wait(0.001):
                with contextlib.suppress(OSError):
                    sentinel.switch()

        thread = threading.Thread(target=shout)
        thread.start()
        eventually(lambda: len(sentinel.asked) > 15, "it is asked again and again")
        took = time.monotonic() - begun
        done.set()
        thread.join()
        assert took >= (len(sentinel.asked) - 2) * 0.09, "and no faster than that"
        assert server.admin("/healthz")[0] == 200


NONSENSE = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01", b"\0" * 100_000, b"*1\r\n" * 200_000 + b":1\r\n",
    b"*%d\r\n" % 2**40, b"$%d\r\n" % 2**40, b"+OK\r\n" * 100, b"-ERR " + b"x" * 100_000 + b"\r\n",
    bulks(b"*", "ip", "", "port", 1, "config-epoch", 1) + b"+OK\r\n",
    bulks(b"*", "ip", "a b\x1b[2J", "port", 1, "config-epoch", 1) + b"+OK\r\n",
    bulks(b"*", "ip", "h", "port", 0, "config-epoch", 1) + b"+OK\r\n",
    bulks(b"*", "ip", "h", "port", 1, "config-epoch", 2**70) + b"+OK\r\n",
    bulks(b"%", "ip", "h" * 300, "port", 1, "config-epoch", 1).replace(b"%6", b"%3") + b"+OK\r\n", None,
]


async def test_nonsense_moves_nobody(start, redis):
    with FalseSentinel((redis.port, 1)) as true, FalseSentinel((redis.port, 1)) as false:
        server = start(*QUICK, "--redis", url_of(true, false), redis=redis)
        async with audience(server) as clients:
            for said in NONSENSE:
                speak = FalseSentinel.speak
                false.answer = lambda received, said=said: (
                    said if b"CKQUORUM" in received else speak(false, received))
                before = len(false.times)
                true.drop()
                eventually(lambda before=before: len(false.times) > before, "the false one is asked")
                asked = len(true.asked)
                eventually(lambda asked=asked: len(true.asked) > asked, "the true one is asked again")
                await clients.hears()
        assert is_slow(true.times) and is_slow(false.times)
        assert "\x1b" not in server.log()


async def test_a_sentinel_that_says_nothing_costs_nothing(start, redis):
    silent = FalseRedis(lambda _: b"")
    with silent, FalseSentinel((redis.port, 1)) as sentinel:
        url = f"redis+sentinel://127.0.0.1:{silent.port},127.0.0.1:{free_port()},{sentinel.place}/main"
        server = start(*QUICK, "--redis", url, redis=redis)
        async with audience(server) as clients:
            server.wait_for_log(f"connected to 127.0.0.1:{silent.port}, but no answer to")
            sentinel.close()
            server.wait_for_log(f"cannot connect to {sentinel.place}")
            await clients.hears()
            assert server.ready()


def test_a_redis_in_place_of_a_sentinel_is_told(start, redis):
    url = f"redis+sentinel://127.0.0.1:{redis.port}/main"
    server = start(*QUICK, "--redis", url, redis=redis, ready=False)
    server.wait_for_log(f"127.0.0.1:{redis.port} is a Redis and no Sentinel")
    assert "is a Redis and no Sentinel" in server.admin("/readyz")[2]


@pytest.mark.parametrize(("url", "expected"), [
    ("redis+sentinel://:hush@h1,h2", "behind the hosts|/NAME"),
    ("redis+sentinel://:hush@h1,redis://h2/main", "not understood|stands alone"),
    ("redis://:hush@h1,rediss://h2", "must agree on TLS"),
    ("redis://:hush@h1:6379,h2:6379", "a whole URL behind each comma"),
    ("redis-sentinel://:hush@h1/main", "the scheme of Sentinels is redis\\+sentinel://"),
    ("redis+cluster://:hush@h1/1", "a cluster has no databases"),
    ("cluster://:hush@h1", "it is no URL that begins with"),
])
def test_each_bad_url_is_refused_at_start(url, expected):
    done = oneloop("--check", "--redis", url)
    assert done.returncode != 0 and re.search(expected, done.stderr), done.stderr
    assert "hush" not in done.stderr
