"""Members of a topic: alone, and over nodes behind one Redis."""

import asyncio
import contextlib
import random

import pytest
from helpers.process import eventually
from helpers.server import counter
from helpers.tokens import token

FLAGS = ["--members", "room.*", "--may", "room.*,hall", "--topics", "news"]

# Long enough for a silent node to be taken for dead: 15 s, and the next call of another.
DEATH = 45


class Mirror:
    """The members as a client that watches them knows them."""

    def __init__(self, client, topic, frame):
        self.client, self.topic, self.frames = client, topic, 1
        self.users, self.left = set(), set()
        self.take(frame)

    @classmethod
    async def of(cls, client, topic="room.7", **more):
        return cls(client, topic, await client.ask(op="members", topic=topic, **more))

    def take(self, frame):
        assert frame["op"] == "members" and frame["topic"] == self.topic, frame
        before = self.users
        if "users" in frame:
            assert set(frame) <= {"op", "topic", "users", "count", "ref"}, frame
            assert frame["users"] == sorted(set(frame["users"])), frame
            self.users = set(frame["users"])
        else:
            assert set(frame) == {"op", "topic", "joined", "left", "count"}, frame
            joined, left = set(frame["joined"]), set(frame["left"])
            assert not joined & self.users and left <= self.users and not joined & left, frame
            assert joined or left or frame["count"] != self.count, frame
            self.users = (self.users | joined) - left
        self.count = frame["count"]
        self.left |= before - self.users
        assert self.count >= len(self.users), frame

    async def until(self, *users, seconds=20):
        """Waits until these are the members. Where Redis was away, a gap is told as well."""
        async with asyncio.timeout(seconds):
            while self.users != set(users):
                frame = await self.client.next()
                if frame["op"] != "gap":
                    self.take(frame)
                    self.frames += 1
        assert self.count == len(users)


@contextlib.asynccontextmanager
async def in_room(server, sub, topic="room.7", **options):
    async with server.client(sub, **options) as client:
        assert (await client.ask(op="subscribe", topic=topic))["op"] == "subscribed"
        yield client


@contextlib.asynccontextmanager
async def bystanders(server):
    """Clients that must hear nothing: of another topic, of a pattern, and one that did not ask."""
    async with in_room(server, "zoe", "room.8") as other, in_room(server, "yan", "room.*") as wide:
        async with in_room(server, "xia") as silent:
            watching = await Mirror.of(other, "room.8")
            assert watching.users == {"zoe"}
            yield
            for client in [other, wide, silent]:
                heard = await client.heard()
                # Where Redis was away, all are told of that.
                assert [one for one in heard if not isinstance(one, dict) or one["op"] != "gap"] == [], client.sub
            assert (await other.ask(op="topics"))["topics"] == ["news", "room.8", "user.zoe"]


@pytest.fixture(params=["alone", "with Redis"])
def server(request, start):
    redis = request.getfixturevalue("redis") if request.param == "with Redis" else None
    return start(*FLAGS, redis=redis)


async def test_a_list_and_then_its_changes(server):
    async with bystanders(server), in_room(server, "42") as client:
        mirror = await Mirror.of(client, ref="r")
        await mirror.until("42", "xia")
        async with in_room(server, "43") as other:
            await mirror.until("42", "43", "xia")
            # A second connection of a user is no second member, and the end of one is not the user's.
            async with in_room(server, "43"):
                second = await Mirror.of(other, ref=7)
                await second.until("42", "43", "xia")
            await other.ask(op="unsubscribe", topic="room.7")
            await mirror.until("42", "xia")
            # It watches no more.
            async with in_room(server, "44"):
                await mirror.until("42", "44", "xia")
                assert await other.heard() == []
            await mirror.until("42", "xia")
            await other.ask(op="subscribe", topic="room.7")
            await mirror.until("42", "43", "xia")
            assert await other.heard() == [], "to subscribe again is not to ask again"
        await mirror.until("42", "xia")
        assert counter(server, "member_updates_total") >= 4
        assert counter(server, "member_retries_total") == 0


