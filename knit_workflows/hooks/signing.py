"""Signs calls as Standard Webhooks 1.0 does, with one secret or, while they change, two."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from knit_workflows.hooks.failures import CallFailed, unreadable

_PREFIX: Final = "whsec_"
_MAX_SECRETS: Final = 2
_KEY_BYTES: Final = range(24, 65)
"""How long a key may be, by the specification."""


def read_secrets(path: Path) -> tuple[bytes, ...]:
    """Reads one or two secrets; blank lines and lines that begin with # do not count.

    Raises:
        CallFailed: the file cannot be read, or has no valid secrets; never shows a secret.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig", "replace").splitlines()
    except OSError as cause:
        raise unreadable("the file of secrets", path, cause) from cause
    secrets = [
        _key(line.strip(), path, number)
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.startswith("#")
    ]
    if not 1 <= len(secrets) <= _MAX_SECRETS:
        raise CallFailed(
            f"the file of secrets {path} has {len(secrets)} secrets; put one into it, or two while "
            "you change them"
        )
    return tuple(secrets)


def _key(text: str, path: Path, line: int) -> bytes:
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(_PREFIX) or len(key) not in _KEY_BYTES:
        raise CallFailed(
            f"line {line} of {path} is no secret: write {_PREFIX} and 24 to 64 bytes in base64, as "
            f"`echo {_PREFIX}$(openssl rand -base64 32)` makes it"
        )
    return key


def signature_headers(
    secrets: Sequence[bytes], delivery_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """Gives the three headers that sign a body, the very bytes that are sent.

    Args:
        secrets: the keys; there is one signature for each, in their order.
        delivery_id: by which a receiver knows that it has seen a message before.
        timestamp: when the call is made, in whole seconds since 1970 in UTC.
        body: what is sent.
    """
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    signatures = [
        "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
        for key in secrets
    ]
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
