"""Redis by Sentinel: the server follows the primary, and every switch costs one gap and nobody's connection."""

import asyncio
import contextlib
import re
import time

import pytest
from helpers.outage_check import QUICK, audience, ups
from helpers.ports import free_port
from helpers.process import eventually, oneloop
from helpers.redis_server import Sentinel, TlsSettings
from helpers.streams import add, heard


async def in_thread(function, *arguments):
    return await asyncio.to_thread(function, *arguments)


def is_replica(redis):
    return "role:slave" in redis.command("INFO", "replication")


def subscribers(redis):
    """The servers that subscribe there; Sentinels do as well."""
    return redis.command("CLIENT", "LIST", "TYPE", "pubsub").count(" name=oneloop ")


@pytest.mark.parametrize("loops", [1, 2])
async def test_a_failover_by_command_costs_one_gap(start, trio, loops):
    server = start(*QUICK, "--loops", loops, redis=trio)
    async with audience(server) as clients:
        for _ in range(2):
            before = trio.primary()
            server.forget_publisher()
            after = await in_thread(trio.fail_over)
            await clients.is_back()
            await clients.hears(gaps=1)
            # The old one serves on as a replica, and nobody is there.
            await in_thread(eventually, lambda: is_replica(before), "it is a replica")
            assert (subscribers(before), subscribers(after)) == (0, 1)
    assert re.search(rf"the primary of main is 127.0.0.1:{after.port}, by epoch \d+", server.log())


async def test_a_killed_primary_is_replaced_and_not_followed_when_it_is_back(start, trio):
    nodes = [start(*QUICK, redis=trio) for _ in range(2)]
    async with (audience(nodes[0], nodes=2) as clients,
                nodes[1].client("elsewhere") as elsewhere, nodes[1].client("nobody") as bystander):
        old = trio.primary()
        nodes[0].forget_publisher()
        old.kill()
        new = await in_thread(trio.has_other, old)
        await in_thread(eventually, lambda: subscribers(new) == 2, "both are there")
        outages = [ups(nodes[0]) - clients.ups, ups(nodes[1]) - 1]
        await clients.is_back(outages[0])
        # It says that it is the primary, for ten seconds.
        old.revive()
        assert not is_replica(old)
        assert old.command("PUBLISH", "pub.user.elsewhere", '"said to the old one"') == 0
        assert new.command("PUBLISH", "pub.user.elsewhere", '"said to the new one"') == 2
        await clients.hears(gaps=outages[0])
        kinds = [one["op"] if isinstance(one, dict) else one[1] for one in await elsewhere.heard()]
        assert kinds == ["gap"] * outages[1] + ["said to the new one"]
        while not is_replica(old):
            await clients.hears()
        await clients.hears()
        assert [one["op"] for one in await bystander.heard()] == ["gap"] * outages[1]


async def test_streams_lose_nothing_and_repeat_nothing(start, trio):
    nodes = [start("--streams", "pub", *QUICK, redis=trio) for _ in range(2)]
    expected = []

    def write(count):
        """Entries that a replica has got before the next one is written."""
        primary = eventually(trio.primary, "the Sentinels agree")
        with contextlib.closing(primary.publisher()) as writer:
            for _ in range(count):
                number = len(expected)
                answer = writer.command("XADD", "pub", "*", "topic", "user.42", "data", number)
                assert not answer.startswith("-"), answer
                assert writer.command("WAIT", 1, 20_000) >= 1
                expected.append(("user.42", number))

    async with (nodes[0].client("42") as one, nodes[1].client("42") as other,
                nodes[0].client("43") as bystander):
        await in_thread(write, 200)
        await in_thread(trio.fail_over)
        await in_thread(write, 200)
        # Both replicas follow the new primary before it goes.
        replicas = lambda: trio.primary().command("INFO", "replication").count("state=online") == 2  # noqa: E731
        await in_thread(eventually, replicas, "two replicas", 60)
        before = trio.primary()
        before.kill()
        await in_thread(trio.has_other, before)
        await in_thread(write, 200)
        before.revive()
        await in_thread(write, 200)
        for client in [one, other]:
            found = []
            while len([entry for entry in found if isinstance(entry, tuple)]) < len(expected):
                message = await client.next()
                found.append((message["topic"], message["data"]) if "topic" in message else message)
            assert found == expected
        assert await heard(trio, bystander) == []
        add(trio, "user.42", "at the end")
        assert (await one.next())["data"] == (await other.next())["data"] == "at the end"


