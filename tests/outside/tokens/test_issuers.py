"""Identity as other issuers make it: Keycloak by two host names and with new keys, Django's and .NET's claims, long ids."""

import asyncio
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from helpers.process import eventually, oneloop
from helpers.raw_client import TEXT, Raw, head
from helpers.server import counter
from helpers.tokens import SECRET, token
from helpers.ws_client import closed

KEY = {"ONELOOP_JWT_SECRET": SECRET}


def signed(sub=None, **claims):
    """A token of just these claims and an end."""
    return token(sub, **claims)


def keycloak(key, host, kid="k1", **claims):
    """An access token as a realm issues it to users of this host name."""
    now = int(time.time())
    claims = {
        "exp": now + 300, "iat": now, "jti": "onrtac:5f0e", "iss": f"https://{host}/realms/shop", "aud": "account",
        "sub": "f:0a1b2c3d-4e5f:jörg", "typ": "Bearer", "azp": "shop-web", "acr": "1",
        "realm_access": {"roles": ["offline_access", "user"]}, "scope": "openid profile", **claims,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm="RS256", headers={"kid": kid})


@pytest.fixture(scope="module")
def realm():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def key_set(**keys):
    """A JWKS of these keys, by their `kid`."""
    publics = {kid: json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())) for kid, key in keys.items()}
    return json.dumps({"keys": [public | {"kid": kid, "use": "sig", "alg": "RS256"} for kid, public in publics.items()]})


@pytest.fixture
def jwks(realm, tmp_path):
    file = tmp_path / "jwks.json"
    file.write_text(key_set(k1=realm))
    return file


async def hears_its_own(server, sub, bystander, **options):
    async with server.client(sub, **options) as client:
        assert client.welcome["sub"] == sub
        assert server.publish(f"user.{sub}", "own") == 1
        assert await client.heard() == [(f"user.{sub}", "own")]
        assert await bystander.heard() == []


async def test_one_keycloak_by_two_host_names(start, realm, jwks, tmp_path):
    config = tmp_path / "oneloop.toml"
    config.write_text(
        f'[jwt]\njwks_file = "{jwks}"\naudience = ["push", "account"]\n'
        'issuer = ["https://id.example.com/realms/shop", "https://keycloak.internal:8443/realms/shop"]\n'
    )
    server = start("--config", config, key=False)
    hosts = ["id.example.com", "keycloak.internal:8443"]
    async with server.client("7", bearer=keycloak(realm, hosts[0], sub="7")) as bystander:
        for host in hosts:
            for aud in ["account", ["mail", "push"]]:
                bearer = keycloak(realm, host, aud=aud)
                await hears_its_own(server, "f:0a1b2c3d-4e5f:jörg", bystander, bearer=bearer)
        for host, claims, named in [
            ("evil.example.com", {}, "jwt.issuer"),
            (",".join(hosts), {}, "jwt.issuer"),
            (hosts[0], {"iss": None}, "jwt.issuer"),
            (hosts[0], {"aud": "mail"}, "jwt.audience"),
            (hosts[1], {"aud": []}, "jwt.audience"),
        ]:
            status, _, body = await server.refusal(keycloak(realm, host, **claims))
            told = json.loads(body)
            assert status == 401 and told["reason"] == "claims" and named in told["detail"], told
        assert await bystander.heard() == []


async def test_new_keys_of_a_realm_count_without_a_signal(start, realm, jwks):
    server = start("--jwt-jwks-file", jwks, key=False)
    newer = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def by_newer():
        return keycloak(newer, "id.example.com", kid="k2", sub="42")

    async with server.client("7", bearer=keycloak(realm, "id.example.com", sub="7")) as bystander:
        assert (await server.refusal(by_newer()))[0] == 401
        # A fetch that failed leaves a page of HTML, or half of a file.
        for bad in ["<html>", '{"keys":[]}', '{"keys":[{"kty":"oct","k":"AAAA"}]}']:
            jwks.write_text(bad)
            refusals = counter(server, "reloads_refused_total") + 1
            await asyncio.to_thread(
                eventually, lambda: counter(server, "reloads_refused_total") == refusals, "it is reported")
        await hears_its_own(server, "42", bystander, bearer=keycloak(realm, "id.example.com", sub="42"))
        assert server.log().count("the keys stay as they were: jwt.jwks_file: ") == 3
        beside = jwks.with_suffix(".new")
        beside.write_text(key_set(k1=realm, k2=newer))
        beside.rename(jwks)
        await asyncio.to_thread(server.wait_for_log, "changed: jwt.jwks_file, which was read again")
        await hears_its_own(server, "42", bystander, bearer=by_newer())
        await hears_its_own(server, "42", bystander, bearer=keycloak(realm, "id.example.com", sub="42"))
        # An unrelated reload keeps the keys, and the watch.
        server.signal(1)
        await asyncio.to_thread(server.wait_for_log, "the settings were read again: nothing changed")
        jwks.write_text(key_set(k2=newer))
        changes = "changed: jwt.jwks_file, which was read again"
        await asyncio.to_thread(eventually, lambda: server.log().count(changes) == 2, "it is read once more")
        assert (await server.refusal(keycloak(realm, "id.example.com")))[0] == 401
        assert counter(server, "reloads_total") == 3
        assert await bystander.heard() == []


