"""Chooses the proxy for an address from the environment.

The rules are curl's, which are more than HTTP libraries support: `NO_PROXY` may contain names
(which cover their subdomains), addresses, networks, each with an optional port, and `*`. Loopback
addresses never use a proxy.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterator, Mapping
from urllib.request import getproxies, proxy_bypass

_IN_BRACKETS = re.compile(r"^\[([^]]*)\](?=/|$)")
_SYSTEM_SETTINGS = ("darwin", "win32")  # with proxy settings outside the environment


def named_proxy(
    scheme: str, host: str, port: int, variables: Mapping[str, str]
) -> tuple[str, str] | None:
    """Gives the variable that names the proxy for an address, and its text; None: connect directly.

    Tries, each in lower case first: HTTP_PROXY or HTTPS_PROXY by the scheme, then ALL_PROXY. An
    empty variable counts as unset.
    """
    if is_this_machine(host):
        return None
    named = next(_named(scheme, variables), None) or _of_the_system(scheme, host)
    return None if named is None or _is_excepted(host, port, variables) else named


def _named(scheme: str, variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in (f"{scheme}_proxy", "all_proxy"):
        for spelled in (name, name.upper()):
            # A web server's CGI puts what a client has sent as `Proxy:` into HTTP_PROXY.
            if spelled == "HTTP_PROXY" and "REQUEST_METHOD" in variables:
                continue
            if text := variables.get(spelled, "").strip():
                yield spelled, text


def _of_the_system(scheme: str, host: str) -> tuple[str, str] | None:
    if sys.platform not in _SYSTEM_SETTINGS or proxy_bypass(host):
        return None
    found = getproxies().get(scheme)
    return None if found is None else ("the system's settings", found)


def _is_excepted(host: str, port: int, variables: Mapping[str, str]) -> bool:
    text = variables.get("no_proxy") or variables.get("NO_PROXY") or ""
    return any(_covers(entry, host.lower(), port) for entry in re.split(r"[\s,]+", text) if entry)


def _covers(entry: str, host: str, port: int) -> bool:
    """Tells whether an entry of NO_PROXY covers that host and port; a malformed one covers none."""
    if entry == "*":
        return True
    network = _network(entry)
    if network is None:
        entry, wanted_port = _split_port(entry)
        if wanted_port not in (None, port):
            return False
        network = _network(entry)
    address = _address(host)
    if network is not None:
        return address is not None and address in network
    name = entry.lower().removeprefix("*").strip(".")
    host = host.rstrip(".")
    return bool(name) and (host == name or (address is None and host.endswith(f".{name}")))


def _split_port(entry: str) -> tuple[str, int | None]:
    host, colon, port = entry.rpartition(":")
    if colon and port.isdecimal() and (":" not in host or host.endswith("]")):
        return host, int(port)
    return entry, None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(_IN_BRACKETS.sub(r"\1", text), strict=False)
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_this_machine(host: str) -> bool:
    """Says whether a host is this machine, by its name or address alone."""
    address = _address(host)
    if address is not None:
        return address.is_loopback
    name = host.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost")