@pytest.mark.parametrize("loops", [1, 2])
async def test_what_clients_send_goes_to_the_primary(start, trio, loops):
    """Each process that sends asks a Sentinel itself. An answer says whether it was taken."""
    server = start("--upstream", "stream:up", *QUICK, "--loops", loops, redis=trio)
    async with server.client("42") as client, server.client("43") as bystander:
        for number in range(3):
            primary = await in_thread(trio.fail_over) if number else trio.primary()
            answer = {}
            while answer.get("op") != "sent":
                await client.send(op="send", data=number)
                while (answer := await client.next())["op"] == "gap":
                    pass
            [[_, fields]] = primary.command("XRANGE", "up", answer["id"], answer["id"])
            assert fields[fields.index("data") + 1] == str(number)
        assert {frame["op"] for frame in await bystander.heard()} <= {"gap"}


async def test_without_any_sentinel_the_primary_is_kept(start, trio):
    server = start(*QUICK, redis=trio)
    publisher = server.publisher
    async with audience(server) as clients:
        for sentinel in trio.sentinels:
            sentinel.kill()
        server.wait_for_log("no link to a Sentinel: cannot connect to 127.0.0.1:\\d+: .*is a Sentinel running there")
        await clients.hears()
        assert server.ready() and publisher is server.publisher
        assert publisher.command("CLIENT", "KILL", "TYPE", "pubsub") >= 1
        await clients.is_back()
        await clients.hears(gaps=1)
        for sentinel in trio.sentinels:
            sentinel.launch()
        eventually(lambda: trio.is_whole(2), "the Sentinels know each other again", 60)
        server.forget_publisher()
        await in_thread(trio.fail_over)
        await clients.is_back()
        await clients.hears(gaps=1)


async def test_a_minority_is_told_and_followed_only_if_there_is_no_more(start, trio):
    server = start(*QUICK, redis=trio)
    async with audience(server) as clients:
        for sentinel in trio.sentinels[1:]:
            sentinel.kill()
        server.wait_for_log("cannot reach a quorum of Sentinels for main")
        await clients.hears()
        assert server.ready()
        # Another one begins with what there is.
        late = start(*QUICK, redis=trio)
        late.wait_for_log("cannot reach a quorum of Sentinels for main")
        late.stop()
        await clients.hears()
        assert server.log().count("cannot reach a quorum") == 1, "one line for one trouble"


def test_a_name_that_no_sentinel_knows_is_red_and_named(start, trio):
    server = start(*QUICK, "--redis", trio.url_of("other"), redis=trio, ready=False)
    server.wait_for_log("watches no primary of the name other: SENTINEL MASTERS")
    eventually(lambda: "name other" in server.admin("/readyz")[2], "/readyz says so")
    assert server.admin("/readyz")[0] == 503 and server.admin("/healthz")[0] == 200
    for sentinel in trio.sentinels:
        host = ["SENTINEL", "MONITOR", "other", "127.0.0.1", trio.primary().port, 2]
        assert sentinel.command(*host) == "+OK"
    server.wait_ready()
    assert server.publish("user.1", "x") == 1


@pytest.mark.parametrize("login", ["", "sentinel"])
async def test_sentinels_have_a_password_of_their_own(start, start_redis, tmp_path, login):
    redis = start_redis(password="r3dis")
    sentinel = Sentinel(tmp_path, redis, password="s3ntinel")
    assert sentinel.command("SENTINEL", "SET", "main", "auth-pass", "r3dis") == "+OK"
    with contextlib.ExitStack() as ends:
        ends.callback(sentinel.end)
        query = "?sentinel_password=s3ntinel" if login else ""
        url = f"redis+sentinel://:r3dis@127.0.0.1:{sentinel.port}/main{query}"
        server = start(*QUICK, "--redis", url, redis=redis, ready=False)
        if not login:
            server.wait_for_log("the Sentinel at .* answered -NOAUTH to .*sentinel_password=PASSWORD")
            assert not server.ready()
        else:
            server.wait_ready()
            async with server.client("42") as client, server.client("43") as bystander:
                server.publish("user.42", "by its primary")
                assert await client.heard() == [("user.42", "by its primary")]
                assert await bystander.heard() == []
        assert "s3ntinel" not in server.log() and "r3dis" not in server.log()


