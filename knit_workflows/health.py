"""The health of a process that has no API: `/livez` and `/readyz` over HTTP, for a kubelet.

`/livez` is answered while the event loop turns, whatever else is away: a restart would mend nothing
of that. `/readyz` says in words what the process waits for; 200 means that it works and that what
it needs answers.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

Check = Callable[[], Awaitable[object]]

_HEAD_TIMEOUT: Final = 5.0
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
        listener = _everywhere(port)
        server = await asyncio.start_server(self._serve, sock=listener, limit=8192)
        try:
            yield listener.getsockname()[1]
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAD_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(await self._answer(head))
            await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked has left, or speaks no HTTP
        finally:
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            status, text = HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD"
        elif path == b"/livez":
            status, text = HTTPStatus.OK, "ok"
        elif path == b"/readyz":
            text = await self.problem()
            status = HTTPStatus.SERVICE_UNAVAILABLE if text else HTTPStatus.OK
            text = text or "ok"
        else:
            status, text = HTTPStatus.NOT_FOUND, "there are /livez and /readyz"
        body = f"{text}\n".encode()
        lines = (
            f"HTTP/1.1 {status.value} {status.phrase}",
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == b"HEAD" else body)


def _everywhere(port: int) -> socket.socket:
    """Listens on all addresses, of IPv6 as well if this machine has it."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=16
            )
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                raise
    return socket.create_server(("", port), backlog=16)


async def _said(name: str, check: Check) -> str:
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT):
            await check()
    except Exception as error:  # noqa: BLE001  it is what is reported
        return f"{name}: {error or type(error).__name__}"
    return ""
