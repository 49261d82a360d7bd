"""Reads the head of an HTTP/1.1 request: strictly, with limits, and in little memory.

The standard library's `http.server` would need a third of the memory of a program in a pod.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from knit_workflows.http1.body import Stream

_MAX_LINE_BYTES = 8 << 10
_MAX_HEADERS = 64
_ONLY_ONCE = ("authorization", "content-length", "transfer-encoding")
_NAME = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class BadRequest(ValueError):
    """Not an HTTP/1.1 request, or too large; where the next one starts is unknown.

    Attributes:
        status: the HTTP status to answer.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Request(NamedTuple):
    """The head of a request; the body has not been read from the stream."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    """Keyed by lower-case name."""

    def header(self, name: str) -> str | None:
        """Returns the header's value; names are case-insensitive."""
        return self.headers.get(name.lower())

    def argument(self, name: str) -> str | None:
        """Returns the value of a query parameter, "" without one; None if it is missing."""
        return dict(part.partition("=")[::2] for part in self.query.split("&")).get(name)

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends the body."""
        return (self.header("Expect") or "").lower() == "100-continue"

    @property
    def is_last(self) -> bool:
        """Whether the client wants the connection closed after the response."""
        return "close" in (self.header("Connection") or "").lower()


def read_request(stream: Stream) -> Request | None:
    """Reads the next request of a connection; None if the client has closed it."""
    line = _line(stream)
    if line == b"\r\n":  # some clients send one CRLF too many after a body
        line = _line(stream)
    if not line.endswith(b"\n"):
        return None
    words = line.decode("latin-1").split()
    if len(words) != 3 or not words[2].startswith("HTTP/"):
        raise BadRequest(400, "this is not an HTTP request")
    if words[2] != "HTTP/1.1":
        raise BadRequest(505, "only HTTP/1.1 can tell a complete body from a truncated one")
    headers = _headers(stream)
    if headers is None:
        return None
    path, _, query = words[1].partition("?")
    return Request(words[0], path, query, headers)


def _headers(stream: Stream) -> dict[str, str] | None:
    headers: dict[str, str] = {}
    for _ in range(_MAX_HEADERS):
        line = _line(stream)
        if not line.endswith(b"\n"):
            return None
        line = line.rstrip(b"\r\n")
        if not line:
            return headers
        name, colon, value = line.partition(b":")
        if not (name and colon and _NAME.issuperset(name)):
            raise BadRequest(400, "a header is malformed")
        key = name.decode("ascii").lower()
        if key in headers and key in _ONLY_ONCE:
            raise BadRequest(400, f"the header {key} is there twice")
        headers[key] = value.strip().decode("latin-1")
    raise BadRequest(431, "there are too many headers")


def _line(stream: Stream) -> bytes:
    line = stream.readline(_MAX_LINE_BYTES)
    if len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n"):
        raise BadRequest(431, "a line of the request is too long")
    return line
