"""Which headers a proxy passes on, which are its own affair, and which it adds (RFC 9110, §7.6)."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from knit_api.extra import cookies
from knit_api.extra.endpoints import Endpoint

Header = tuple[bytes, bytes]

PSEUDONYM: Final = f"knit-{secrets.token_hex(4)}".encode("ascii")
"""This process in the header `Via`, by which a request that comes back is recognized."""

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NEVER_TRAILERS: Final = _HOP_BY_HOP | {
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"host",
    b"set-cookie",
    b"trailer",
}
"""What a header section must have: nobody may slip it in after the body (RFC 9110, §6.5.1)."""
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_OURS: Final = frozenset(
    {b"forwarded", b"host", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"}
)


@dataclass(frozen=True, slots=True)
class Client:
    """Who sent a request, as the server knows it."""

    address: str
    scheme: str
    host: bytes
    """The header `Host`."""


def values(headers: Iterable[Header], name: bytes) -> list[bytes]:
    """Gives the members, in lower case, of all headers of that (lower-case) name."""
    return [
        member.strip().lower()
        for key, value in headers
        if key == name
        for member in value.split(b",")
        if member.strip()
    ]


def request_headers(headers: Sequence[Header], endpoint: Endpoint, client: Client) -> list[Header]:
    """Gives the headers with which a request is forwarded; names are in lower case.

    The connection goes on afterwards, or becomes a WebSocket.

    `X-Forwarded-For` is appended to, so that its last member is the one that knit saw; what the
    client says in the other headers of that kind is dropped.
    """
    passed = [one for one in _framed(headers) if one[0] not in _OURS]
    chain = [value for name, value in headers if name == b"x-forwarded-for"]
    via = [value for name, value in passed if name == b"via"]
    passed = [one for one in passed if one[0] != b"via"]
    forwarded_for = b", ".join([*chain, client.address.encode("latin-1")])
    ours: list[Header] = []
    if wants_websocket(headers):
        ours = [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
    elif _takes_trailers(headers):
        ours = [(b"connection", b"te"), (b"te", b"trailers")]
    if is_chunked(headers):
        ours.append((b"transfer-encoding", b"chunked"))
    return [
        (b"host", endpoint.authority.encode("ascii")),
        *passed,
        (b"x-forwarded-for", forwarded_for),
        *([(b"x-forwarded-host", client.host)] if client.host else []),  # HTTP/1.0 needs none
        (b"x-forwarded-proto", client.scheme.encode("ascii")),
        (b"via", b", ".join([*via, b"1.1 " + PSEUDONYM])),
        *ours,
    ]


def is_chunked(headers: Iterable[Header]) -> bool:
    """Says whether the body of a message is chunked; h11 knows no other transfer coding."""
    return any(name == b"transfer-encoding" for name, _ in headers)


def has_body(headers: Sequence[Header]) -> bool:
    """Says whether a request has a body, be it an empty one in chunks."""
    return is_chunked(headers) or values(headers, b"content-length") not in ([], [b"0"])


def may_be_repeated(method: str, headers: Sequence[Header]) -> bool:
    """Says whether a service may see a request twice, and it can be sent again (RFC 9110, §9.2)."""
    return method in _SAFE and not has_body(headers) and not wants_websocket(headers)


def binds_connection(headers: Iterable[Header]) -> bool:
    """Says whether a request may have logged its client in for all that follows on a connection."""
    schemes = (value.split(b" ")[0].lower() for name, value in headers if name == b"authorization")
    return any(scheme in (b"negotiate", b"ntlm") for scheme in schemes)


def kept_for(headers: Iterable[Header]) -> float | None:
    """Gives for how many seconds a service says that it keeps the connection; None: not said."""
    for member in values(headers, b"keep-alive"):
        name, _, value = member.partition(b"=")
        if name.strip() == b"timeout" and value.strip().isdigit():
            return float(value)
    return None


def wants_websocket(headers: Sequence[Header]) -> bool:
    """Says whether a request asks to become a WebSocket; no other upgrade is passed on.

    h2c above all is not: through it a client could send requests past this proxy.
    """
    asks = b"upgrade" in values(headers, b"connection")
    return asks and not has_body(headers) and values(headers, b"upgrade") == [b"websocket"]


def is_loop(headers: Sequence[Header]) -> bool:
    """Says whether a request has been forwarded by this process before."""
    return any(PSEUDONYM in member.split() for member in values(headers, b"via"))


def response_headers(headers: Sequence[Header], endpoint: Endpoint, client: Client) -> list[Header]:
    """Gives the headers with which a response is passed on.

    Redirects lead through knit again, and cookies come back through it.
    """
    return [(name, _moved(name, value, endpoint, client)) for name, value in _framed(headers)]


def trailers(sent: Iterable[Header]) -> list[Header]:
    """Gives the trailers that may be passed on."""
    return [(name, value) for name, value in sent if name not in _NEVER_TRAILERS]


def _end_to_end(headers: Sequence[Header]) -> list[Header]:
    named = set(values(headers, b"connection")) - {b"host", b"content-length", b"content-type"}
    return [one for one in headers if one[0] not in _HOP_BY_HOP and one[0] not in named]


def _framed(headers: Sequence[Header]) -> list[Header]:
    # Of two lengths the chunks count; both would let two servers read two messages (smuggling).
    ambiguous = b"content-length" if is_chunked(headers) else b""
    return [one for one in _end_to_end(headers) if one[0] != ambiguous]


def _takes_trailers(headers: Sequence[Header]) -> bool:
    return any(member.split(b";")[0] == b"trailers" for member in values(headers, b"te"))


def _moved(name: bytes, value: bytes, endpoint: Endpoint, client: Client) -> bytes:
    text = value.decode("latin-1")
    if name in (b"location", b"content-location"):
        text = endpoint.location(text)
    elif name == b"set-cookie":
        text = cookies.moved(text, endpoint, client.host.decode("latin-1"))
    return text.encode("latin-1")
