"""A false Redis: errors and garbage cost no more than the messages that were lost."""

import asyncio
import itertools
import threading
import time

import pytest
from helpers.outage_check import QUICK, about, audience
from helpers.process import DEADLINE, eventually
from helpers.redis_server import FalseRedis, bulks, greeted

HUGE = 100_000_000
# Attempts to connect in one test, and the longest wait between two, in milliseconds.
ATTEMPTS, LONGEST = 10, 400
MESSAGE = bulks(b">", "pmessage", "pub.*", "pub.user.user1", "lost")

PASSED_OVER = [
    bulks(b">", "invalidate", "key"), bulks(b">", "x" * 60_000, "y"), b">0\r\n",
    bulks(b"*", "message", "pub.user.user1", "no pattern of ours"),
    bulks(b">", "smessage", "pub.user.user1", "sharded"),
    bulks(b">", "pmessage", "pub.user.*", "pub.user.user1", "by a pattern that is not ours"),
    bulks(b">", "pmessage", "pub.*", "pub.user.user1"), bulks(b">", "pmessage"),
    bulks(b">", "pmessage", "pub.*", "pub.user.user1", "one", "too many"),
    b">4\r\n$8\r\npmessage\r\n$5\r\npub.*\r\n*1\r\n$14\r\npub.user.user1\r\n$1\r\nx\r\n",
    b">4\r\n$8\r\npmessage\r\n$5\r\npub.*\r\n$14\r\npub.user.user1\r\n$-1\r\n",
    b">3\r\n$10\r\npsubscribe\r\n$9\r\npub.other\r\n:2\r\n",
    b"*3\r\n*1\r\n*0\r\n*2\r\n:1\r\n$-1\r\n*-1\r\n",
    b"|1\r\n+ttl\r\n:3\r\n+PONG\r\n", b"%1\r\n+a\r\n~2\r\n#t\r\n_\r\n",
    b"-ERR unasked for\r\n", b"-MISCONF\r\n",
    b"*1\r\n" * 1_000_000 + b":1\r\n",
    bulks(b">", "pmessage", "pub.*", "pub.user.user1", b"x" * 3_000_000),
]

NONSENSE = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01", b"\r\n", b"\0" * 100_000,
    b"+" + b"x" * 100_000,
    b"*1\r\n" * 200_000 + b":1\r\n", b"*1\r\n" * 1_000_000 + b"!",
    b"*%d\r\n" % 2**40, b"*%d\r\n" % (2**63 - 1), b"*-2\r\n", b"*1048576\r\n" * 2,
    *[b">4\r\n$8\r\npmessage\r\n$5\r\npub.*\r\n$14\r\npub.user.user1\r\n$%d\r\n" % length
      for length in (2**40, 2**63 - 1, 2**64, -2)],
    b">1\r\n:1\r\n", bulks(b">", "punsubscribe", "pub.*"), b"-NOPERM not any more\r\n",
]


def mute(received):
    """A Redis that takes a connection, and then says nothing more."""
    return b""


@pytest.mark.parametrize("resp3", [False, True], ids=["resp2", "resp3"])
async def test_one_byte_at_a_time_makes_whole_messages(start, resp3):
    with FalseRedis() as false:
        whole = false.say

        def answer(received):
            for byte in greeted(received, resp3):
                whole(bytes([byte]))
            return b""

        def say(data):
            for byte in data:
                whole(bytes([byte]))

        false.answer, false.say = answer, say
        server = start(*QUICK, redis=false)
        async with audience(server) as clients:
            await clients.hears()
        assert len(false.connections) == 1


async def test_what_is_no_message_of_ours_is_passed_over(start):
    with FalseRedis() as false:
        server = start(redis=false)
        async with audience(server) as clients:
            for said in PASSED_OVER:
                with about(said):
                    false.say(said)
                    await clients.hears()
        assert len(false.connections) == 1


async def test_nonsense_costs_one_gap(start):
    with FalseRedis() as false:
        server = start(*QUICK, redis=false)
        async with audience(server) as clients:
            for said in NONSENSE:
                with about(said):
                    false.say(said)
                    await clients.is_back()
                    await clients.hears(gaps=1)
        assert len(false.connections) == 1 + len(NONSENSE)


async def test_a_message_cut_anywhere_is_lost_whole(start):
    with FalseRedis() as false:
        server = start(*QUICK, redis=false)
        async with audience(server) as clients:
            for cut in range(1, len(MESSAGE), 3):
                false.say(MESSAGE[:cut])
                false.drop()
                await clients.is_back()
                await clients.hears(gaps=1)


async def test_silence_within_a_message_costs_one_gap(start):
    with FalseRedis() as false:
        server = start(*QUICK, redis=false)
        async with audience(server) as clients:
            false.answer = mute
            false.say(MESSAGE[:-9])
            await clients.is_served()
            false.answer = greeted
            await clients.is_back()
            await clients.hears(gaps=1)


