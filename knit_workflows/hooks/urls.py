"""Which URLs may be hooks."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

MAX_URL_CHARS: Final = 2000
"""The URL is part of an index of the database."""
_CHARACTERS: Final = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*")
_NAME: Final = re.compile(r"(?=.{1,253}\.?$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.?)+")
_NUMBER: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\.?")
_SCHEMES: Final = ("http", "https")


def url_fault(url: str) -> str | None:
    """Says in words why a URL cannot be a hook; None if it can. Never shows a password in it."""
    if len(url) > MAX_URL_CHARS:
        return f"the URL has {len(url)} characters, more than {MAX_URL_CHARS}"
    if not (allowed := _CHARACTERS.match(url)) or allowed.end() != len(url):
        where = allowed.end() if allowed else 0
        return (
            f"{_shown(url)} has {url[where]!r} at character {where + 1}, which cannot stand in a "
            "URL: write it percent-encoded, and a host as ASCII (xn--…)"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as cause:
        return f"{_shown(url)} is not a URL: {cause}"
    if "@" in parts.netloc:
        return (
            f"{_shown(url)} has a user or password in it, which everybody could read; let "
            "knit sign its calls instead (KNIT_HOOKS__SECRETS_FILE)"
        )
    if parts.scheme not in _SCHEMES:
        hint = "" if "://" in url else f": write http://{url} or https://{url}"
        return f"{url} is not an http or https URL{hint}"
    if not host:
        return f"{url} has no host"
    if port == 0:
        return f"{url} has the port 0"
    if "#" in url:
        return f"{url} has a fragment (#…), which would never be sent"
    return _host_fault(host)


def host_fault(host: str) -> str | None:
    """Says in words why this is neither a host name nor an address; None if it is one."""
    return _host_fault(host.lower().removeprefix("[").removesuffix("]"))


def _host_fault(host: str) -> str | None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # What ends in a number is read as an address by some resolvers: 127.1, 0x7f.1.
        if not _NAME.fullmatch(host) or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            return f"{host} is neither a host name nor an address"
    return None


def _shown(url: str) -> str:
    """Leaves out user and password."""
    scheme, mark, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{mark}{authority.rpartition('@')[2]}{slash}{path}"
