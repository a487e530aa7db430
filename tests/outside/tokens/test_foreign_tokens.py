"""Tokens as other issuers make them, and the mistakes that people make with them: each is told by its own words."""

import time

import pytest
from helpers.tokens import issued, token, unsigned
from helpers.ws_client import closed

REFUSED = {
    "quotes": (lambda: f'"{token()}"', "signature", "quotes"),
    "the word Bearer": (lambda: f"Bearer {token()}", "signature", "Bearer"),
    "encrypted": (lambda: unsigned({"alg": "dir", "enc": "A128GCM"}, ".a.b.c.d"), "signature", "JWE"),
    "unsigned": (lambda: unsigned({"alg": "none"}, ".e30."), "signature", "never accepted"),
    "ES512": (lambda: unsigned({"alg": "ES512"}), "signature", "ES512"),
    "a numeric kid": (lambda: unsigned({"alg": "HS256", "kid": 7}), "signature", "kid"),
    "no alg": (lambda: unsigned({"typ": "JWT"}), "signature", "no alg"),
    "HS512": (lambda: token(algorithm="HS512"), "signature", "jwt.algorithms"),
    "two parts": (lambda: token().rpartition(".")[0], "signature", "three parts"),
    "another key": (lambda: token(secret="another secret that is long enough"), "signature", "another key"),
    "no sub": (lambda: token(None), "claims", "sub is missing"),
    "no exp": (lambda: issued(exp=None), "claims", "exp is missing"),
    "milliseconds": (lambda: issued(exp=int(time.time() * 1000) + 600_000), "claims", "milliseconds"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_each_mistake_is_told_by_its_own_words(start, name):
    make, reason, words = REFUSED[name]
    server = start()
    async with server.client("43") as bystander:
        bearer = make()
        async with server.dial(bearer, place="query") as connection:
            code, told = await closed(connection)
        assert (code, told["reason"]) == (4500, reason)
        assert words in told["detail"] and bearer.strip('"')[:20] not in told["detail"]
        assert await bystander.heard() == []


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n\r\n", " {} ", "\ufeff{}"], ids=["line", "lines", "blanks", "mark"])
async def test_what_stands_around_a_token_is_passed_over(start, around):
    server = start()
    async with server.client("42", bearer=around.format(token()), place="query") as client:
        assert server.publish("user.42", 1) == 1
        assert (await client.next())["data"] == 1


async def test_a_large_token_works_where_its_place_has_room(start):
    server = start("--head-bytes-max", "32KiB")
    large = token(roles=["a role with a long name"] * 500)
    assert 12_000 < len(large) < 32_000
    async with server.client("42", bearer=large) as client, server.client("43") as bystander:
        assert server.publish("user.42", 1) == 1
        assert (await client.next())["data"] == 1
        assert await bystander.heard() == []
    async with server.client("42", bearer=large, place="frame") as client:
        assert await client.heard() == []
