"""The signing keys of an OpenID Connect provider: found by discovery, kept, and read again."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from knit_workflows.domain.accounts.secure_urls import fault_of_url
from knit_workflows.domain.errors import Unavailable

log = logging.getLogger(__name__)

KEYS_OF: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    **{f"{family}{bits}": ("RSA", ()) for family in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": ("EC", ("P-256",)),
    "ES384": ("EC", ("P-384",)),
    "ES512": ("EC", ("P-521",)),
    "EdDSA": ("OKP", ("Ed25519", "Ed448")),
}
"""The signatures that are believed: algorithm → type of the key, and its curves (none: any).

All are public-key ones. With those of shared secrets (HS256, …), whoever knows the public key
could sign, and `none` is no signature.
"""

FRESH_SECONDS: Final = 600.0
"""For how long keys are used without another look."""
WAIT_SECONDS: Final = 2 * FRESH_SECONDS
"""From which age on keys are used only after another look, for which the request waits.

So soon a key that was taken back is refused, however seldom somebody calls.
"""
STALE_SECONDS: Final = 24 * 3600.0
"""For how long keys are used while the provider does not answer."""
AWAY_SECONDS: Final = 60.0
"""How long after an attempt that failed nobody waits for another."""
PAUSE_SECONDS: Final = 10.0
"""How long after the keys were read they are not read again, whatever tokens ask for."""
FAILURE_PAUSE_SECONDS: Final = 2.0
"""The same after an attempt that failed."""
_FETCH_SECONDS: Final = 5.0
_MAX_BYTES: Final = 1 << 20
_MIN_RSA_BITS: Final = 2048

Key = Mapping[str, Any]


class IssuerKeys:
    """Finds the public keys of one issuer, reading them over HTTP when that is necessary.

    Any number of callers wait for one request; `clock` gives seconds that only grow.
    """

    def __init__(
        self,
        issuer: str,
        http: httpx.AsyncClient,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._http = http
        self._clock = clock
        self._keys: Sequence[Key] = ()
        self._loaded: dict[tuple[str | None, str], jwt.PyJWK] = {}
        self._read_at: float | None = None
        self._next_read = clock()
        self._failure = ""
        self._failed_at = -math.inf
        self._lock = asyncio.Lock()
        self._background: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """Gives the key of that id (None: the only one there is) for that algorithm of KEYS_OF.

        None: the issuer has no such key.

        Raises:
            Unavailable: the keys cannot be read, so that nobody can tell.
        """
        found = self._usable(kid, algorithm)
        if found is None or self._must_wait():
            await self._read_again()
            found = self._usable(kid, algorithm)
        elif self._age() > FRESH_SECONDS and (self._background is None or self._background.done()):
            self._background = asyncio.create_task(self._read_again())  # nobody waits for it
        if found is None and self._failure:
            raise Unavailable(
                f"the identity provider {self._issuer} cannot be asked: {self._failure}",
                advice="try again in some seconds; tokens of knit's own work meanwhile",
            )
        return found

    async def aclose(self) -> None:
        """Ends a request that is under way."""
        if self._background is not None:
            self._background.cancel()
            with suppress(asyncio.CancelledError):
                await self._background

    def _must_wait(self) -> bool:
        # While the provider hangs, only some requests may wait for that: others would time out.
        is_away = self._clock() - self._failed_at < AWAY_SECONDS
        return self._age() > WAIT_SECONDS and not is_away

    def _age(self) -> float:
        return math.inf if self._read_at is None else self._clock() - self._read_at

    def _usable(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        if self._age() > STALE_SECONDS:
            return None
        known = self._loaded.get((kid, algorithm))
        if known is not None:
            return known
        matching = [one for one in self._keys if _is_for(one, kid, algorithm)]
        if not matching or (kid is None and len(matching) > 1):
            return None
        loaded = next(_loaded(matching, algorithm), None)
        if loaded is not None:
            self._loaded[kid, algorithm] = loaded
        return loaded

    async def _read_again(self) -> None:
        """Reads the keys, unless that was just done; a failure is kept in `_failure`."""
        async with self._lock:
            if self._clock() < self._next_read:
                return
            try:
                async with asyncio.timeout(_FETCH_SECONDS):
                    keys = await self._fetched()
            except (_Unusable, httpx.HTTPError, httpx.InvalidURL, OSError) as cause:
                late = f"no answer within {_FETCH_SECONDS:g} s"
                self._failure = late if isinstance(cause, TimeoutError) else _words(cause)
                self._failed_at = self._clock()
                self._next_read = self._failed_at + FAILURE_PAUSE_SECONDS
                log.warning(
                    "the keys of %s cannot be read: %s",
                    self._issuer,
                    self._failure,
                    extra={"action": "issuer_unavailable"},
                )
                return
            self._keys, self._loaded, self._failure = keys, {}, ""
            self._read_at = self._clock()
            self._next_read = self._read_at + PAUSE_SECONDS

    async def _fetched(self) -> Sequence[Key]:
        place = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        document = await self._get(place)
        named = document.get("issuer")
        if named != self._issuer:
            raise _Unusable(
                f"its configuration is that of {named!r}; "
                "KNIT_ACCOUNTS__OIDC_ISSUER must be the same to the last character"
            )
        keys_at = document.get("jwks_uri")
        fault = fault_of_url(keys_at) if isinstance(keys_at, str) else "there is none"
        if fault is not None:
            raise _Unusable(f"the address of its keys (jwks_uri) cannot be used: {fault}")
        keys = (await self._get(str(keys_at))).get("keys")
        if not isinstance(keys, list):
            raise _Unusable(f"{keys_at} is not a list of keys")
        return [key for key in keys if isinstance(key, dict)]

    async def _get(self, url: str) -> Mapping[str, Any]:
        # No redirects: what is at another address is for its own issuer to say.
        async with self._http.stream("GET", url, headers={"Accept": "application/json"}) as answer:
            if answer.status_code != httpx.codes.OK:
                raise _Unusable(f"{url} answers {answer.status_code}")
            content = b""
            async for piece in answer.aiter_bytes():
                content += piece
                if len(content) > _MAX_BYTES:
                    raise _Unusable(f"the answer of {url} is longer than {_MAX_BYTES} bytes")
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise _Unusable(f"the answer of {url} is not a JSON object")
        return found


class _Unusable(Exception):
    """The answer of the issuer is not what it should be; the message says what it is."""


def _words(cause: Exception) -> str:
    return str(cause) or type(cause).__name__


def _is_for(key: Key, kid: str | None, algorithm: str) -> bool:
    kind, curves = KEYS_OF[algorithm]
    operations = key.get("key_ops")
    return (
        (kid is None or key.get("kid") == kid)
        and key.get("kty") == kind
        and (not curves or key.get("crv") in curves)
        and key.get("use", "sig") == "sig"
        and (operations is None or (isinstance(operations, list) and "verify" in operations))
        and key.get("alg", algorithm) == algorithm
    )


def _loaded(keys: Sequence[Key], algorithm: str) -> Iterator[jwt.PyJWK]:
    """Gives those of the keys that are keys, and long enough."""
    for key in keys:
        try:
            loaded = jwt.PyJWK(dict(key), algorithm=algorithm)
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        made = loaded.key
        if not isinstance(made, RSAPublicKey) or made.key_size >= _MIN_RSA_BITS:
            yield loaded
