"""Signed tokens: compact JWS (RFC 7515) with HMAC-SHA256, and no other algorithm.

A token names its key (`kid`). What is read from a token is not to be believed before `verify`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

ALGORITHM: Final = "HS256"
MAX_CHARS: Final = 8192
_KID: Final = re.compile(r"[ -~]{1,255}")


class BadToken(ValueError):
    """A text is not such a token, or its signature is not that of its key."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it was read; `signed` is the text that `signature` is of."""

    kid: str
    claims: Mapping[str, Any]
    signed: bytes
    signature: bytes


def sign(claims: Mapping[str, Any], *, kid: str, secret: bytes) -> str:
    """Makes a token."""
    header = {"alg": ALGORITHM, "kid": kid, "typ": "JWT"}
    signed = b".".join(_encoded(_json(part)) for part in (header, claims))
    return (signed + b"." + _encoded(_mac(signed, secret))).decode()


def read(text: str) -> Token:
    """Takes a token apart; raises BadToken if it is none, or of another algorithm."""
    parts = text.split(".")
    if len(text) > MAX_CHARS or len(parts) != 3:
        raise BadToken("it does not have the three parts of a JWS")
    header, claims = (_object(part) for part in parts[:2])
    if header.get("alg") != ALGORITHM:
        raise BadToken(f"its algorithm is not {ALGORITHM}")
    if "crit" in header:  # RFC 7515 §4.1.11: what is not understood must be refused
        raise BadToken("it has critical headers, which are not known here")
    kid = header.get("kid")
    # JSON can write what no database takes as text, such as NUL or half a character.
    if not (isinstance(kid, str) and _KID.fullmatch(kid)):
        raise BadToken("it does not name its key")
    signed = ".".join(parts[:2]).encode()
    return Token(kid, claims, signed, _decoded(parts[2]))


def verify(token: Token, secret: bytes) -> None:
    """Raises BadToken unless the token was signed with this key; compares in constant time."""
    if not hmac.compare_digest(token.signature, _mac(token.signed, secret)):
        raise BadToken("its signature is wrong")


def _mac(signed: bytes, secret: bytes) -> bytes:
    return hmac.new(secret, signed, hashlib.sha256).digest()


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _object(part: str) -> dict[str, Any]:
    try:
        value = json.loads(_decoded(part))
    except (ValueError, RecursionError) as error:
        raise BadToken("a part of it is not JSON") from error
    if not isinstance(value, dict):
        raise BadToken("a part of it is not a JSON object")
    return value


def _encoded(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _decoded(part: str) -> bytes:
    try:
        given = part.encode("ascii")
        raw = base64.b64decode(given + b"=" * (-len(given) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise BadToken("a part of it is not base64url") from error
    if _encoded(raw) != given:  # one token has one spelling
        raise BadToken("a part of it is not base64url")
    return raw