async def test_the_answer_has_the_ref_and_the_asker(server):
    async with in_room(server, "4\"2é") as client:
        for ref in [1, "two"]:
            assert await client.ask(op="members", topic="room.7", ref=ref) == {
                "op": "members", "topic": "room.7", "users": ["4\"2é"], "count": 1, "ref": ref}
        assert await client.ask(op="topics") == {
            "op": "topics", "topics": ["news", "room.7", "user.4\"2é"]}


@pytest.mark.parametrize("topic, code", [
    ("room.8", "forbidden"), ("hall", "forbidden"), ("news", "forbidden"), ("user.42", "forbidden"),
    ("user.43", "forbidden"), ("room.*", "bad_topic"), ("*", "bad_topic"), ("", "bad_topic"),
])
async def test_who_may_not_have_a_list_gets_an_error(server, topic, code):
    """A topic without a subscription, one that the setting does not name, and a pattern."""
    async with in_room(server, "43", "room.8"), in_room(server, "42", "room.*") as client:
        await client.ask(op="subscribe", topic="hall")
        assert await client.ask(op="members", topic=topic, ref=1) == {
            "op": "error", "code": code, "topic": topic, "ref": 1}
        async with in_room(server, "44", "room.8") as member:
            await (await Mirror.of(member, "room.8")).until("43", "44")
            assert await client.heard() == []


async def test_a_route_without_the_setting_lists_nobody_and_is_not_listed(start, tmp_path):
    config = tmp_path / "oneloop.toml"
    config.write_text('[[route]]\npath = "/ws"\nmay = ["room.*"]\nmembers = ["room.*"]\nanonymous = ["room.7"]\n'
                      '[[route]]\npath = "/closed"\nmay = ["room.*"]\n')
    server = start("--config", config)
    async with in_room(server, "hidden", path="/closed") as hidden, server.anonymous() as nobody:
        assert (await hidden.ask(op="members", topic="room.7"))["code"] == "forbidden"
        assert nobody.welcome["topics"] == ["room.7"]
        assert (await nobody.ask(op="members", topic="room.7"))["code"] == "forbidden"
        async with in_room(server, "42") as client:
            mirror = await Mirror.of(client)
            async with in_room(server, "43", path="/closed"), in_room(server, "44"):
                await mirror.until("42", "44")
            await mirror.until("42")
        assert await hidden.heard() == []
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(nobody.next(), 0.2)


@pytest.mark.parametrize("order", ["leave", "kick", "revoke"])
async def test_whoever_is_sent_away_hears_no_more(start, redis, order):
    server = start(*FLAGS, "--control", "ctl", redis=redis)
    async with in_room(server, "42") as client, in_room(server, "43") as away:
        mirror, last = await Mirror.of(client), await Mirror.of(away)
        await mirror.until("42", "43")
        await last.until("42", "43")
        words = {"leave": '"topic":"room.7"', "kick": '"reason":"x"', "revoke": '"before":4000000000'}
        if order == "revoke":
            words["revoke"] = '"before":' + str(int(redis.command("TIME")[0]) + 60)
        assert redis.command("PUBLISH", "ctl", f'{{"op":"{order}","sub":"43",{words[order]}}}') > 0
        await mirror.until("42")
        async with in_room(server, "44"):
            await mirror.until("42", "44")
            if order == "leave":
                assert await away.heard() == []
            else:
                assert (await away.closed())[0] == {"kick": 4504, "revoke": 4500}[order]


async def test_a_renewal_that_loses_the_topic_ends_the_list(start):
    server = start("--members", "room.*")
    async with server.client("42", topics=["room.7"]) as client:
        async with server.client("43", topics=["room.7"]) as other:
            mirror = await Mirror.of(client)
            await mirror.until("42", "43")
            assert (await Mirror.of(other)).users == {"42", "43"}
            authed = await other.ask(op="auth", token=token("43", topics=["room.9"]))
            assert authed["topics"] == ["room.9", "user.43"]
            await mirror.until("42")
            assert await other.heard() == []


