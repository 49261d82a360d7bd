"""Failures of a request as HTTP, which the domain knows nothing of."""

from __future__ import annotations

from collections.abc import Mapping


class HttpProblem(Exception):
    """The response to a request that is wrong already as HTTP."""

    def __init__(
        self, status: int, reason: str, advice: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.advice = advice
        self.headers = headers


class ClientDisconnected(Exception):
    """The client closed the connection; nobody is left to respond to."""
