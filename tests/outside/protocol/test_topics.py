"""Topics: subscriptions, grants, patterns, and the members of an envelope."""

import base64

import pytest
from helpers.process import brief
from helpers.tokens import token

FLOOD = 500


async def test_a_welcome_says_who_and_what(start):
    server = start("--topics", "news", "--ping-seconds", 33)
    async with server.client("42", topics=["room.7", "hall.*"], may=["x.*"]) as client:
        welcome = client.welcome
        assert set(welcome) == {"op", "conn", "sub", "topics", "ping", "id", "resumed"}
        assert welcome["sub"] == "42"
        assert sorted(welcome["topics"]) == ["hall.*", "news", "room.7", "user.42"]
        assert welcome["ping"] == 33
        assert welcome["resumed"] is False
        assert isinstance(welcome["conn"], str) and isinstance(welcome["id"], str)
        async with server.client("43") as other:
            assert other.welcome["conn"] != welcome["conn"]


@pytest.mark.parametrize("payload, data", [
    ('{"hello":"world"}', {"hello": "world"}),
    ('[1, 2.5, null]', [1, 2.5, None]),
    ("42", 42),
    ("null", None),
    ('"text"', "text"),
    (' {"a" : 1} \n', {"a": 1}),
    ("hello", "hello"),
    ("", ""),
    ('{"open":', '{"open":'),
    ('{"a":1}{"b":2}', '{"a":1}{"b":2}'),
    ("NaN", "NaN"),
    ("{'a':1}", "{'a':1}"),
    ("01", "01"),
    ('quo"te \\ \n\t\r\b\f\x01\x7f', 'quo"te \\ \n\t\r\b\f\x01\x7f'),
    ("</script>\u2028 中文 🦀", "</script>\u2028 中文 🦀"),
    ("a\0b", "a\0b"),
], ids=brief)
async def test_a_payload_is_json_or_text(server, payload, data):
    async with server.client("bystander") as bystander, server.client("42") as client:
        assert server.publish("user.42", payload) == 1
        assert await client.heard() == [("user.42", data)]
        assert await bystander.heard() == []


@pytest.mark.parametrize("payload", [
    b"\xff", b"\xc0\x80", b"\xed\xa0\x80", bytes(range(256)), b'{"a":"\xe4"}',
], ids=brief)
async def test_a_payload_that_is_not_utf8_is_data64(server, payload):
    async with server.client("bystander") as bystander, server.client("42") as client:
        server.publish("user.42", payload)
        message = await client.next()
        assert set(message) == {"topic", "id", "data64"}
        assert base64.b64decode(message["data64"], validate=True) == payload
        assert await bystander.heard() == []


async def test_a_json_payload_is_passed_on_as_it_is(server):
    payload = '{"big":12345678901234567890123, "e":1.0e+2,"twice":1,"twice":2}'
    async with server.client("42") as client:
        server.publish("user.42", payload)
        assert f'"data":{payload}' in await client.frame()


async def test_a_json_payload_of_many_levels_harms_nobody(server):
    async with server.client("42") as client:
        server.publish("user.42", "[" * 100_000 + "]" * 100_000)
        server.publish("user.42", "[" * 100_000)
        for _ in range(2):
            assert (await client.frame()).startswith('{"topic":"user.42"')
        assert await client.heard() == []


async def test_each_level_hears_and_each_client_once(server):
    grants = {
        "exact": ["room.7.chat"], "near": ["room.7.*"], "far": ["room.*"], "all": ["*"],
        "every": ["room.7.chat", "room.7.*", "room.*", "*", "room.7.chat"],
        "sibling": ["room.8.*"], "longer": ["room.7.chat.x", "room.7.chat.*"], "part": ["roo", "room"],
        "shorter": ["room.7.cha", "room.7"],
    }
    heard = {}
    for name, topics in grants.items():
        async with server.client(name, topics=topics) as client:
            server.publish("room.7.chat", "hi")
            heard[name] = await client.heard()
    hearers = ["exact", "near", "far", "all", "every"]
    assert heard == {n: [("room.7.chat", "hi")] if n in hearers else [] for n in grants}


async def test_the_answer_counts_each_client_once(server):
    every = ["room.7.chat", "room.7.*", "room.*", "*"]
    async with (
        server.client("1", topics=every) as one,
        server.client("2", topics=["room.*"]) as two,
        server.client("3") as bystander,
    ):
        assert server.publish("room.7.chat", "hi") == 2
        assert await one.heard() == [("room.7.chat", "hi")]
        assert await two.heard() == [("room.7.chat", "hi")]
        assert await bystander.heard() == []