async def test_a_primary_is_announced_by_its_name(start, redis, tmp_path):
    sentinel = Sentinel(tmp_path, redis, "sentinel resolve-hostnames yes", "sentinel announce-hostnames yes",
                        host="localhost")
    with contextlib.ExitStack() as ends:
        ends.callback(sentinel.end)
        server = start(*QUICK, "--redis", f"redis+sentinel://localhost:{sentinel.port}/main", redis=redis)
        server.wait_for_log(f"the primary of main is localhost:{redis.port}")
        async with audience(server) as clients:
            await clients.hears()


async def test_sentinels_and_the_primary_are_reached_by_tls(start, start_redis, tmp_path, authority):
    tls, port = TlsSettings(authority), free_port()
    redis = start_redis(tls=tls)
    files = tls.arguments(port)
    lines = [f"{name.removeprefix('--')} {value}" for name, value in zip(files[::2], files[1::2], strict=True)]
    sentinel = Sentinel(tmp_path, redis, *lines, "tls-replication yes", port=redis.server_port)
    with contextlib.ExitStack() as ends:
        ends.callback(sentinel.end)
        eventually(lambda: sentinel.fields()["flags"] == "master", "the Sentinel reaches the primary")
        url = f"rediss+sentinel://127.0.0.1:{port}/main"
        server = start(*QUICK, "--redis", url, "--redis-ca-file", authority.path, redis=redis)
        async with audience(server) as clients:
            await clients.hears()
        # The plain port of the Sentinel is told as such.
        url = f"rediss+sentinel://127.0.0.1:{sentinel.port}/main"
        server = start(*QUICK, "--redis", url, "--redis-ca-file", authority.path, redis=redis, ready=False)
        server.wait_for_log("no link to a Sentinel: .*(is not TLS|handshake of TLS)")


async def test_commands_ask_the_sentinels(start, trio):
    server = start(*QUICK, redis=trio)
    async with server.client("42") as client, server.client("43") as bystander:
        done = await in_thread(oneloop, "publish", "--redis", trio.url, "pub.user.42", '"by command"')
        assert done.returncode == 0, done.stderr
        assert await client.heard() == [("user.42", "by command")] and await bystander.heard() == []
    done = await in_thread(oneloop, "doctor", "--redis", trio.url)
    port = trio.primary().port
    named = re.findall(rf"^ok +sentinel +\S+ names 127.0.0.1:{port} the primary of main", done.stdout, re.M)
    assert len(named) == 3, done.stdout
    assert re.search(rf"^ok +redis +127.0.0.1:{port} can be reached", done.stdout, re.M)
    for sentinel in trio.sentinels[1:]:
        sentinel.kill()
    check = ["SENTINEL", "CKQUORUM", "main"]
    eventually(lambda: trio.sentinels[0].command(*check).startswith("-NOQUORUM"), "it misses the others")
    done = await in_thread(oneloop, "doctor", "--redis", trio.url)
    assert "reaches no quorum of Sentinels" in done.stdout
    assert len(re.findall(r"^warning +sentinel", done.stdout, re.M)) == 3
    assert ups(server) == 1


async def test_a_list_is_tried_in_its_order(start, start_redis):
    first, second = start_redis(), start_redis()
    first.kill()
    server = start(*QUICK, "--redis", f"{first.url},{second.url}", redis=second)
    async with audience(server) as clients:
        first.revive()
        await clients.hears()
        # The connection that it has is kept; the order counts for the next attempt.
        second.kill()
        server.forget_publisher()
        server.redis = first
        await clients.is_back()
        await clients.hears(gaps=1)
        second.revive()
        # One that was up for less than the longest wait does not begin the order anew.
        begun = time.monotonic()
        await in_thread(eventually, lambda: time.monotonic() > begun + 0.2, "it has stayed")
        first.command("CLIENT", "KILL", "TYPE", "pubsub")
        await clients.is_back()
        await clients.hears(gaps=1)
    assert first.command("PUBSUB", "NUMPAT") == 1 and second.command("PUBSUB", "NUMPAT") == 0
