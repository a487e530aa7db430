"""Tokens that must not pass, and good tokens that must not reveal more than they say."""

import json
import random
import string
import time
from urllib.parse import quote

import pytest
from helpers.process import brief
from helpers.raw_client import TEXT, Raw, frame, head
from helpers.server import Server
from helpers.tokens import encode, hand_made, soon, token
from helpers.ws_client import closed


def with_claims(**claims):
    return hand_made({"sub": "42", "exp": soon()} | claims)


def without(name):
    claims = {"sub": "42", "exp": soon()}
    del claims[name]
    return hand_made(claims)


def tampered():
    first, _, last = token("42").split(".")
    return ".".join([first, encode(json.dumps({"sub": "1", "exp": soon()}).encode()), last])


ATTACKS = {
    "none": lambda: hand_made({"sub": "42", "exp": soon()}, {"alg": "none"}, sign=False),
    "None": lambda: hand_made({"sub": "42", "exp": soon()}, {"alg": "None"}, sign=False),
    "none, signed": lambda: hand_made({"sub": "42", "exp": soon()}, {"alg": "none"}),
    "no signature": lambda: token().rpartition(".")[0] + ".",
    "another's claims": tampered,
    "HS384 not named": lambda: hand_made({"sub": "42", "exp": soon()}, {"alg": "HS384"}),
    "HS512 not named": lambda: hand_made({"sub": "42", "exp": soon()}, {"alg": "HS512"}),
    "alg null": lambda: hand_made({"sub": "42", "exp": soon()}, {"alg": None}),
    "alg a number": lambda: hand_made({"sub": "42", "exp": soon()}, {"alg": 1}),
    "crit": lambda: hand_made({"sub": "42", "exp": soon()}, {"crit": ["x"], "x": 1}),
    "crit, b64": lambda: hand_made({"sub": "42", "exp": soon()}, {"crit": ["b64"], "b64": True}),
    "crit, empty": lambda: hand_made({"sub": "42", "exp": soon()}, {"crit": []}),
    "expired": lambda: with_claims(exp=int(time.time()) - 60),
    "exp at the epoch": lambda: with_claims(exp=0),
    "exp negative": lambda: with_claims(exp=-1),
    "exp text": lambda: with_claims(exp=str(soon())),
    "exp null": lambda: with_claims(exp=None),
    "no exp": lambda: without("exp"),
    "not yet": lambda: with_claims(nbf=int(time.time()) + 300),
    "nbf text": lambda: with_claims(nbf="tomorrow"),
    "no sub": lambda: without("sub"),
    "sub null": lambda: with_claims(sub=None),
    "sub empty": lambda: with_claims(sub=""),
    "sub float": lambda: with_claims(sub=42.5),
    "sub integral float": lambda: hand_made('{"sub":42.0,"exp":%d}' % soon()),
    "sub exponent": lambda: hand_made('{"sub":42e0,"exp":%d}' % soon()),
    "sub true": lambda: with_claims(sub=True),
    "sub array": lambda: with_claims(sub=["42"]),
    "sub object": lambda: with_claims(sub={"id": "42"}),
    "sub 256 bytes": lambda: with_claims(sub="x" * 256),
    "sub 256 bytes in 128 letters": lambda: with_claims(sub="ü" * 128),
    "sub newline": lambda: with_claims(sub="42\n"),
    "sub NUL": lambda: with_claims(sub="42\0"),
    "sub DEL": lambda: with_claims(sub="42\x7f"),
    "sub twice": lambda: hand_made('{"sub":"1","sub":"42","exp":%d}' % soon()),
    "exp twice": lambda: hand_made('{"sub":"42","exp":1,"exp":%d}' % soon()),
    "admin twice": lambda: hand_made('{"sub":"42","admin":false,"admin":true,"exp":%d}' % soon()),
    "topics twice": lambda: hand_made('{"sub":"42","topics":[],"topics":["*"],"exp":%d}' % soon()),
    "topics a text": lambda: with_claims(topics="news"),
    "topics of numbers": lambda: with_claims(topics=[1]),
    "a malformed grant in topics": lambda: with_claims(topics=["room.*.chat"]),
    "a malformed grant in may": lambda: with_claims(may=["a b"]),
    "admin a text": lambda: with_claims(admin="true"),
    "admin a number": lambda: with_claims(admin=1),
    "admin a list": lambda: with_claims(admin=[True]),
    "claims an array": lambda: hand_made("[]"),
    "claims no JSON": lambda: hand_made("sub=42"),
    "one part": lambda: "garbage",
    "dots": lambda: "..",
    "four parts": lambda: token() + ".x",
    "not base64": lambda: "!.!.!",
    "padded": lambda: token() + "==",
}


