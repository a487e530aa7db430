"""A back end revokes a user's tokens: on every node, for nodes that were away or start later, and for nobody else."""

import asyncio
import contextlib
import json
import time

import pytest
from helpers.event_stream import Stream
from helpers.process import eventually
from helpers.server import counter
from helpers.tokens import token
from helpers.ws_client import closed

KEY = "oneloop:{ctl}:revoked"
CONTROL = ("--control", "ctl")


def now():
    return int(time.time())


def revoke(publisher, sub="42", before=None):
    words = json.dumps({"op": "revoke", "sub": sub, "before": now() if before is None else before})
    return publisher.command("PUBLISH", "ctl", words)


def old(sub="42", **claims):
    return token(sub, iat=now() - 60, **claims)


async def until_refused(server, bearer):
    """Waits until a server that has just started knows of a revocation."""
    for _ in range(400):
        with contextlib.suppress(AssertionError):
            return await server.refusal(bearer)
        await asyncio.sleep(0.05)
    raise AssertionError("it is not refused")


async def told_revoked(connection):
    code, reason = await closed(connection)
    assert code == 4500 and reason["reason"] == "revoked", (code, reason)


async def test_earlier_tokens_are_closed_and_refused_in_every_place(start):
    server = start(*CONTROL)
    async with server.client("43", iat=now() - 60) as bystander, server.client("42", bearer=old()) as first, \
            server.client("42", bearer=token("42")) as without_iat, server.client("42", iat=now()) as later:
        assert revoke(server.publisher, before=now() - 30) == 2
        for client in (first, without_iat):
            await told_revoked(client.connection)
        for bearer in [old(), token("42"), old(iss="x")]:
            status, _, body = await server.refusal(bearer)
            assert status == 401 and json.loads(body)["reason"] == "revoked"
            for place in ["subprotocol", "query"]:
                async with server.dial(bearer, place=place) as connection:
                    await told_revoked(connection)
            async with server.dial() as connection:
                await connection.send(json.dumps({"op": "auth", "token": bearer}))
                await told_revoked(connection)
        assert server.publish("user.42", 1) == 1
        assert await later.heard() == [("user.42", 1)]
        assert await bystander.heard() == []
    assert counter(server, "tokens_revoked_total") == 12
    assert counter(server, "revocations_total") == 1


async def test_a_renewed_connection_stays(start):
    server = start(*CONTROL)
    async with server.client("42", bearer=old()) as client, server.client("43", bearer=old("43")) as bystander:
        assert (await client.ask(op="auth", token=token("42", iat=now())))["op"] == "authed"
        assert revoke(server.publisher, before=now() - 30) == 0
        await client.send(op="auth", token=old())
        await told_revoked(client.connection)
        assert await bystander.heard() == []


async def test_an_event_stream_is_closed_and_refused_as_well(start):
    server = start(*CONTROL)
    async with server.client("43", bearer=old("43")) as bystander:
        with Stream(server, "42", bearer=old()) as stream:
            stream.welcomed()
            assert revoke(server.publisher, before=now() - 30) == 1
            code, reason = stream.closed()
            assert code == 4500 and reason["reason"] == "revoked"
        with Stream(server, "42", bearer=old()) as stream:
            code, reason = stream.refusal()
            assert code == 4500 and reason["reason"] == "revoked"
        assert await bystander.heard() == []


async def test_the_user_of_a_proxy_counts_from_its_handshake(start):
    server = start(*CONTROL, "--identity", "header:X-User", "--proxies", "127.0.0.1")
    async with server.client("43") as bystander, server.dial(headers={"X-User": "42"}) as connection:
        user = await server.enter(connection, "42")
        assert revoke(server.publisher, before=now() - 30) == 0
        assert await user.heard() == []
        assert revoke(server.publisher, before=now() + 30) == 1
        await told_revoked(connection)
        # The proxy vouches for it anew.
        async with server.dial(headers={"X-User": "42"}) as again:
            assert await (await server.enter(again, "42")).heard() == []
        assert await bystander.heard() == []


@pytest.mark.over_tls
async def test_every_node_knows_and_so_does_one_that_starts_later(start, redis):
    nodes = [start(*CONTROL, redis=redis) for _ in range(2)]
    async with nodes[0].client("43", iat=now() - 60) as bystander, nodes[0].client("42", bearer=old()) as one, \
            nodes[1].client("42", bearer=old()) as two:
        assert revoke(redis, before=now() - 30) == 2
        for client in (one, two):
            await told_revoked(client.connection)
        for node in nodes:
            assert (await node.refusal(old()))[0] == 401
        assert redis.command("ZSCORE", KEY, "42")
        await asyncio.to_thread(nodes[1].stop)
        nodes[1:] = [start(*CONTROL, redis=redis)]
        status, _, body = await until_refused(nodes[1], old())
        assert status == 401 and json.loads(body)["reason"] == "revoked"
        async with nodes[1].client("42", iat=now()) as again, nodes[1].client("44", bearer=old("44")) as other:
            nodes[0].publish("user.42", 1)
            assert await again.heard() == [("user.42", 1)]
            assert await other.heard() == []
        assert await bystander.heard() == []


