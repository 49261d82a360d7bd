"""The text of knit's own tokens: how one is made, recognized, and what is kept of it.

`knit_`, then 43 base64url characters (256 random bits), then 6 of a checksum (CRC-32 of all before
it, in base 62, the most significant first). So scanners for secrets find one by
`knit_[A-Za-z0-9_-]{49}`, and can tell whether it is one without asking anybody.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from typing import Final

PREFIX: Final = "knit_"
SHOWN: Final = 12
"""How many characters of a token are kept for display."""

_FORM: Final = re.compile(r"knit_[A-Za-z0-9_-]{43}[A-Za-z0-9]{6}")
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CHECKSUM_CHARS: Final = 6


def new_token() -> str:
    """Makes a token that nobody can guess; the next call makes another."""
    body = PREFIX + secrets.token_urlsafe(32)
    return body + _checksum(body)


def is_token(text: str) -> bool:
    """Says whether a text has the form of a token of knit's, checksum included."""
    if _FORM.fullmatch(text) is None:
        return False
    return text[-_CHECKSUM_CHARS:] == _checksum(text[:-_CHECKSUM_CHARS])


def digest_of(token: str) -> str:
    """Gives what is kept of a token instead of it: its SHA-256, in hexadecimal."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def shown_prefix(token: str) -> str:
    """Gives the beginning by which its owner recognizes a token."""
    return token[:SHOWN]


def _checksum(text: str) -> str:
    rest = zlib.crc32(text.encode("ascii"))
    digits = ""
    for _ in range(_CHECKSUM_CHARS):
        rest, digit = divmod(rest, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
