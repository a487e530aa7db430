"""Tokens, good and bad ones, and the key families that sign them."""

import base64
import functools
import hashlib
import hmac
import json
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

SECRET = "the secret of the outside tests, long enough even for HS512: 0123456789"

ALGORITHMS = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}

FAMILIES = {
    "RS256": (lambda: rsa.generate_private_key(65537, 2048), RSAAlgorithm),
    "ES256": (lambda: ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate, OKPAlgorithm),
}


def token(sub="42", *, secret=SECRET, algorithm="HS256", headers=None, seconds=600, **claims):
    """A token of user `sub` that expires in `seconds`; a claim that is None is left out."""
    claims = {"sub": sub, "exp": int(time.time()) + seconds, **claims}
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, secret, algorithm=algorithm, headers=headers)


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def soon():
    return int(time.time()) + 600


def hand_made(claims, header=None, key=SECRET, sign=True):
    """A token of exactly these claims (JSON text or an object), signed by hand."""
    header = {"alg": "HS256", "typ": "JWT"} | (header or {})
    claims = claims if isinstance(claims, str) else json.dumps(claims)
    text = f"{encode(json.dumps(header).encode())}.{encode(claims.encode())}"
    if not sign:
        return text + "."
    digest = ALGORITHMS.get(header["alg"], hashlib.sha256)
    return f"{text}.{encode(hmac.digest(key.encode(), text.encode(), digest))}"


@functools.cache
def private_key(algorithm, number):
    return FAMILIES[algorithm][0]()


def pem(algorithm, number=0):
    return private_key(algorithm, number).public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo,
    ).decode()


def signed(algorithm, number=0, sub="42", **options):
    return token(sub, secret=private_key(algorithm, number), algorithm=algorithm, **options)


def issued(header=None, **claims):
    """A token of exactly these claims, good for ten minutes; one that is None is left out."""
    claims = {"sub": "42", "exp": soon()} | claims
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, SECRET, headers=header)


def unsigned(header, rest=".e30.AAAA"):
    """This header with claims and a signature that nobody made."""
    return encode(json.dumps(header).encode()) + rest