async def test_a_pattern_means_below_and_not_itself(server):
    async with server.client("1", topics=["room.*"]) as below, server.client("2", topics=["room"]) as itself:
        server.publish("room", "itself")
        server.publish("room.7", "below")
        server.publish("rooms.7", "another")
        assert await below.heard() == [("room.7", "below")]
        assert await itself.heard() == [("room", "itself")]


@pytest.mark.parametrize("topic", [
    "", "a b", "x" * 261, "é", "a*", "*", "a.*", "a\nb", "a\0b", "a,b", "a\\b", "user.", "a..b", ".a", "a.",
    b"\xff", b"user.\xff", "user.a\nb", "user." + "x" * 256,
], ids=brief)
async def test_a_malformed_topic_is_dropped(server, topic):
    channel = b"pub." + (topic if isinstance(topic, bytes) else topic.encode())
    admin = {"admin": True, "topics": ["*", "user.*"]}
    async with server.client("root", **admin) as admin, server.client("42") as bystander:
        server.publisher.command("PUBLISH", channel, "lost")
        assert await admin.heard() == []
        server.publish("news", "next")
        assert await bystander.heard() == [("news", "next")]


@pytest.mark.parametrize("topic", ["a", "x" * 260, "A-Z_0:9@b/c.d", "9", "user"], ids=brief)
async def test_a_well_formed_topic_arrives(server, topic):
    async with server.client("42", topics=[topic]) as client, server.client("43") as bystander:
        assert server.publish(topic, 1) == 1
        assert await client.heard() == [(topic, 1)]
        assert await bystander.heard() == []


async def test_a_channel_without_the_prefix_reaches_nobody(server):
    async with server.client("root", admin=True, topics=["*", "user.*"]) as client:
        for channel in ["news", "pubnews", "Pub.news", "pub", "xpub.news"]:
            server.publisher.command("PUBLISH", channel, "lost")
        assert await client.heard() == []


async def test_another_prefix_may_be_set(start):
    server = start("--prefix", "app:", "--topics", "news")
    async with server.client("42", topics=["pub.news"]) as client:
        assert server.publisher.command("PUBLISH", "app:news", 1) == 1
        server.publisher.command("PUBLISH", "pub.news", 2)
        message = await client.next()
        assert (message["topic"], message["data"]) == ("news", 1)
        assert server.publisher.command("PUBLISH", "app:user.42", 3) == 1
        assert (await client.next())["data"] == 3


async def test_messages_come_in_their_order_and_ids_rise(server):
    async with server.client("42", topics=["a", "b"]) as client, server.client("43") as bystander:
        sent = [("ab"[number % 2], number) for number in range(FLOOD)]
        for topic, number in sent:
            server.publish(topic, number)
        assert await client.heard() == sent  # Client.next checks the ids
        assert await bystander.heard() == []


async def test_two_connections_of_one_user_both_hear(server):
    async with server.client("42") as one, server.client("42") as two:
        assert server.publish("user.42", 1) == 2
        assert await one.heard() == [("user.42", 1)]
        assert (await two.heard())[0] == ("user.42", 1)


async def test_a_raw_route_sends_the_payload_alone(start):
    server = start("--format", "raw", "--topics", "news")
    async with server.dial(token()) as connection, server.dial(token("43")) as bystander:
        payloads = ['{"a": 1}', "plain", "", b"\xff\xfe", "end"]
        for payload in payloads:
            assert server.publish("user.42", payload) == 1
        assert [await connection.recv() for _ in payloads] == payloads
        await connection.send("ping")
        assert await connection.recv() == "pong"
        server.publish("news", "both")
        assert await connection.recv() == "both"
        assert await bystander.recv() == "both"


async def test_each_route_has_its_own_topics(start, tmp_path):
    config = tmp_path / "oneloop.toml"
    config.write_text(
        '[[route]]\npath = "/ws"\ntopics = ["news"]\n'
        '[[route]]\npath = "/raw"\nformat = "raw"\ntopics = ["ticks"]\n'
    )
    server = start("--config", config)
    async with server.client("42") as json_client, server.dial(token("7"), path="/raw") as raw:
        assert server.publish("news", 1) == 1
        assert server.publish("ticks", "t") == 1
        assert await raw.recv() == "t"
        assert await json_client.heard() == [("news", 1)]
