"""Receives an archive from a transfer agent, in a thread: several times as fast as with httpx."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Final
from urllib.parse import urlsplit

from knit_api.transfers.agent_upload import (
    BROKEN_RESPONSE,
    NO_CONNECTION,
    SILENT,
    AgentUnreachable,
)

_CONNECT_TIMEOUT: Final = 10.0
_READ_TIMEOUT: Final = 60.0
_READ_BYTES: Final = 256 << 10
_MAX_REASON_BYTES: Final = 64 << 10


class AgentRefused(Exception):
    """The agent has given another response than the body that was asked for."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


def received(url: str, path: str, headers: Mapping[str, str]) -> Generator[bytes, None, None]:
    """Yields the body of a GET, in chunks of at most 256 KiB; blocks.

    Raises:
        AgentRefused: the response is not 200.
        AgentUnreachable: there is no connection, or the response is not known to be whole.
    """
    target = urlsplit(url)
    connection = HTTPConnection(target.hostname or "", target.port, timeout=_CONNECT_TIMEOUT)
    with closing(connection):
        try:
            connection.connect()
        except OSError as error:  # a TimeoutError too
            raise AgentUnreachable(NO_CONNECTION) from error
        try:
            connection.sock.settimeout(_READ_TIMEOUT)
            connection.request("GET", path, headers=dict(headers))
            # It may hold the connection by itself.
            with closing(connection.getresponse()) as response:
                if response.status != 200:
                    raise AgentRefused(response.status, response.read(_MAX_REASON_BYTES))
                yield from _body(response)
        except TimeoutError as error:
            raise AgentUnreachable(SILENT) from error
        except (OSError, HTTPException) as error:
            raise AgentUnreachable(BROKEN_RESPONSE) from error


def _body(response: HTTPResponse) -> Generator[bytes, None, None]:
    if not response.chunked and response.length is None:
        raise AgentUnreachable("something on the way to it hides where bodies end")
    buffer = bytearray(_READ_BYTES)
    view = memoryview(buffer)
    while count := response.readinto(buffer):
        yield bytes(view[:count])
    if response.length:
        raise AgentUnreachable(BROKEN_RESPONSE)
