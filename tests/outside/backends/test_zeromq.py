"""The ZeroMQ port: PUSH sockets of pyzmq and PHP, peers that are something else, and what happens when the server is away."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys

import pytest
import zmq
from helpers.process import HELPERS, brief, eventually, oneloop, run
from helpers.ports import free_port
from helpers.resp_client import Publisher
from helpers.server import counter
from helpers.zmtp_client import Zmtp, command, frame, greeting, message, ready
from zmq.utils.monitor import recv_monitor_message

PASSWORD = "correct horse"
FREE = ("--zeromq", "tcp://127.0.0.1:0", "--topics", "news")


def address(server):
    host, _, port = server.line("zeromq").removeprefix("tcp://").rpartition(":")
    return host, int(port)


@pytest.fixture
def server(start):
    return start(*FREE)


@pytest.fixture
def context():
    with zmq.Context() as context:
        yield context
        context.destroy(linger=0)


def pusher(context, server, **options):
    """A socket that is connected; the options have the names that libzmq gives them."""
    pusher = context.socket(zmq.PUSH)
    for name, value in ({"SNDTIMEO": 20_000} | options).items():
        pusher.setsockopt(getattr(zmq, name), value)
    pusher.connect(server.line("zeromq"))
    return pusher


@contextlib.contextmanager
def refused(server, kind, *words):
    """A socket that is to be refused, in a process of its own."""
    command = [sys.executable, HELPERS / "zeromq_peer.py", server.line("zeromq"), kind, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout
        finally:
            process.kill()


async def received(client, count):
    found = [await client.next() for _ in range(count)]
    return [(one["topic"], one["data"]) for one in found]


# ---- messages

async def test_pyzmq_pushes_a_channel_and_a_payload(server, context):
    async with server.client("42") as client, server.client("43") as bystander:
        push = pusher(context, server)
        push.send_multipart([b"pub.user.42", b'{"paid":true}'])
        push.send_multipart([b"pub.user.42", b"ignored", b"", b"ignored", b"the last one"])
        push.send_multipart([b"pub.user.42", b""])
        assert await received(client, 3) == [
            ("user.42", {"paid": True}), ("user.42", "the last one"), ("user.42", "")]
        assert await client.heard() == []
        assert await bystander.heard() == []
        assert counter(server, "zeromq_messages_total") == 3


async def test_a_message_of_one_part_names_its_topic_in_a_field(server, context):
    async with server.client("42") as client, server.client("43") as bystander:
        push = pusher(context, server)
        push.send_json({"topic": "user.42", "paid": True})
        push.send_json({"topic": "news", "title": "x"})
        assert await received(client, 2) == [
            ("user.42", {"topic": "user.42", "paid": True}), ("news", {"topic": "news", "title": "x"})]
        assert await received(bystander, 1) == [("news", {"topic": "news", "title": "x"})]
        assert await bystander.heard() == []


async def test_php_pushes_by_the_lines_of_ratchets_tutorial(start):
    server = start(*FREE, "--zeromq-topic-field", "category")
    async with server.client("42") as client, server.client("43") as bystander:
        done = run("php", HELPERS / "zeromq.php", server.line("zeromq"), "user.42", "one", "two")
        assert done.returncode == 0 and not done.stdout + done.stderr, done.stdout + done.stderr
        found = await received(client, 2)
        assert [topic for topic, _ in found] == ["user.42"] * 2
        # By two connections of the socket, so in any order.
        assert sorted(data["title"] for _, data in found) == ["one", "two"]
        assert {data["category"] for _, data in found} == {"user.42"}
        assert await bystander.heard() == []


async def test_many_messages_come_in_their_order(start, context):
    count = 30_000
    server = start(*FREE, "--backlog-frames-max", count, "--backlog-bytes-max", "16MiB")

    def push_all():
        push = pusher(context, server, SNDHWM=0)
        for number in range(count):
            push.send_multipart([b"pub.user.42", b"%d" % number])

    async with server.client("42") as client, server.client("43") as bystander:
        pushing = asyncio.create_task(asyncio.to_thread(push_all))
        for number in range(count):
            assert (await client.next())["data"] == number
        await pushing
        assert await bystander.heard() == []


async def test_large_parts_and_the_limit(start, context):
    server = start(*FREE, "--payload-bytes-max", 200_000)
    async with server.client("42") as client, server.client("43") as bystander:
        push = pusher(context, server)
        push.send_multipart([b"pub.user.42", b"x" * 200_000])
        push.send_multipart([b"pub.user.42", b"x" * 200_001])
        push.send(b"x" * 2_000_000)
        push.send_multipart([b"pub.user.42", b"x" * 2_000_000, b"next"])
        assert await received(client, 2) == [("user.42", "x" * 200_000), ("user.42", "next")]
        assert await bystander.heard() == []
        assert counter(server, "messages_oversized_total") == 2
        assert counter(server, "zeromq_failed_total") == 0


@pytest.mark.parametrize("parts", [
    [b""], [b"no json"], [b"[]"], [b'{"category":"user.42"}'], [b'{"topic":null}'], [b'{"topic":"user.42"'],
    [b'{"topic":"user.42","topic":"user.43"}'], [b"x" * 1025, b"y"], [b"pub.user.42"] * 65,
], ids=brief)
async def test_a_malformed_message_is_counted_and_the_connection_lives(server, context, parts):
    async with server.client("42") as client, server.client("43") as bystander:
        push = pusher(context, server)
        push.send_multipart(parts)
        push.send_multipart([b"pub.user.42", b"next"])
        assert await received(client, 1) == [("user.42", "next")]
        assert await client.heard() == []
        assert await bystander.heard() == []
        assert counter(server, "zeromq_malformed_total") == 1
        server.wait_for_log("zeromq message: a message was dropped: ")
        assert "user.42" not in server.log()


@pytest.mark.parametrize("parts", [
    [b"user.43", b"x"], [b"pub.room 7", b"x"], [b"", b"x"], [b"pub.", b"x"], [b"\xff", b"x"],
    [b'{"topic":"pub.user 43"}'], [b'{"topic":""}'],
], ids=brief)
async def test_a_channel_without_a_topic_is_dropped_as_everywhere(server, context, parts):
    async with server.client("43") as bystander:
        push = pusher(context, server)
        push.send_multipart(parts)
        push.send_multipart([b"pub.user.43", b"next"])
        assert await received(bystander, 1) == [("user.43", "next")]
        assert await bystander.heard() == []
        assert counter(server, "messages_malformed_total") == 1


async def test_subscribers_of_the_publishers_port_hear_these_messages(server, context):
    with contextlib.closing(Publisher(*server.publishers)) as subscriber:
        assert subscriber.command("SUBSCRIBE", "pub.user.42") == ["subscribe", "pub.user.42", 1]
        async with server.client("42") as client:
            push = pusher(context, server)
            push.send_multipart([b"pub.user.42", b"1"])
            push.send_json({"topic": "user.42"})
            assert subscriber.reply() == ["message", "pub.user.42", "1"]
            assert subscriber.reply() == ["message", "pub.user.42", '{"topic": "user.42"}']
            assert await received(client, 2) == [("user.42", 1), ("user.42", {"topic": "user.42"})]


async def test_beside_a_redis(start, redis, context):
    server = start("--zeromq", "tcp://127.0.0.1:0", redis=redis)
    async with server.client("42") as client, server.client("43") as bystander:
        push = pusher(context, server)
        push.send_multipart([b"pub.user.42", b"1"])
        assert await received(client, 1) == [("user.42", 1)]
        assert await bystander.heard() == []


# ---- the server away, slow or full

def disconnected(monitor):
    while True:
        if recv_monitor_message(monitor)["event"] == zmq.EVENT_DISCONNECTED:
            return


async def test_a_pusher_comes_back_to_a_server_that_was_restarted(start, context):
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    first = start("--zeromq", endpoint, "--topics", "news")
    push = pusher(context, first)
    monitor = push.get_monitor_socket()
    async with first.client("42") as client:
        push.send_multipart([b"pub.user.42", b"1"])
        assert await received(client, 1) == [("user.42", 1)]
    first.stop()
    await asyncio.to_thread(disconnected, monitor)
    push.disable_monitor()
    # It waits in the socket's own queue.
    push.send_multipart([b"pub.user.42", b"2"])
    second = start("--zeromq", endpoint, "--topics", "news")
    eventually(lambda: counter(second, "zeromq_messages_total") == 1, "the message that waited comes")
    async with second.client("42") as client, second.client("43") as bystander:
        push.send_multipart([b"pub.user.42", b"3"])
        assert await received(client, 1) == [("user.42", 3)]
        assert await bystander.heard() == []


async def test_what_libzmq_took_for_a_server_that_stands_still_arrives(server, context):
    """The high-water mark: a full socket takes nothing more, and what it took is not lost."""
    payload = "x" * 10_000
    async with server.client("42") as client, server.client("43") as bystander:
        push = pusher(context, server, SNDHWM=10, SNDBUF=65_536)
        push.send_multipart([b"pub.user.42", b"0"])
        assert await received(client, 1) == [("user.42", 0)]
        server.signal(signal.SIGSTOP)
        taken = 0
        try:
            # The queue empties into the kernel's buffers for a while.
            while push.poll(1000, zmq.POLLOUT):
                push.send_multipart([b"pub.user.42", json.dumps([taken, payload]).encode()], zmq.NOBLOCK)
                taken += 1
                assert taken < 100_000
        finally:
            server.signal(signal.SIGCONT)
        assert taken > 10
        for number in range(taken):
            assert (await client.next())["data"] == [number, payload]
        assert await client.heard() == []
        assert await bystander.heard() == []


async def test_a_burst_above_the_backlogs_bound_reaches_who_reads(start):
    """While half of the bound waits for a client, nothing more is read from the peer."""
    server = start(*FREE, "--backlog-frames-max", 100)
    burst = b"".join(message(b"pub.user.42", b"%d" % number) for number in range(3000))
    async with server.client("42") as client, server.client("43") as bystander:
        with Zmtp(address(server)) as peer:
            peer.open()
            pushing = asyncio.create_task(asyncio.to_thread(peer.send, burst))
            assert await received(client, 3000) == [("user.42", number) for number in range(3000)]
            await pushing
        assert await bystander.heard() == []


async def test_so_many_connections_and_no_more(start):
    server = start(*FREE, "--zeromq-connections-max", 2)
    async with server.client("42") as client:
        with Zmtp(address(server)) as first, Zmtp(address(server)) as second:
            first.open()
            second.open()
            with Zmtp(address(server)) as third:
                assert third.ended()
            assert counter(server, "zeromq_refused_total") == 1
            server.wait_for_log(r"zeromq: turned away: zeromq_connections_max \(2\)")
            second.send(message(b"pub.user.42", b"1"))
            assert await received(client, 1) == [("user.42", 1)]
        eventually(lambda: counter(server, "publishers") == 0, "both are gone")
        # A silent connection makes room for the next.
        with Zmtp(address(server)), Zmtp(address(server)), Zmtp(address(server)) as third:
            third.open().send(message(b"pub.user.42", b"2"))
            assert await received(client, 1) == [("user.42", 2)]


def test_a_handshake_has_a_deadline(start):
    server = start(*FREE, "--auth-seconds", 1)
    with Zmtp(address(server)) as open_one, Zmtp(address(server)) as silent, Zmtp(address(server)) as half:
        open_one.open()
        half.send(greeting())
        assert silent.ended() and half.ended()
        open_one.send(command("PING", b"\0\0"))
        assert open_one.command() == ("PONG", b"")
    assert counter(server, "zeromq_failed_total") == 2


# ---- ZMTP

async def test_a_stream_may_come_one_byte_at_a_time(server):
    async with server.client("42") as client, server.client("43") as bystander:
        with Zmtp(address(server)) as peer:
            peer.socket.setsockopt(6, 1, 1)
            for byte in greeting(version=(3, 0)) + ready() + message(b"pub.user.42", b"1"):
                peer.send(bytes([byte]))
            assert await received(client, 1) == [("user.42", 1)]
        assert await bystander.heard() == []


async def test_data_and_the_end_in_one_segment(server):
    async with server.client("42") as client:
        for number in range(20):
            with Zmtp(address(server)) as peer:
                peer.send(greeting() + ready() + message(b"pub.user.42", b"%d" % number))
                peer.socket.shutdown(1)
                assert peer.greeted() == "NULL" and peer.ended()
        assert sorted(data for _, data in await received(client, 20)) == list(range(20))


def test_heartbeats(server, context):
    with Zmtp(address(server)) as peer:
        peer.open().send(command("PING", b"\0\0" + b"c" * 16))
        assert peer.command() == ("PONG", b"c" * 16)
        # Without another word for longer than it says, it is gone.
        peer.send(command("PING", b"\0\x03"))
        assert peer.command() == ("PONG", b"")
        assert peer.ended()
    push = pusher(context, server, HEARTBEAT_IVL=50, HEARTBEAT_TIMEOUT=1000, HEARTBEAT_TTL=3000)
    events = push.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    push.send_multipart([b"pub.news", b"1"])
    eventually(lambda: counter(server, "zeromq_messages_total") == 1, "it is connected")
    # Twice as long as it waits for a PONG.
    assert not events.poll(2000)
    push.disable_monitor()


@pytest.mark.parametrize("kind", ["PUB", "DEALER", "REQ", "PULL", "PAIR"])
async def test_another_socket_than_push_is_refused(server, kind):
    async with server.client("42") as bystander:
        with refused(server, kind, "pub.user.42 evil"):
            server.wait_for_log("zeromq: a peer is no PUSH socket")
        assert await bystander.heard() == []
        assert counter(server, "zeromq_messages_total") == 0


@pytest.mark.parametrize(("stream", "reason"), [
    (greeting("PLAIN"), b"only NULL is spoken here"),
    (greeting("CURVE"), b"only NULL is spoken here"),
    (greeting() + ready("PUB"), b"only PUSH sockets connect here"),
    (greeting() + command("READY"), b"only PUSH sockets connect here"),
    (greeting() + message(b"pub.user.42", b"early"), b"protocol error"),
    (greeting() + command("HELLO", b"\x01a\x01b"), b"protocol error"),
    (greeting() + b"\xff\0", b"protocol error"),
], ids=brief)
async def test_a_peer_learns_why_it_is_refused(server, stream, reason):
    async with server.client("42") as bystander:
        with Zmtp(address(server)) as peer:
            peer.send(stream)
            assert peer.greeted() == "NULL"
            assert peer.command() == ("ERROR", bytes([len(reason)]) + reason)
            assert peer.ended()
        assert await bystander.heard() == []
        assert counter(server, "zeromq_failed_total") == 1


@pytest.mark.parametrize("garbage", [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n" + b"x" * 9,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"*1\r\n$4\r\nPING\r\n", b"\x01\x00\x00", b"\xff" * 64,
    b"\xff\0\0\0\0\0\0\0\x01\x7f\x01\x08\0\0", b"x" * 200_000,
], ids=brief)
async def test_garbage_is_cut_off_and_harms_nobody(server, garbage):
    async with server.client("43", topics=["*"]) as bystander:
        with Zmtp(address(server)) as peer:
            with contextlib.suppress(ConnectionError):
                peer.send(garbage)
            assert peer.ended()
        assert await bystander.heard() == []
        assert counter(server, "zeromq_failed_total") == 1


def test_a_body_that_never_ends_holds_nothing(server):
    before = server.resident_kilobytes()
    with Zmtp(address(server)) as peer:
        peer.open().send(b"\x02" + (1 << 62).to_bytes(8, "big"))
        for _ in range(400):
            peer.send(b"x" * 100_000)
    assert server.resident_kilobytes() < before + 8_000


# ---- the password

def with_password(start, tmp_path, *flags):
    (tmp_path / "password").write_text(PASSWORD + "\n")
    return start(*FREE, "--publishers-password-file", tmp_path / "password", *flags)


async def test_the_publishers_password_is_wanted(start, context, tmp_path):
    server = with_password(start, tmp_path)
    # `heard` publishes by the publishers' port, which wants the password as well.
    assert server.publisher.command("AUTH", PASSWORD) == "+OK"
    async with server.client("42") as client, server.client("43") as bystander:
        for login in [("default", "wrong"), ("admin", PASSWORD)]:
            with refused(server, "PUSH", "pub.user.42 evil", *login) as told:
                assert await asyncio.to_thread(told.readline) == "refused\n"
        server.wait_for_log("zeromq: a wrong user or password")
        before = counter(server, "zeromq_failed_total")
        with refused(server, "PUSH", "pub.user.42 evil"):
            eventually(lambda: counter(server, "zeromq_failed_total") > before, "a missing password is refused")
        right = pusher(context, server, PLAIN_USERNAME=b"default", PLAIN_PASSWORD=PASSWORD.encode())
        right.send_multipart([b"pub.user.42", b"good"])
        assert await received(client, 1) == [("user.42", "good")]
        assert await client.heard() == []
        assert await bystander.heard() == []
        assert PASSWORD not in server.log()


def test_without_the_password_nothing_is_published(start, tmp_path):
    server = with_password(start, tmp_path)
    with Zmtp(address(server)) as peer:
        peer.send(greeting())
        assert peer.greeted() == "PLAIN"
        assert peer.command() == ("ERROR", b"\x19only PLAIN is spoken here")
    server.wait_for_log("with publishers_password it must use PLAIN, with the user default")
    for stream in [ready(), message(b"pub.news", b"evil"), command("INITIATE", b"\x0bSocket-Type\0\0\0\x04PUSH")]:
        with Zmtp(address(server)) as peer:
            peer.send(greeting("PLAIN") + stream + frame(b"{}"))
            assert peer.greeted() == "PLAIN" and peer.command()[0] == "ERROR" and peer.ended()
    assert counter(server, "zeromq_messages_total") == 0


def test_an_open_address_needs_the_password():
    done = oneloop("--zeromq", "tcp://0.0.0.0:0", "--publishers", "127.0.0.1:0")
    assert done.returncode == 2 and "zeromq (--zeromq) is tcp://0.0.0.0:0, which others can reach" in done.stderr
    done = oneloop("--zeromq", "127.0.0.1:5555")
    assert done.returncode == 2 and "zeromq (--zeromq): " in done.stderr, done.stderr


def test_the_doctor_looks_at_the_address(server):
    host, port = address(server)
    done = oneloop("doctor", "--listen", server.host, "--publishers", "127.0.0.1:0", "--zeromq", f"tcp://{host}:{port}")
    assert "zeromq" in done.stdout and f"{host}:{port} is served" in done.stdout, done.stdout
