"""The health of a process that has no API: `/livez` and `/readyz` over HTTP, for a kubelet.

`/livez` is answered while the event loop turns, whatever else is away: a restart would mend nothing
of that. `/readyz` says in words what the process waits for; 200 means that it works and that what
it needs answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

from knit_workflows.http1.plain_http import Answer, answering, everywhere

Check = Callable[[], Awaitable[object]]

_CHECK_TIMEOUT: Final = 4.0
_REMEMBERED_SECONDS: Final = 1.0
"""Whoever asks more often gets the last answer: nobody is to load the database in this way."""


class Health:
    """What a process says about itself; it is not ready until it is given checks."""

    def __init__(self) -> None:
        self._waiting = "it is starting"
        self._checks: Mapping[str, Check] | None = None
        self._lock = asyncio.Lock()
        self._looked_at = float("-inf")
        self._problem = ""

    def waits_for(self, reason: str) -> None:
        """Says that the process is not ready (any more), and why."""
        self._waiting, self._checks = reason, None

    def is_up(self, checks: Mapping[str, Check]) -> None:
        """Says that the process works, as long as these checks, by name, do not raise."""
        self._checks, self._looked_at = checks, float("-inf")

    async def problem(self) -> str:
        """Says why the process is not ready; empty if it is."""
        if self._checks is None:
            return self._waiting
        async with self._lock:
            clock = asyncio.get_running_loop().time
            if clock() - self._looked_at >= _REMEMBERED_SECONDS:
                said = await asyncio.gather(*(_said(*one) for one in self._checks.items()))
                self._problem, self._looked_at = "; ".join(filter(None, said)), clock()
            return self._problem

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[int]:
        """Answers on a port of all addresses while inside; gives it, since 0 takes a free one."""
        async with answering(everywhere(port), self._answer) as taken:
            yield taken

    async def _answer(self, path: str) -> Answer:
        if path == "/livez":
            return Answer.of_line(HTTPStatus.OK, "ok")
        if path != "/readyz":
            return Answer.of_line(HTTPStatus.NOT_FOUND, "there are /livez and /readyz")
        if problem := await self.problem():
            return Answer.of_line(HTTPStatus.SERVICE_UNAVAILABLE, problem)
        return Answer.of_line(HTTPStatus.OK, "ok")


async def _said(name: str, check: Check) -> str:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT):
            await check()
    except Exception as error:  # noqa: BLE001  it is what is reported
        return f"{name}: {error or type(error).__name__}"
    return ""
