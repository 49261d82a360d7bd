"""Answers GET and HEAD on a port of its own, without a framework: for kubelets and Prometheus."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

_TIMEOUT: Final = 10.0
"""Seconds within which a request has to be read and answered."""
_BACKLOG: Final = 16
TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with."""

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT

    @classmethod
    def of_line(cls, status: HTTPStatus, line: str) -> Answer:
        """Gives an answer of one line of text."""
        return cls(status, f"{line}\n".encode())


Answers = Callable[[str], Awaitable[Answer]]
"""Gives the answer to a path, which has no query."""


def everywhere(port: int) -> socket.socket:
    """Listens on all addresses, of IPv6 as well if this machine has it; 0 takes a free port."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
            )
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                raise
    return socket.create_server(("", port), backlog=_BACKLOG)


def at(host: str, port: int) -> socket.socket:
    """Listens on one address; an empty host is all of them. Raises OSError."""
    if not host:
        return everywhere(port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


@asynccontextmanager
async def answering(listener: socket.socket, answers: Answers) -> AsyncIterator[int]:
    """Answers on a listening socket while inside; gives its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await _response(head, answers))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked has left, or speaks no HTTP
        finally:
            writer.close()

    server = await asyncio.start_server(serve, sock=listener, limit=8192)
    try:
        yield listener.getsockname()[1]
    finally:
        server.close()


async def _response(head: bytes, answers: Answers) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if method in (b"GET", b"HEAD"):
        answer = await answers(path.decode("latin-1"))
    else:
        answer = Answer.of_line(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD")
    lines = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Connection: close",
    )
    text = "\r\n".join([*lines, "", ""]).encode()
    return text if method == b"HEAD" else text + answer.body
