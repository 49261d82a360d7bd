"""A connection to a service behind an extra API, during one request: h11 over a socket."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Final

import h11

from knit_api.errors import HttpProblem
from knit_api.extra.endpoints import Endpoint
from knit_workflows.domain.os_errors import reason_of

_READ_BYTES: Final = 64 << 10
_MAX_HEAD_BYTES: Final = 64 << 10
_MAX_INTERIM: Final = 16
"""Interim responses (1xx) to one request; a service that sends more never comes to the point."""
_ADVICE: Final = "ask whoever operates the service; the log of knit's API says where it is"


class UpstreamFailed(HttpProblem):
    """A service cannot be reached, or what it sends is no response.

    The status is the contract's 500, or 504 for what took too long; `Proxy-Status` (RFC 9209) tells
    them from a 500 of the service itself.
    """

    def __init__(self, endpoint: Endpoint, kind: str, reason: str, status: int = 500) -> None:
        super().__init__(
            status,
            f"the service behind {endpoint.path} {reason}",
            _ADVICE,
            headers={"Proxy-Status": f"knit; error={kind}"},
        )


class StaleConnection(Exception):
    """A connection that had been used before was ended instead of an answer."""


class Upstream:
    """A connection to the service of an endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        reused: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self.reader = reader
        self.writer = writer
        self._h11 = h11.Connection(h11.CLIENT, _MAX_HEAD_BYTES)
        self._may_be_stale = reused

    @classmethod
    async def connect(
        cls, endpoint: Endpoint, tls: ssl.SSLContext | None, timeout: float
    ) -> Upstream:
        """Connects; raises UpstreamFailed."""
        try:
            async with asyncio.timeout(timeout):
                return cls(
                    endpoint,
                    *await asyncio.open_connection(
                        endpoint.host, endpoint.port, ssl=tls, limit=_READ_BYTES
                    ),
                )
        except TimeoutError as error:
            reason = f"accepted no connection within {timeout:g} s"
            raise UpstreamFailed(endpoint, "connection_timeout", reason, 504) from error
        except ssl.SSLCertVerificationError as error:
            reason = f"is not trusted: {error.verify_message}"
            raise UpstreamFailed(endpoint, "tls_certificate_error", reason) from error
        except (OSError, UnicodeError) as error:  # UnicodeError: of a host name, in IDNA
            kind, reason = _unreachable(error)
            raise UpstreamFailed(endpoint, kind, f"cannot be reached: {reason}") from error

    async def send(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        """Sends a part of the request, waiting for room; raises OSError."""
        self.writer.write(self._h11.send(event) or b"")
        await self.writer.drain()

    async def responses(self) -> AsyncIterator[h11.InformationalResponse | h11.Response]:
        """Gives the interim responses and, last, the final one or 101.

        Raises:
            UpstreamFailed: there is none, or it is no HTTP.
            StaleConnection: there is nothing at all, on a connection that was used before.
        """
        for _ in range(_MAX_INTERIM + 1):
            event = await self._next_event()
            assert isinstance(event, h11.InformationalResponse | h11.Response)
            yield event
            if event.status_code >= 200 or event.status_code == 101:
                return
        raise self._broken("http_protocol_error", "sends interim responses without end")

    async def body(self) -> AsyncIterator[h11.Data | h11.EndOfMessage]:
        """Gives the body in parts, its end with the trailers last; raises UpstreamFailed."""
        while True:
            event = await self._next_event()
            assert isinstance(event, h11.Data | h11.EndOfMessage)
            yield event
            if isinstance(event, h11.EndOfMessage):
                return

    def remainder(self) -> bytes:
        """Gives what was received after the head of a 101: the first bytes of the new protocol."""
        received, _ = self._h11.trailing_data
        return received

    @property
    def is_reusable(self) -> bool:
        """Whether request and response have both ended, and neither side closes the connection."""
        ended = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        return ended and not self.remainder() and not self.writer.is_closing()

    async def is_quiet(self) -> bool:
        """Says whether nothing has come since the last response, not even the end."""
        try:
            async with asyncio.timeout(0):
                await self.reader.read(1)
        except TimeoutError:
            return not self.reader.at_eof() and not self.writer.is_closing()
        except OSError:
            pass
        return False

    def next(self, endpoint: Endpoint) -> Upstream:
        """Gives the same connection for another request."""
        return Upstream(endpoint, self.reader, self.writer, reused=True)

    def close(self) -> None:
        """Ends the connection after a complete exchange."""
        # A service that has responded need not take the rest of the request, ever.
        if self.writer.transport.get_write_buffer_size():
            self.abort()
        else:
            self.writer.close()

    def abort(self) -> None:
        """Ends the connection at once, and visibly so."""
        self.writer.transport.abort()

    async def _next_event(self) -> h11.Event:
        try:
            while True:
                event = self._h11.next_event()
                if isinstance(event, h11.Event):
                    return event
                received = await self.reader.read(_READ_BYTES)
                self._may_be_stale = self._may_be_stale and not received
                self._h11.receive_data(received)
        except h11.RemoteProtocolError as error:
            if self._may_be_stale:
                raise StaleConnection from error
            if self.reader.at_eof():
                raise self._broken(
                    "http_response_incomplete", "closed the connection before its response ended"
                ) from error
            raise self._broken("http_protocol_error", f"does not speak HTTP: {error}") from error
        except OSError as error:
            if self._may_be_stale:
                raise StaleConnection from error
            raise self._broken(
                "connection_terminated", f"cut the connection: {reason_of(error)}"
            ) from error

    def _broken(self, kind: str, reason: str) -> UpstreamFailed:
        return UpstreamFailed(self.endpoint, kind, reason)


def _unreachable(error: OSError | UnicodeError) -> tuple[str, str]:
    """Gives the kind and the reason, without the internal addresses that asyncio names."""
    if isinstance(error, socket.gaierror):
        return "dns_error", error.strerror or "its name is unknown"
    if isinstance(error, UnicodeError):
        return "dns_error", "its name is not one of a host"
    if isinstance(error, ssl.SSLError):
        return "tls_protocol_error", f"TLS fails: {error.reason or error}"
    if isinstance(error, ConnectionResetError):  # connecting itself never ends so
        return "tls_protocol_error", "it ends the connection when TLS begins"
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return "destination_ip_unroutable", os.strerror(error.errno)
    if error.errno:
        return "connection_refused", os.strerror(error.errno)
    return "connection_refused", "none of its addresses accepts a connection"