async def test_a_long_list_is_cut_and_its_number_is_true(server):
    most = 200
    async with in_room(server, "42") as client:
        mirror = await Mirror.of(client)
        async with contextlib.AsyncExitStack() as stack:
            crowd = [await stack.enter_async_context(in_room(server, f"user{n}"))
                     for n in range(most + 20)]
            async with asyncio.timeout(20):
                while mirror.count < most + 21:
                    mirror.take(await client.next())
            assert len(mirror.users) == most and "42" in mirror.users
            late = await Mirror.of(crowd[-1])
            assert late.users == mirror.users and late.count == most + 21
            # Nobody who is still there leaves the list, and others take the places of those who do.
            gone = sorted(mirror.users - {"42"})[:10]
            for one in crowd:
                if one.sub in gone:
                    await one.ask(op="unsubscribe", topic="room.7")
            kept = mirror.users - set(gone)
            async with asyncio.timeout(20):
                while mirror.count > most + 11 or len(mirror.users) < most:
                    mirror.take(await client.next())
            assert kept <= mirror.users and not mirror.users & set(gone)
        await mirror.until("42")


async def test_changes_come_once_a_second_at_most(server):
    async with in_room(server, "42") as client:
        mirror = await Mirror.of(client)
        begun = asyncio.get_running_loop().time()
        for round in range(30):
            async with in_room(server, f"user{round}"):
                pass
        async with in_room(server, "last"):
            await mirror.until("42", "last")
        took = asyncio.get_running_loop().time() - begun
        assert mirror.frames <= 3 + took, (mirror.frames, took)