async def test_a_hundred_megabytes_take_no_memory(start):
    """Announced and sent, they are one message that is dropped; announced and cut, an outage."""
    announced = MESSAGE[:MESSAGE.rindex(b"$")] + b"$%d\r\n" % HUGE
    with FalseRedis() as false:
        server = start(*QUICK, redis=false)
        async with audience(server) as clients:
            before = most = server.resident_kilobytes()
            piece = b"x" * (HUGE // 100)
            for sent in (100, 50):
                false.say(announced)
                for _ in range(sent):
                    await asyncio.to_thread(false.say, piece)
                    most = max(most, server.resident_kilobytes())
                if sent == 100:
                    false.say(b"\r\n")
                    await clients.hears()
            false.drop()
            await clients.is_back()
            await clients.hears(gaps=1)
        print(f"resident: {before} KB before, {most} KB at most")
        # The read buffer, and a message of ordinary size, may be new.
        assert most - before < 4096


async def test_an_error_in_answer_to_ping_is_life(start):
    """A full disk, a replica that loads again, a missing permission: subscriptions live on."""
    errors = [b"-MISCONF no disk\r\n", b"-LOADING the dataset\r\n", b"-NOPERM no ping\r\n"]

    def answer(received):
        return errors.pop() if b"PING" in received and errors else greeted(received)

    with FalseRedis(answer) as false:
        server = start(*QUICK, redis=false)
        async with audience(server) as clients:
            await asyncio.to_thread(eventually, lambda: not errors, "three PINGs")
            await clients.hears()
            assert server.ready()
        assert len(false.connections) == 1


async def test_no_messages_are_promised_without_the_right_acknowledgement(start):
    """It stays red through every attempt, and what is missed until it turns green is one outage."""
    another = b"*3\r\n$10\r\npsubscribe\r\n$4\r\npub*\r\n:1\r\n"
    other = b"+OK\r\n" + bulks(b"*", "subscribe", "pub.*", "") + another
    wrong = [b"", b"-ERR no\r\n", other]
    greens = []

    def wrongly(received):
        if b"PSUBSCRIBE" not in received or not wrong:
            return greeted(received)
        greens.append(server.ready())
        return greeted(received.replace(b"PSUBSCRIBE", b"")) + wrong.pop()

    with FalseRedis() as false:
        server = start(*QUICK, redis=false)
        async with audience(server) as clients:
            false.answer = wrongly
            false.drop()
            await clients.is_served()
            await clients.is_back()
            await clients.hears(gaps=1)
        assert greens == [False] * 3
        assert len(false.connections) == 5


async def test_attempts_are_spread(start):
    refusals = itertools.cycle([None, b"garbage", b"-LOADING\r\n"])
    with FalseRedis(lambda received: next(refusals)) as false:
        begun = time.monotonic()
        server = start("--redis-backoff-ms-max", LONGEST, redis=false, ready=False)
        await assert_spread(false, begun)
        assert not server.ready()


async def test_a_link_that_never_lasts_is_no_tight_loop(start):
    """Subscribed and cut off at once, over and over: each time costs every client a `gap`."""
    lasts, held = threading.Event(), threading.Event()
    lasts.set()

    def answer(received):
        if b"PSUBSCRIBE" not in received:
            return greeted(received)
        if lasts.is_set():
            held.set()
            return greeted(received)
        false.say(greeted(received))
        return None

    with FalseRedis(answer) as false:
        server = start("--redis-backoff-ms-max", LONGEST, redis=false)
        async with audience(server) as clients:
            lasts.clear()
            held.clear()
            begun = time.monotonic()
            false.drop()
            await assert_spread(false, begun)
            lasts.set()
            await asyncio.to_thread(held.wait, DEADLINE)
            outages = len(false.connections) - 1
            await clients.is_back(outages)
            await clients.hears(gaps=outages)


async def assert_spread(false, begun):
    """Waits for some attempts: they come no faster than they may, and not in step."""
    def times():
        return [time for time in false.times if time >= begun]

    await asyncio.to_thread(eventually, lambda: len(times()) >= ATTEMPTS, "attempts")
    some = times()[:ATTEMPTS]
    waits = [after - before for before, after in itertools.pairwise([begun, *some])]
    print(f"{ATTEMPTS} attempts; waits in ms: {[round(wait * 1000) for wait in waits]}")
    # The first waits are at least 12, 25 and 50 ms, each further one a quarter of the longest.
    assert some[-1] - begun >= (12 + 25 + 50 + (ATTEMPTS - 4) * LONGEST / 4) / 1000, waits
    assert max(waits[4:]) - min(waits[4:]) >= LONGEST / 20 / 1000, waits
