"""Failures of a request as HTTP; the domain has no word for them."""

from __future__ import annotations

from collections.abc import Mapping


class HttpProblem(Exception):
    """A request is wrong as HTTP already; there is no word for it in the domain."""

    def __init__(
        self, status: int, reason: str, advice: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.advice = advice
        self.headers = headers


class ClientDisconnected(Exception):
    """The client closed the connection; there is nobody left to answer."""