@pytest.fixture(scope="module")
def shared():
    """A server for the whole table: an attack may not harm it either."""
    server = Server("--topics", "news", "--jwt-leeway-seconds", "0", "--head-bytes-max", "16384")
    yield server
    server.stop()


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_is_refused_in_every_place(shared, name):
    attack = ATTACKS[name]()
    async with shared.client("42") as bystander:
        status, _, body = await shared.refusal(attack)
        assert status == 401 and isinstance(json.loads(body), dict), body
        async with shared.dial(attack, place="query") as connection:
            assert (await closed(connection))[0] == 4500
        async with shared.dial() as connection:
            await connection.send(json.dumps({"op": "auth", "token": attack}))
            assert (await closed(connection))[0] == 4500
        assert await bystander.heard() == []


def random_token(seed):
    """Any visible characters, parts that look like a token's, or a good token with some changed."""
    chance = random.Random(seed)
    letters = string.ascii_letters + string.digits + "-_"
    match seed % 4:
        case 0:
            visible = "".join(chr(code) for code in range(0x21, 0x7F))
            return "".join(chance.choices(visible, k=chance.randint(1, 300)))
        case 1:
            lengths = [chance.randint(0, 80) for _ in range(chance.randint(1, 5))]
            return "x" + ".".join("".join(chance.choices(letters, k=length)) for length in lengths)
        case 2:
            parts = [encode(chance.randbytes(chance.randint(0, 60))) for _ in range(3)]
            return ".".join(["x", *parts][chance.randint(0, 1):]) or "."
    good = token()
    at = chance.randrange(len(good))
    other = chance.choice([letter for letter in letters + "." if letter != good[at]])
    return good[:at] + other + good[at + 1:]


async def test_a_thousand_random_tokens_are_refused_without_harm(shared):
    async with shared.client("42") as bystander:
        before = shared.resident_kilobytes()
        for seed in range(1000):
            attack = random_token(seed)
            match seed // 4 % 3:
                case 0:
                    with Raw(shared) as raw:
                        raw.send(head(shared, bearer=attack))
                        assert raw.answer()[0] == 401, (seed, attack)
                case 1:
                    with Raw(shared) as raw:
                        raw.send(head(shared, f"/ws?token={quote(attack)}"))
                        assert raw.answer()[0] == 101, (seed, attack)
                        assert raw.close_code() == 4500, (seed, attack)
                case 2:
                    with Raw(shared) as raw:
                        command = json.dumps({"op": "auth", "token": attack})
                        raw.send(head(shared) + frame(TEXT, command))
                        assert raw.answer()[0] == 101, (seed, attack)
                        assert raw.close_code() == 4500, (seed, attack)
        assert shared.resident_kilobytes() < before + 1024
        assert await bystander.heard() == []