@pytest.mark.parametrize("claim, value, sub", [
    ("user_id", 42, "42"),
    ("nameid", "0b1c-77", "0b1c-77"),
    ("http://schemas.xmlsoap.org/ws/2005/05/identity/claims/nameidentifier", "42", "42"),
], ids=["Django", ".NET", "WS-Federation"])
async def test_the_user_stands_in_another_claim(start, claim, value, sub):
    server = start("--jwt-user-claim", claim)
    async with server.client("7", bearer=signed(**{claim: "7"})) as bystander:
        bearer = signed(**{claim: value, "sub": "7", "token_type": "access"})
        for place in ["header", "subprotocol", "frame"]:
            await hears_its_own(server, sub, bystander, bearer=bearer, place=place)
        for wrong in [{"sub": sub}, {claim: None}, {claim: [value]}, {claim: 4.2}]:
            status, _, body = await server.refusal(signed(**wrong))
            told = json.loads(body)
            assert status == 401 and told["reason"] == "claims", told
            assert told["detail"].startswith(f"{claim} "[:60]), told
        # A renewal is by the same claim.
        async with server.client(sub, bearer=bearer) as client:
            assert (await client.ask(op="auth", token=bearer))["op"] == "authed"
            await client.send(op="auth", token=signed(**{claim: "7"}))
            code, told = await client.closed()
            assert code == 4500 and told["detail"].startswith("a renewal must keep "), told
        assert await bystander.heard() == []


async def test_what_is_printed_names_the_user_as_the_server_wants(start):
    server = start("--jwt-user-claim", "user_id", "--jwt-issuer", "a,b", "--jwt-audience", "push,mail")
    flags = ["--jwt-user-claim", "user_id", "--jwt-issuer", "b,a", "--jwt-audience", "mail"]
    printed = oneloop("token", "--sub", "42", *flags, **KEY).stdout.strip()
    claims = jwt.decode(printed, options={"verify_signature": False})
    assert claims["user_id"] == "42" and "sub" not in claims
    assert (claims["iss"], claims["aud"]) == ("b", "mail")
    async with server.client("7", bearer=signed(user_id="7", iss="a", aud="push")) as bystander:
        await hears_its_own(server, "42", bystander, bearer=printed)


@pytest.mark.parametrize("flags, words", [
    (["--jwt-user-claim", "exp"], ["jwt.user_claim", '"exp"']),
    (["--jwt-user-claim", ""], ["jwt.user_claim", "empty"]),
    (["--jwt-issuer", ""], ["jwt.issuer", "empty"]),
    (["--jwt-audience", "a,,b"], ["jwt.audience", "empty entry"]),
])
def test_wrong_settings_are_told(flags, words):
    done = oneloop("--check", *flags, **KEY)
    assert done.returncode == 2 and all(word in done.stderr for word in words), done.stderr


async def test_issuers_change_while_it_serves(start, tmp_path):
    config = tmp_path / "oneloop.toml"
    config.write_text('jwt.issuer = "a"\n')
    server = start("--config", config)
    assert (await server.refusal(token(iss="b")))[0] == 401
    config.write_text('jwt = { issuer = ["a", "b"], user_claim = "user_id" }\n')
    server.signal(1)
    server.wait_for_log("changed: jwt.issuer")
    server.wait_for_log("changed: jwt.user_claim")
    async with server.client("7", bearer=signed(user_id=7, iss="a")) as bystander:
        await hears_its_own(server, "42", bystander, bearer=signed(user_id=42, iss="b"))


