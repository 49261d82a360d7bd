"""Authenticates requests to the API, and to nobody else."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Final, Protocol

import httpx

ADVICE_ON_REFUSAL: Final = "knit.advice"
"""The extension of a response of status 401: what the user can do about it."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")  # what RFC 6750 allows
_HEADER: Final = "Authorization"


class Credentials(Protocol):
    """Where the header `Authorization` of requests comes from."""

    def header(self) -> str | None:
        """Gives what to send; None: nothing."""

    def renewed(self, refused: str) -> str | None:
        """Gives what else to send after something was refused; None: there is nothing else."""

    def advice(self) -> str:
        """Says what the user can do when the API refuses it, or wants something."""


class NoCredentials:
    """Nothing to send: all that a knit without accounts wants."""

    def header(self) -> str | None:
        """See Credentials."""
        return None

    def renewed(self, refused: str) -> str | None:
        """See Credentials."""
        return None

    def advice(self) -> str:
        """See Credentials."""
        return (
            "log in with `knit login`, or put a token that your knit's administrator gives you "
            "into KNIT_TOKEN or the profile"
        )


class FixedCredentials(NoCredentials):
    """A token that somebody has given; `source` says where it stands."""

    def __init__(self, header: str, source: str) -> None:
        self._header = header
        self._source = source

    def header(self) -> str | None:
        """See Credentials."""
        return self._header

    def advice(self) -> str:
        """See Credentials."""
        return f"ask your knit's administrator for a new token, and put it into {self._source}"


class ApiAuth(httpx.Auth):
    """Sends credentials with each request.

    A request that was refused is sent once more if there are others, and its body can be sent
    again. The client must not follow redirects: another address is not to get them.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """Adds the header; see httpx."""
        can_be_repeated = isinstance(request.stream, httpx.ByteStream)
        sent = self._credentials.header()
        if sent is not None:
            request.headers[_HEADER] = sent
        response = yield request
        if response.status_code != httpx.codes.UNAUTHORIZED:
            return
        if sent is not None and can_be_repeated:
            other = self._credentials.renewed(sent)
            if other is not None:
                request.headers[_HEADER] = other
                response = yield request
        if response.status_code == httpx.codes.UNAUTHORIZED:
            response.extensions[ADVICE_ON_REFUSAL] = self._credentials.advice()


def bearer(token: str) -> str:
    """Gives the header for a token."""
    return f"Bearer {token}"


def is_sendable(token: str) -> bool:
    """Says whether a text can be sent as a token."""
    return _TOKEN.fullmatch(token) is not None
