"""Keys: each family accepts its own algorithms alone, and a previous key stays valid."""

import json
import re

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from helpers.process import oneloop
from helpers.tokens import FAMILIES, SECRET, hand_made, pem, private_key, signed, soon, token


@pytest.fixture
def serve(start, tmp_path):
    """A server with the given key file, and no secret."""
    def serve(content, flag="--jwt-key-file", *more):
        path = tmp_path / "key"
        path.write_text(content)
        return start(flag, path, *more, secret=None)
    return serve


@pytest.mark.parametrize("algorithm", FAMILIES)
async def test_a_public_key_takes_its_own_family_alone(serve, algorithm):
    server = serve(pem(algorithm))
    async with server.client("bystander", bearer=signed(algorithm, sub="bystander")) as bystander:
        async with server.client("42", bearer=signed(algorithm)) as client:
            server.publish("user.42", 1)
            assert await client.heard() == [("user.42", 1)]
        for foreign in FAMILIES:
            if foreign != algorithm:
                assert (await server.refusal(signed(foreign)))[0] == 401
        assert (await server.refusal(signed(algorithm, 1)))[0] == 401
        assert (await server.refusal(token()))[0] == 401
        assert await bystander.heard() == []


@pytest.mark.parametrize("algorithm", FAMILIES)
@pytest.mark.parametrize("variant", ["as it is", "stripped", "no newlines"])
async def test_the_public_key_is_no_secret(serve, algorithm, variant):
    text = pem(algorithm)
    server = serve(text)
    key = {"as it is": text, "stripped": text.strip(), "no newlines": text.replace("\n", "")}
    for name in ["HS256", "HS384", "HS512"]:
        forged = hand_made({"sub": "42", "exp": soon()}, {"alg": name}, key=key[variant])
        assert (await server.refusal(forged))[0] == 401
    unsigned = hand_made({"sub": "42", "exp": soon()}, {"alg": "none"}, sign=False)
    assert (await server.refusal(unsigned))[0] == 401
    # An algorithm of the family's name with a signature of another kind is no signature.
    forged = hand_made({"sub": "42", "exp": soon()}, {"alg": algorithm}, key=key[variant])
    assert (await server.refusal(forged))[0] == 401


async def test_a_key_set_is_chosen_from_by_kid(serve):
    keys = []
    for algorithm, (_, kind) in FAMILIES.items():
        key = json.loads(kind.to_jwk(private_key(algorithm, 0).public_key()))
        keys.append(key | {"kid": f"our {algorithm}", "alg": algorithm, "use": "sig"})
    server = serve(json.dumps({"keys": keys}), "--jwt-jwks-file")
    for algorithm in FAMILIES:
        bearer = signed(algorithm, headers={"kid": f"our {algorithm}"})
        async with server.client("42", bearer=bearer) as client:
            assert await client.heard() == []
        for kid in [f"our {other}" for other in FAMILIES if other != algorithm] + ["nobody's"]:
            assert (await server.refusal(signed(algorithm, headers={"kid": kid})))[0] == 401
    stranger = signed("ES256", 1, headers={"kid": "our ES256"})
    assert (await server.refusal(stranger))[0] == 401


async def test_few_keys_are_tried_with_a_token_that_names_none(serve, tmp_path):
    _, kind = FAMILIES["ES256"]
    keys = [json.loads(kind.to_jwk(private_key("ES256", number).public_key())) for number in range(5)]
    keys = [key | {"kid": str(number)} for number, key in enumerate(keys)]
    server = serve(json.dumps({"keys": keys}), "--jwt-jwks-file")
    told = "the JWKS file has 5 keys for ES256: tokens without `kid` are tried with the first 4"
    assert told in server.log()
    assert told in oneloop("--check", "--jwt-jwks-file", tmp_path / "key").stderr
    for good in [signed("ES256", 3), signed("ES256", 4, headers={"kid": "4"})]:
        async with server.client("42", bearer=good) as client:
            assert await client.heard() == []
    status, _, body = await server.refusal(signed("ES256", 4))
    assert status == 401 and "it needs a kid" in body
    status, _, body = await server.refusal(signed("ES256", 3, headers={"kid": "nobody's"}))
    assert status == 401 and "no key here has its kid" in body


async def test_a_previous_secret_stays_valid(start, tmp_path):
    old = "the secret of last year, which is also long enough"
    (tmp_path / "old").write_text(old + "\n")
    server = start("--jwt-previous-secret-file", tmp_path / "old")
    for secret in [SECRET, old]:
        async with server.client("42", bearer=token(secret=secret)) as client:
            assert await client.heard() == []
    strange = token(secret="a secret that was never ours, long as it may be")
    assert (await server.refusal(strange))[0] == 401


async def test_a_previous_public_key_stays_valid(serve, tmp_path):
    (tmp_path / "old").write_text(pem("ES256", 1))
    server = serve(pem("ES256"), "--jwt-key-file", "--jwt-previous-key-file", tmp_path / "old")
    for number in [0, 1]:
        async with server.client("42", bearer=signed("ES256", number)) as client:
            assert await client.heard() == []
    assert (await server.refusal(signed("ES256", 2)))[0] == 401


async def test_a_secret_from_a_file_is_the_line_in_it(start, tmp_path):
    (tmp_path / "secret").write_text(SECRET + "\n")
    server = start("--jwt-secret-file", tmp_path / "secret", secret=None)
    async with server.client("42") as client:
        assert await client.heard() == []


async def test_another_algorithm_of_the_family_may_be_named(start):
    server = start("--jwt-algorithms", "HS512")
    async with server.client("42", bearer=token(algorithm="HS512")) as client:
        assert await client.heard() == []
    assert (await server.refusal(token(algorithm="HS256")))[0] == 401


@pytest.mark.parametrize("secret", ["short", "x" * 31, ""])
def test_a_short_secret_is_a_settings_error(secret, tmp_path):
    (tmp_path / "secret").write_text(secret)
    for done in [
        oneloop("--listen", "127.0.0.1:0", "--jwt-secret-file", tmp_path / "secret"),
        oneloop("--listen", "127.0.0.1:0", ONELOOP_JWT_SECRET=secret),
    ]:
        assert done.returncode == 2
        assert "32" in done.stderr and "secret" in done.stderr.lower(), done.stderr


@pytest.mark.parametrize("flag, content", [
    ("--jwt-key-file", "not a key"),
    ("--jwt-key-file", ""),
    ("--jwt-jwks-file", "{}"),
    ("--jwt-jwks-file", '{"keys":[]}'),
    ("--jwt-jwks-file", "not JSON"),
])
def test_a_key_file_without_a_key_is_a_settings_error(flag, content, tmp_path):
    (tmp_path / "key").write_text(content)
    done = oneloop("--listen", "127.0.0.1:0", "--publishers", "127.0.0.1:0", flag, tmp_path / "key")
    assert done.returncode == 2
    assert re.search("key|JWKS", done.stderr), done.stderr


def test_a_private_key_file_is_refused(tmp_path):
    secret = private_key("ES256", 0).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption(),
    )
    (tmp_path / "key").write_bytes(secret)
    done = oneloop("--check", "--jwt-key-file", tmp_path / "key")
    assert done.returncode == 2 and "public" in done.stderr, done.stderr


def test_pyjwt_agrees_with_the_hand_made_tokens():
    """The forger of this suite makes valid tokens when it is given the right key."""
    claims = jwt.decode(hand_made({"sub": "42", "exp": soon()}), SECRET, algorithms=["HS256"])
    assert claims["sub"] == "42"