LONGEST = ["x" * 255, "ü" * 127 + "y", "https://login.example.com/" + "0" * 229]


@pytest.mark.parametrize("sub", LONGEST, ids=["letters", "two bytes each", "an address"])
async def test_an_id_of_255_bytes_is_served_whole(start, sub):
    server = start("--control", "ctl")
    twin = sub[:-1] + "z"
    async with server.client(twin) as bystander:
        for place in ["header", "query", "frame"]:
            await hears_its_own(server, sub, bystander, place=place)
        async with server.client(sub) as client:
            since = client.welcome["id"]
            assert server.publish(f"user.{sub}", "first") == 1
            assert await client.heard() == [(f"user.{sub}", "first")]
        # It comes back, and is told what it missed from the history.
        assert server.publish(f"user.{sub}", "missed") == 0
        async with server.client(sub, since=since) as client:
            assert client.welcome["resumed"] is True
            heard = [(topic, data) for topic, data in await client.heard() if not isinstance(data, dict)]
            assert heard == [(f"user.{sub}", "first"), (f"user.{sub}", "missed")]
            order = json.dumps({"op": "kick", "sub": sub})
            assert server.publisher.command("PUBLISH", "ctl", order) == 1
            assert (await client.closed())[0] == 4504
        assert await bystander.heard() == []
    assert oneloop("token", "--sub", sub, **KEY).returncode == 0


async def test_a_topic_of_260_bytes_is_heard(start):
    server = start("--may", "room.*")
    topic, longer = "room." + "7" * 255, "room." + "7" * 256
    async with server.client("42") as client, server.client("43") as bystander:
        assert (await client.ask(op="subscribe", topic=topic))["op"] == "subscribed"
        assert (await client.ask(op="subscribe", topic=longer))["code"] == "bad_topic"
        assert server.publish(topic, 1) == 1
        assert await client.heard() == [(topic, 1)]
        assert await bystander.heard() == []


DATES = {
    "exp in milliseconds": ({"exp": 1000}, "exp is in milliseconds"),
    "exp in microseconds": ({"exp": 1_000_000}, "exp is in microseconds"),
    "nbf in milliseconds": ({"nbf": 1000}, "nbf is in milliseconds"),
    "nbf in nanoseconds": ({"nbf": 1_000_000_000}, "nbf is in nanoseconds"),
}


@pytest.mark.parametrize("name", DATES)
async def test_a_date_in_another_unit_is_refused_and_shown(server, name):
    wrong, words = DATES[name]
    now = int(time.time())
    dates = {"iat": now - 60, "exp": now + 590} | {claim: (now + 590) * factor for claim, factor in wrong.items()}
    bearer = signed("42", **dates)
    async with server.client("43") as bystander:
        status, _, body = await server.refusal(bearer)
        assert status == 401 and json.loads(body)["detail"] == f"{words}: it must be in seconds"
        assert await bystander.heard() == []
    done = oneloop("explain", bearer, "news", **KEY)
    verdict, user, *shown = done.stdout.splitlines()
    assert verdict == f"no: the token is refused (claims): {words}: it must be in seconds" and user == "sub  42"
    assert [line[:3] for line in shown] == [claim for claim in ["iat", "nbf", "exp"] if claim in dates]
    # Told as the date that was meant.
    year, (claim, unit) = time.strftime("%Y", time.gmtime(now + 590)), words.split(" is in ")
    line = next(line for line in shown if line.startswith(claim))
    assert line.startswith(f"{claim}  {year}-") and line.endswith(f"if it were in seconds: it is in {unit}"), line
    assert "ago" in shown[0] and done.returncode == 1


async def test_iat_is_shown_and_not_judged(server):
    bearer = signed("42", iat=int(time.time() * 1000))
    async with server.client("43") as bystander:
        await hears_its_own(server, "42", bystander, bearer=bearer)
    shown = oneloop("explain", bearer, "user.42", **KEY).stdout
    assert shown.startswith("yes: ") and "if it were in seconds: it is in milliseconds\nexp" in shown, shown


def test_explain_names_the_claim_of_the_user():
    shown = oneloop("explain", signed("7", user_id=42), "user.42", "--jwt-user-claim", "user_id", **KEY)
    assert shown.returncode == 0 and "\nuser_id  42\nexp      20" in shown.stdout, shown.stdout
    foreign = oneloop("explain", token(secret="z" * 40), "news", **KEY)
    assert foreign.stdout.count("\n") == 1, "nothing is shown of what nobody here signed"