async def test_many_watchers_hear_each_change(server):
    """More than are written to at once."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(in_room(server, f"user{n}")) for n in range(80)]
        silent = await stack.enter_async_context(in_room(server, "silent"))
        subs = [client.sub for client in clients]
        mirrors = [await Mirror.of(client) for client in clients]
        for mirror in mirrors:
            await mirror.until("silent", *subs)
        async with in_room(server, "late"):
            for mirror in mirrors:
                await mirror.until("late", "silent", *subs)
        for mirror in mirrors:
            await mirror.until("silent", *subs)
        assert await silent.heard() == []


async def test_many_answers_come_each_with_its_ref_and_changes_fit_in_between(start):
    """A list here has fifty kilobytes, and a turn sends a quarter of a megabyte."""
    server = start(*FLAGS, "--commands-per-second-max", 0, "--backlog-bytes-max", "64MiB")
    async with contextlib.AsyncExitStack() as stack:
        names = [f"{number:03}{'x' * 250}" for number in range(200)]
        for name in names:
            await stack.enter_async_context(in_room(server, name))
        asking = [await stack.enter_async_context(in_room(server, f"z{number}")) for number in range(4)]
        other = await stack.enter_async_context(in_room(server, "zoe", "room.8"))
        refs = [*range(40), None]
        for client in asking:
            for ref in refs:
                await client.send(op="members", topic="room.7", **({} if ref is None else {"ref": ref}))
        await stack.enter_async_context(in_room(server, "000"))
        for client in asking:
            answer = await client.next()
            mirror, found = Mirror(client, "room.7", answer), [answer["ref"]]
            while len(found) < len(refs) or mirror.count < 205:
                mirror.take(frame := await client.next())
                if "users" in frame:
                    found.append(frame.get("ref"))
            assert found == refs
            assert mirror.users <= {"000", *names} and len(mirror.users) == 200
            assert await client.heard() == []
        assert await other.heard() == []


# ---- over nodes


def key(topic="room.7"):
    return f"oneloop:{{pub.members}}:in:{topic}"


async def test_members_of_two_nodes_are_listed_together(start, redis):
    one, other = start(*FLAGS, redis=redis), start(*FLAGS, redis=redis)
    async with bystanders(other), in_room(one, "42") as client:
        mirror = await Mirror.of(client)
        await mirror.until("42", "xia")
        async with in_room(other, "43") as there:
            await mirror.until("42", "43", "xia")
            far = await Mirror.of(there)
            await far.until("42", "43", "xia")
            assert redis.command("ZCARD", key()) == 3
            assert int(redis.command("ZSCORE", key(), "43")) > 1_700_000_000_000
            assert redis.command("ZSCORE", key(), "zoe") is None
            assert redis.command("ZRANGE", key("room.8"), 0, -1) == ["zoe"]
            # On both nodes it is one member, until it has left both.
            async with in_room(one, "43"):
                await there.ask(op="unsubscribe", topic="room.7")
                async with in_room(other, "44"):
                    await mirror.until("42", "43", "44", "xia")
                assert await there.heard() == []
            await mirror.until("42", "xia")
    await asyncio.to_thread(
        eventually, lambda: redis.command("EXISTS", key(), key("room.8")) == 0, "no member is left")


@pytest.mark.parametrize("seed", range(3))
async def test_every_list_is_right_in_the_end(start, redis, seed):
    """Users come, go, subscribe and unsubscribe on two nodes, and Redis forgets everything now and then."""
    chance = random.Random(seed)
    servers = [start(*FLAGS, redis=redis) for _ in range(2)]
    topics, subs = ["room.7", "room.8"], ["1", "2", "3", "4"]
    async with contextlib.AsyncExitStack() as stack:
        watchers = []
        for server in servers:
            for topic in topics:
                client = await stack.enter_async_context(in_room(server, f"watcher{len(watchers)}", topic))
                watchers.append(await Mirror.of(client, topic))
        clients = []
        for step in range(80):
            match chance.randrange(8):
                case 0 | 1:
                    client = await stack.enter_async_context(chance.choice(servers).client(chance.choice(subs)))
                    clients.append((client, set()))
                case 2 if clients:
                    client, _ = clients.pop(chance.randrange(len(clients)))
                    await client.connection.close()
                case 3 if chance.randrange(8) == 0:
                    redis.command("FLUSHALL")
                case _ if clients:
                    client, listens = chance.choice(clients)
                    topic = chance.choice(topics)
                    op = "unsubscribe" if topic in listens else "subscribe"
                    listens ^= {topic}
                    assert (await client.ask(op=op, topic=topic))["op"] == f"{op}d"
        for mirror in watchers:
            of_topic = {client.sub for client, listens in clients if mirror.topic in listens}
            own = {one.client.sub for one in watchers if one.topic == mirror.topic}
            await mirror.until(*of_topic, *own, seconds=40)
            assert set(redis.command("ZRANGE", key(mirror.topic), 0, -1)) == mirror.users


async def test_members_of_a_killed_node_leave(start, redis):
    one, other = start(*FLAGS, redis=redis), start(*FLAGS, redis=redis)
    async with bystanders(other), in_room(other, "42") as client:
        mirror = await Mirror.of(client)
        for sub in ["43", "44"]:
            connection = await one.dial(token(sub, topics=["room.7"]))
            await one.enter(connection, sub)
        await mirror.until("42", "43", "44", "xia")
        async with in_room(other, "44"):
            one.kill()
            one.process.returncode = 0  # of a killed one nothing is promised
            await mirror.until("42", "44", "xia", seconds=DEATH)
        await mirror.until("42", "xia")


async def test_while_redis_is_away_a_list_has_the_members_of_the_node(start, redis):
    flags = [*FLAGS, "--redis-backoff-ms-max", 200]
    one, other = start(*flags, redis=redis), start(*flags, redis=redis)
    async with in_room(one, "42") as client, in_room(other, "43") as far:
        mirror, there = await Mirror.of(client), await Mirror.of(far)
        await mirror.until("42", "43")
        await there.until("42", "43")
        redis.kill()
        for server in (one, other):
            server.forget_publisher()
            await asyncio.to_thread(server.wait_ready, False)
        async with in_room(one, "44"):
            await mirror.until("42", "44", seconds=DEATH)
            async with in_room(one, "45") as late:
                assert (await Mirror.of(late)).users >= {"42", "44"}
            redis.revive()
            for server in (one, other):
                await asyncio.to_thread(server.wait_ready)
            await mirror.until("42", "43", "44")
            await there.until("42", "43", "44")
        await mirror.until("42", "43")
        await there.until("42", "43")
        assert counter(one, "member_retries_total") > 0


@pytest.mark.parametrize("loss", ["ends", "is flushed"])
async def test_a_redis_that_lost_its_data_makes_nobody_leave(start, redis, loss):
    flags = [*FLAGS, "--redis-backoff-ms-max", 100]
    one, other = start(*flags, redis=redis), start(*flags, redis=redis)
    async with bystanders(other), in_room(one, "42") as client, in_room(other, "43") as far:
        mirrors = [await Mirror.of(client), await Mirror.of(far)]
        for mirror in mirrors:
            await mirror.until("42", "43", "xia")
        if loss == "ends":
            redis.kill()
            redis.revive()
            for server in (one, other):
                server.forget_publisher()
        else:
            redis.command("FLUSHALL")

        def are_told():
            return set(redis.command("ZRANGE", key(), 0, -1)) == {"42", "43", "xia"}

        await asyncio.to_thread(eventually, are_told, "both nodes have told it again", DEATH)
        # The next change is the first that the lists have.
        async with in_room(other, "44"):
            for mirror in mirrors:
                await mirror.until("42", "43", "44", "xia", seconds=DEATH)
                assert not mirror.left


async def test_the_rules_that_the_manual_names_suffice(start, redis):
    rules = ("+psubscribe +ping +client|setname &pub.* &oneloop:{pub.members} ~oneloop:{pub.members}:* +eval +time"
             " +zscore +zadd +zrem +zrevrange +zrangebyscore +hget +hset +hdel +hincrby +hlen +sadd +srem +scard"
             " +sismember +srandmember +publish +zcard +zrange")
    redis.command("ACL", "SETUSER", "push", "on", ">pass", "resetchannels", *rules.split())
    # A node that is being cleared up.
    ghosts = [f"room.7 ghost{number}" for number in range(1200)]
    redis.command("SADD", "oneloop:{pub.members}:here:dead.1", *ghosts)
    redis.command("HSET", "oneloop:{pub.members}:here", *(word for one in ghosts for word in (one, 1)))
    redis.command("ZADD", key(), *(word for one in ghosts for word in (1, one.split()[1])))
    redis.command("ZADD", "oneloop:{pub.members}:nodes", 0, "dead.1")
    server = start(*FLAGS, "--redis", redis.url_of("push:pass"), redis=redis)
    async with in_room(server, "42") as client:
        await (await Mirror.of(client)).until("42")
    assert counter(server, "member_retries_total") == 0


async def test_a_rule_that_is_missing_is_named(start, redis):
    redis.command("ACL", "SETUSER", "push", "on", ">pass", "resetchannels", "&pub.*", "&oneloop:{pub.members}",
                  "~*", "+@all", "-zadd")
    server = start(*FLAGS, "--redis", redis.url_of("push:pass"), redis=redis)
    async with in_room(server, "42") as client:
        await asyncio.to_thread(server.wait_for_log, "ACL SETUSER <user> &oneloop:{pub.members} ")
        # A member that Redis does not know is known here.
        assert (await Mirror.of(client)).users == {"42"}
        assert redis.command("ZCARD", key()) == 0
        redis.command("ACL", "SETUSER", "push", "+zadd")
        await asyncio.to_thread(eventually, lambda: redis.command("ZCARD", key()) == 1, "42 is told")
        assert await client.heard() == []