async def test_a_node_learns_what_it_missed_and_saves_what_redis_lost(start, redis):
    server = start(*CONTROL, redis=redis)
    async with server.client("43", bearer=old("43")) as bystander, server.client("42", bearer=old()) as client:
        # As another node saves what this one does not hear, or a back end itself.
        redis.command("ZADD", KEY, "GT", now() - 30, "42")
        redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        frames = [await client.next()]
        assert frames[0]["op"] == "gap"
        await told_revoked(client.connection)
        assert (await server.refusal(old()))[0] == 401
        assert (await bystander.heard())[0]["op"] == "gap"
        redis.command("FLUSHALL")
        redis.command("CLIENT", "KILL", "TYPE", "pubsub")
        await asyncio.to_thread(eventually, lambda: redis.command("ZSCORE", KEY, "42"), "it is saved again")
        assert (await bystander.heard())[0]["op"] == "gap"


async def test_a_large_set_is_read_to_its_end(start, redis):
    scores = [word for number in range(500) for word in (now() - 30 - number % 3, f"user{number}")]
    redis.command("ZADD", KEY, *scores)
    server = start(*CONTROL, redis=redis)
    await asyncio.to_thread(eventually, lambda: counter(server, "revocations_total") == 500, "all are known")
    for number in (0, 127, 128, 499):
        assert (await server.refusal(old(f"user{number}")))[0] == 401
    async with server.client("user500", bearer=old("user500")) as bystander:
        assert await bystander.heard() == []


async def test_beyond_the_bound_the_earliest_hold_for_everybody_on_every_node(start, redis):
    nodes = [start(*CONTROL, "--revocations-max", "2", redis=redis) for _ in range(2)]
    async with nodes[0].client("43", iat=now() - 600) as there:
        for number in range(3):
            assert revoke(redis, f"user{number}", now() - 60 + number) == 2
        for node in nodes:
            await asyncio.to_thread(eventually, lambda node=node: counter(node, "revocations_merged_total"), "merged")
            assert (await node.refusal(token("44", iat=now() - 600)))[0] == 401
            async with node.client("44", iat=now()) as client:
                assert await client.heard() == []
        assert await there.heard() == []
        await asyncio.to_thread(eventually, lambda: redis.command("ZSCORE", KEY, "user0") is None, "it is dropped")
        assert redis.command("ZSCORE", KEY, "") is not None


async def test_lifetimes_are_limited_and_so_are_revocations(start, redis):
    lifetime = 600
    server = start(*CONTROL, "--jwt-lifetime-seconds-max", lifetime, redis=redis)
    async with server.client("43", iat=now()) as bystander:
        for bearer, detail in [
            (token("42"), "iat is missing"), (token("42", iat=now(), seconds=700), "lives longer than jwt.lifetime"),
            (token("42", iat=now() + 300, seconds=600), "240 s ahead"),
        ]:
            status, _, body = await server.refusal(bearer)
            assert status == 401 and detail in json.loads(body)["detail"], body
        redis.command("ZADD", KEY, now() - 700, "long ago", now() - 500, "lately")
        assert revoke(redis, before=now() - 30) == 1
        await asyncio.to_thread(eventually, lambda: redis.command("ZSCORE", KEY, "42"), "it is saved")
        assert redis.command("ZSCORE", KEY, "long ago") is None and redis.command("ZSCORE", KEY, "lately")
        assert lifetime < redis.command("TTL", KEY) <= lifetime + 605
        assert await bystander.heard() == []


async def test_rights_that_lack_are_named_and_the_command_counts_all_the_same(start, redis):
    redis.command("ACL", "SETUSER", "bob", "on", ">secret", "&pub.*", "&ctl", "~other", "+@all")
    server = start(*CONTROL, "--redis", redis.url_of("bob:secret"), redis=redis)
    server.wait_for_log(r"refuses to keep revocations.*needs ~oneloop:\{ctl\}:revoked \+eval \+zadd")
    async with server.client("43", bearer=old("43")) as bystander, server.client("42", bearer=old()) as client:
        assert revoke(redis, before=now() - 30) == 1
        await told_revoked(client.connection)
        assert await bystander.heard() == []
    redis.command("ACL", "SETUSER", "bob", "~oneloop:{ctl}:revoked")
    await asyncio.to_thread(eventually, lambda: redis.command("ZSCORE", KEY, "42"), "it is repeated")
