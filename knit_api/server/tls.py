"""TLS on the API's own socket, with certificate files that may be replaced while it serves."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 1.0
"""How often the files are read: mounted Secrets give no other reliable sign of a change."""


class CertificateRefused(Exception):
    """Certificate or key cannot be used; the message says why, and what to do."""


class Certificate:
    """A certificate chain and its key, PEM files that are followed.

    Connections under way keep the certificate with which they began; each new one gets the newest
    pair that was valid. A pair is taken as a whole or not at all.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        self._chain = chain
        self._key = key
        self._seen: tuple[bytes, bytes] | None = None
        self._present: ssl.SSLContext | None = None
        self._refusal: str | None = None

    def load(self) -> None:
        """Reads the files for the first time; raises CertificateRefused."""
        self._seen = self._content()
        self._present = self._context()

    def front(self) -> ssl.SSLContext:
        """Gives the context of the listening socket; it hands each connection to the newest."""
        front = self._context()
        # Called for clients that name no server, too. Replacing the certificate of one context
        # would not be atomic: a wrong key leaves it without any.
        front.sni_callback = self._choose
        return front

    async def follow(self) -> None:
        """Takes each new pair, for ever; what was valid before stays if it is refused."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception:  # nobody else would notice that the files are not followed any more
                log.exception("the look failed", extra={"action": "certificate_look_failed"})

    def refresh(self) -> None:
        """Looks once; a refusal is logged once, and looked at again when a file changes."""
        try:
            content = self._content()
            if content == self._seen:
                return
            self._seen = content
            self._present = self._context()
        except CertificateRefused as refused:
            if str(refused) != self._refusal:
                log.error(
                    "refused, the certificate before stays in use: %s",
                    refused,
                    extra={"action": "certificate_refused"},
                )
            self._refusal = str(refused)
            return
        self._refusal = None
        log.info("serves another certificate", extra={"action": "certificate_replaced"})

    def _choose(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _front: ssl.SSLContext
    ) -> None:
        if self._present is not None:
            connection.context = self._present

    def _content(self) -> tuple[bytes, bytes]:
        try:
            return self._chain.read_bytes(), self._key.read_bytes()
        except OSError as error:
            raise CertificateRefused(
                f"{error.filename} cannot be read: {error.strerror}; "
                "name the PEM files of a certificate and of its key"
            ) from error

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._chain, self._key, password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            why = _why(*self._content(), error)
            raise CertificateRefused(
                f"{self._chain} and {self._key} cannot be used: {why}"
            ) from error
        return context


def _no_password() -> bytes:
    # Without an answer OpenSSL would ask on the terminal.
    return b""


def _why(chain: bytes, key: bytes, error: Exception) -> str:
    """Says what is wrong with a pair that OpenSSL refuses; its own words for it say little."""
    if b"-----BEGIN CERTIFICATE" not in chain:
        return "the first is no certificate in PEM"
    if b"PRIVATE KEY-----" not in key:
        return "the second is no key in PEM"
    if b"ENCRYPTED" in key:
        return "the key has a password, which must be removed"
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return "the key is not that of the certificate"
    return str(error)