@pytest.mark.parametrize("name, claims", [
    ("no aud", {"iss": "shop"}),
    ("another aud", {"aud": "mail", "iss": "shop"}),
    ("aud a number", {"aud": 1, "iss": "shop"}),
    ("aud null", {"aud": None, "iss": "shop"}),
    ("aud an empty list", {"aud": [], "iss": "shop"}),
    ("no iss", {"aud": "push"}),
    ("another iss", {"aud": "push", "iss": "shop2"}),
    ("iss a number", {"aud": "push", "iss": 1}),
    ("iss null", {"aud": "push", "iss": None}),
])
async def test_audience_and_issuer_are_required_where_configured(start, name, claims):
    server = start("--jwt-audience", "push", "--jwt-issuer", "shop")
    async with server.client("42", aud="push", iss="shop") as bystander:
        status, _, body = await server.refusal(with_claims(**claims))
        assert status == 401 and "claims" in body, body
        async with server.client("42", aud=["mail", "push"], iss="shop") as listed:
            assert await listed.heard() == []
        assert len(await bystander.heard()) == 1  # the marker of the other, the same user


async def test_huge_tokens_are_refused_by_the_bounds_they_hit(start):
    server = start()
    huge = with_claims(filler="x" * 100_000)
    async with server.client("42") as bystander:
        assert (await server.refusal(huge))[0] == 431
        assert (await server.refusal(huge, place="query"))[0] == 431
        async with server.dial() as connection:
            await connection.send(json.dumps({"op": "auth", "token": huge}))
            assert (await closed(connection))[0] == 1009
        assert await bystander.heard() == []


async def test_a_huge_bad_token_within_the_bounds_is_refused(start):
    server = start("--message-bytes-max", 200_000)
    async with server.dial() as connection:
        bad = hand_made({"sub": "42", "exp": soon(), "filler": "x" * 100_000}, key="x" * 40)
        await connection.send(json.dumps({"op": "auth", "token": bad}))
        assert (await closed(connection))[0] == 4500


async def test_an_integer_sub_counts_as_its_digits(server):
    async with server.client("43") as bystander, server.client(42) as client:
        assert client.welcome["sub"] == "42"
        server.publish("user.42", 1)
        assert await client.heard() == [("user.42", 1)]
        assert await bystander.heard() == []


@pytest.mark.parametrize("sub", ["x" * 255, "ü" * 127, "jörg müller/1.2", "a.b", "用户", "*", "0"], ids=brief)
async def test_any_printable_sub_hears_its_own(server, sub):
    async with server.client("bystander") as bystander, server.client(sub) as client:
        assert client.welcome["sub"] == sub
        assert server.publish(f"user.{sub}", 1) == 1
        assert await client.heard() == [(f"user.{sub}", 1)]
        assert await bystander.heard() == []


@pytest.mark.parametrize("sub", [
    "4", "42.", "42.x", "*", "421", "4*", ".", "42 ", "０４２", "042",
], ids=brief)
async def test_a_similar_user_hears_nothing(server, sub):
    async with server.client("42") as owner, server.client(sub) as other:
        assert server.publish("user.42", "secret") == 1
        assert await other.heard() == []
        assert await owner.heard() == [("user.42", "secret")]


@pytest.mark.parametrize("grant", ["*", "user.*", "user.42", "user"])
@pytest.mark.parametrize("claim", ["topics", "may"])
async def test_no_grant_opens_another_users_topic(server, grant, claim):
    async with server.client("42") as owner, server.client("7", **{claim: [grant]}) as other:
        if claim == "may":
            for topic in [grant, "user.42", "user.*", "*"]:
                await other.ask(op="subscribe", topic=topic)
        for topic in ["user.42", "user.42.x", "user."]:
            server.publish(topic, "secret")
        assert await other.heard() == []
        assert await owner.heard() == [("user.42", "secret")]


@pytest.mark.parametrize("grants", [["*"], ["user.*"], ["user.42"], ["*", "user.*", "user.42"]])
async def test_an_admin_hears_what_its_grants_cover(server, grants):
    async with server.client("42") as owner, server.client("bystander") as bystander:
        async with server.client("root", admin=True, topics=grants) as admin:
            assert server.publish("user.42", "seen") == 2
            assert await admin.heard() == [("user.42", "seen")]
        assert await owner.heard() == [("user.42", "seen")]
        assert await bystander.heard() == []
