"""An identity provider in memory: its two documents, its keys, and the tokens it signs."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

ISSUER = "https://login.example/realms/lab"
KEYS_AT = f"{ISSUER}/keys"
CONFIGURATION = f"{ISSUER}/.well-known/openid-configuration"
AUDIENCE = "knit-cli"

Handler = Callable[[httpx.Request], httpx.Response]


def private_key(name: str, algorithm: str = "RS256", bits: int = 2048) -> Any:
    """A key pair; the same name gives the same one."""
    return _private_key(name, algorithm, bits)


@cache
def _private_key(name: str, algorithm: str, bits: int) -> Any:
    match algorithm[:2]:
        case "RS" | "PS":
            return rsa.generate_private_key(65537, bits)
        case "ES":
            curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
            return ec.generate_private_key(curves[algorithm])
    return ed25519.Ed25519PrivateKey.generate()


def public_jwk(name: str, algorithm: str = "RS256", bits: int = 2048, **more: Any) -> dict:
    """The public half as a JSON Web Key with the name as its id."""
    public = private_key(name, algorithm, bits).public_key()
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
    made.pop("key_ops", None)
    return {**made, "kid": name, "use": "sig", "alg": algorithm} | more


class Issuer:
    """Answers like an identity provider; `requests` are the URLs it was asked for."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.document: dict[str, Any] = {"issuer": ISSUER, "jwks_uri": KEYS_AT}
        self.keys: list[Any] = [public_jwk("one")]
        self.trouble: Handler | None = None
        self.now = 1000.0

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self.handle))

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(str(request.url))
        if self.trouble is not None:
            return self.trouble(request)
        if str(request.url) == CONFIGURATION:
            return httpx.Response(200, json=self.document)
        assert str(request.url) == KEYS_AT, request.url
        return httpx.Response(200, json={"keys": self.keys})

    @property
    def reads(self) -> int:
        """How often its keys were read."""
        return self.requests.count(KEYS_AT)


def claims(**more: Any) -> dict[str, Any]:
    """The claims of a valid token; None leaves one out."""
    now = int(time.time())
    usual = {
        "iss": ISSUER,
        "sub": "7f3c",
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + 300,
        "preferred_username": "ada",
        "groups": ["ml-team"],
    }
    return {name: value for name, value in {**usual, **more}.items() if value is not None}


def token(
    name: str = "one",
    algorithm: str = "RS256",
    *,
    head: dict[str, Any] | None = None,
    bits: int = 2048,
    **more: Any,
) -> str:
    """A token signed with the key of that name; `head` replaces parts of its head."""
    headers = {"kid": name, **(head or {})}
    headers = {key: value for key, value in headers.items() if value is not None}
    key = private_key(name, algorithm, bits)
    return jwt.encode(claims(**more), key, algorithm=algorithm, headers=headers)


def part(content: Any) -> str:
    """One part of a token as it is written, whatever it says."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(payload: Any, head: Any = None) -> str:
    """A token that its issuer has really signed, whatever it says."""
    text = f"{part(head or {'alg': 'RS256', 'kid': 'one'})}.{part(payload)}"
    return f"{text}.{part(private_key('one').sign(text.encode(), PKCS1v15(), SHA256()))}"


def forged(head: Any, payload: Any, signature: bytes = b"x" * 256) -> str:
    """A token of any parts."""
    return f"{part(head)}.{part(payload)}.{part(signature)}"
