"""What a request brings along to say who sends it, and where it comes from: pure functions."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Final
from urllib.parse import urlsplit

from starlette.types import Scope

from knit_api.errors import HttpProblem
from knit_api.server.sockets import peer_of

AUTHORIZATION: Final = b"authorization"

Networks = Sequence[IPv4Network | IPv6Network]

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""
_HOST: Final = re.compile(r"[\w.-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?", re.ASCII)
_HOP: Final = re.compile(r"\[([^\[\]]+)\](?::\d+)?|([\d.]+):\d+", re.ASCII)
"""An address in `X-Forwarded-For` that has brackets, a port, or both."""
_BASIC: Final = "basic"
_BEARER: Final = "bearer"


class Unauthenticated(Exception):
    """A request does not say who sends it, or not in a form that is known; the message says why.

    `error` is the code of RFC 6750, §3.1; empty if there were no credentials at all.
    """

    def __init__(self, reason: str, error: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.error = error


def token_of(scope: Scope) -> str:
    """Gives the token of a request: `Bearer TOKEN`, or the password of `Basic`.

    A cookie is never a credential.

    Raises:
        Unauthenticated: there is none.
        HttpProblem: a browser sends it for a page of elsewhere (403).
    """
    given = [value for name, value in scope["headers"] if name == AUTHORIZATION]
    if not given:
        raise Unauthenticated("this API wants to know who calls")
    if len(given) > 1:
        raise Unauthenticated("there are several Authorization headers", "invalid_request")
    sent: bytes = given[0]
    scheme, _, rest = sent.decode("latin-1").strip().partition(" ")
    if scheme.lower() == _BEARER and rest.strip():
        return rest.strip()
    if scheme.lower() == _BASIC:
        _refuse_foreign_pages(scope)
        return _password(rest.strip())
    raise Unauthenticated("the Authorization header is neither Bearer nor Basic", "invalid_request")


def _password(encoded: str) -> str:
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        text = ""
    _, colon, password = text.partition(":")
    if not colon or not password:
        raise Unauthenticated("the Basic credentials have no password", "invalid_request")
    return password


def _refuse_foreign_pages(scope: Scope) -> None:
    """Raises HttpProblem for Basic credentials that a browser may have added by itself (CSRF)."""
    origin, site = header(scope, b"origin"), header(scope, b"sec-fetch-site")
    host = header(scope, b"host").lower()
    foreign = bool(origin) and _authority(origin) != host
    foreign = foreign or (site in ("cross-site", "same-site") and scope["method"] not in SAFE)
    if foreign:
        raise HttpProblem(
            403,
            "Basic credentials count for nothing in a request of another site's page",
            "send the token as Authorization: Bearer, which no browser adds by itself",
        )


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def header(scope: Scope, wanted: bytes) -> str:
    """Gives the first header of that (lower-case) name; empty if there is none."""
    found: bytes = next((value for name, value in scope["headers"] if name == wanted), b"")
    return found.decode("latin-1")


def address_of(scope: Scope, trusted: Networks) -> str:
    """Gives the address a request comes from.

    `X-Forwarded-For` counts only as far as trusted proxies have written it: from its end, up to the
    first address that is none of theirs.
    """
    address = peer_of(scope)
    if not trusted or not _is_in(address, trusted):
        return address
    chain = ",".join(
        value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"
    )
    for hop in reversed([_without_port(one.strip()) for one in chain.split(",") if one.strip()]):
        if _parsed(hop) is None:
            return address
        address = hop
        if not _is_in(hop, trusted):
            return address
    return address


def _without_port(hop: str) -> str:
    """Gives the address alone: some proxies write the port of each connection behind it."""
    found = _HOP.fullmatch(hop)
    return hop if found is None else found[1] or found[2]


def network_of(address: str) -> str:
    """Gives what an address is counted by: itself, or the /64 that an IPv6 host has to itself."""
    parsed = _parsed(address)
    if parsed is None or parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def origin_of(scope: Scope, public_url: str | None, trusted: Networks) -> str:
    """Gives scheme and host by which clients reach this API; empty if the request does not say."""
    if public_url is not None:
        return public_url
    host = header(scope, b"host")
    if _HOST.fullmatch(host) is None:
        return ""
    return f"{scheme_of(scope, public_url, trusted)}://{host}"


def scheme_of(scope: Scope, public_url: str | None, trusted: Networks) -> str:
    """Gives the scheme by which clients reach this API; that of the connection counts last."""
    if public_url is not None:
        return urlsplit(public_url).scheme
    said = header(scope, b"x-forwarded-proto").lower()
    by_proxy = said in ("http", "https") and _is_in(peer_of(scope), trusted)
    return said if by_proxy else str(scope.get("scheme", "http"))


def _is_in(address: str, networks: Networks) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in networks)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if parsed.version == 6 else None
    return mapped or parsed