OURS, FOREIGN = "https://shop.example.com", "https://evil.example.com"
WITH_COOKIE = ["--jwt-cookie", "session", "--origins", OURS, "--auth-seconds", "1"]


def of_page(cookie, origin):
    return {"headers": {"Cookie": cookie}, "origin": origin}


@pytest.mark.parametrize("cookie", [
    "session={}", 'session="{}"', "theme=dark; session={}; lang=de", "session=; session={}", "name=j\u00f6rg; session={}",
], ids=["alone", "in quotes", "among others", "behind an empty one", "beside one that is not ASCII"])
@pytest.mark.parametrize("origin", [OURS, None], ids=["our page", "no page"])
async def test_a_token_in_the_cookie_is_taken(start, cookie, origin):
    server = start(*WITH_COOKIE)
    async with server.client("43") as bystander:
        async with server.dial(**of_page(cookie.format(token("42")), origin)) as connection:
            client = await server.enter(connection, "42")
            assert client.welcome["sub"] == "42"
            assert server.publish("user.42", 1) == 1
            assert await client.heard() == [("user.42", 1)]
        assert await bystander.heard() == []


async def test_the_cookie_of_a_foreign_page_counts_nowhere(start):
    server = start(*WITH_COOKIE)
    cookie = f"session={token('42')}"
    async with server.client("43") as bystander:
        async with server.dial(**of_page(cookie, FOREIGN)) as connection:
            assert (await closed(connection))[0] == 4505
        for origin in ["null", "file://", FOREIGN + "\r\nOrigin: " + OURS]:
            with Raw(server) as raw:
                raw.send(head(server, extra=[f"Origin: {origin}", f"Cookie: {cookie}"]))
                assert raw.answer()[0] == 101 and raw.close_code() == 4505
        # A token in the header lets in any origin, and speaks for its own user.
        foreign = {"Cookie": cookie, "Authorization": f"Bearer {token('7')}"}
        async with server.dial(headers=foreign, origin=FOREIGN) as connection:
            client = await server.enter(connection, "7")
            assert client.welcome["sub"] == "7"
            assert server.publish("user.42", "secret") == 0
            assert await client.heard() == []
        status, _, _ = await server.refusal("garbage", headers={"Cookie": cookie}, origin=FOREIGN)
        assert status == 401
        assert await bystander.heard() == []


async def test_of_several_cookies_the_first_counts(start):
    server = start(*WITH_COOKIE)
    async with server.client("43") as bystander:
        first, second = (f"Cookie: session={token(sub)}" for sub in ["42", "7"])
        for extra in [[first, second], ["Cookie: a=b", first], [f"{first}; {second.removeprefix('Cookie: ')}"]]:
            with Raw(server) as raw:
                raw.send(head(server, extra=extra))
                assert raw.answer()[0] == 101
                opcode, welcome = raw.frame()
                assert opcode == TEXT and json.loads(welcome)["sub"] == "42"
        # Other places come before it.
        async with server.dial(token("7"), place="query", **of_page(f"session={token('42')}", OURS)) as connection:
            assert (await server.enter(connection, "7")).welcome["sub"] == "7"
        assert await bystander.heard() == []


@pytest.mark.parametrize("cookie, code, words", [
    ("session=T", 4500, "three parts"),
    ("theme=dark", 4501, "no cookie counts here"),
    ("Session=T", 4501, "no cookie counts here"),
])
async def test_a_cookie_that_is_no_token_is_told_by_a_close_code(start, cookie, code, words):
    server = start(*WITH_COOKIE)
    async with server.client("43") as bystander:
        async with server.dial(**of_page(cookie, OURS)) as connection:
            told = await closed(connection)
            assert told[0] == code and words in told[1]["detail"], told
        assert await bystander.heard() == []


def test_a_cookie_beside_any_origin_is_an_error():
    done = oneloop("--check", "--jwt-cookie", "session", "--origins", "*", **KEY)
    assert done.returncode == 2 and "jwt.cookie (--jwt-cookie) and origins (--origins) = *: browsers send" in done.stderr
    assert oneloop("--check", *WITH_COOKIE, **KEY).returncode == 0
