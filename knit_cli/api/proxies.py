"""Chooses the proxy for an address from the environment, and translates errors of proxies.

The rules are curl's, which are more than httpx supports: `NO_PROXY` may contain names (which
cover their subdomains), addresses, networks, each with an optional port, and `*`. Loopback
addresses never use a proxy.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
from socksio.exceptions import SOCKSError

from knit_cli.errors import ApiUnreachable, ConnectionCut, ProfileProblem

_SCHEMES = ("http", "https", "socks5", "socks5h")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_SOCKS_BYTES = 255  # of user name and password together
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_IN_BRACKETS = re.compile(r"^\[([^]]*)\](?=/|$)")
_SYSTEM_SETTINGS = ("darwin", "win32")  # with proxy settings outside the environment


@dataclass(frozen=True)
class Proxy:
    """A proxy for the API; `source` is the variable that names it."""

    url: str
    source: str
    username: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        return f"{self.url} (from {self.source})"

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection to the proxy itself is under TLS."""
        return self.url.startswith("https:")

    def for_httpx(self, trust: ssl.SSLContext) -> httpx.Proxy:
        """Converts it for httpx."""
        auth = None if self.username is None else (self.username, self.password or "")
        return httpx.Proxy(self.url, auth=auth, ssl_context=trust if self.is_encrypted else None)


def proxy_to(api_root: str, variables: Mapping[str, str]) -> Proxy | None:
    """Chooses the proxy for that address; None: connect directly.

    Tries, each in lower case first: HTTP_PROXY or HTTPS_PROXY by the address's scheme, then
    ALL_PROXY. An empty variable counts as unset.

    Raises:
        ProfileProblem: the variable does not name a proxy that knit can use.
    """
    url = httpx.URL(api_root)
    port = url.port or _DEFAULT_PORTS[url.scheme]
    if _is_this_machine(url.host):
        return None
    named = next(_named(url.scheme, variables), None) or _of_the_system(url)
    if named is None or _is_excepted(url.host, port, variables):
        return None
    source, text = named
    return _parsed(text, source)


def _named(scheme: str, variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in (f"{scheme}_proxy", "all_proxy"):
        for spelled in (name, name.upper()):
            # A web server's CGI puts what a client has sent as `Proxy:` into HTTP_PROXY.
            if spelled == "HTTP_PROXY" and "REQUEST_METHOD" in variables:
                continue
            if text := variables.get(spelled, "").strip():
                yield spelled, text


def _of_the_system(url: httpx.URL) -> tuple[str, str] | None:
    if sys.platform not in _SYSTEM_SETTINGS or proxy_bypass(url.host):
        return None
    found = getproxies().get(url.scheme)
    return None if found is None else ("the system's settings", found)


# ---------------------------------------------------------------- exceptions


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


def _is_this_machine(host: str) -> bool:
    address = _address(host)
    if address is not None:
        return address.is_loopback
    name = host.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost")


# ---------------------------------------------------------------- the address of a proxy


def _parsed(text: str, source: str) -> Proxy:
    with_scheme = text if _HAS_SCHEME.match(text) else f"http://{text}"
    try:
        parts = urlsplit(with_scheme)
        host, port = parts.hostname, parts.port
        httpx.URL(f"{parts.scheme}://{_bracketed(host or '')}")  # its own rules are stricter
    except (ValueError, httpx.InvalidURL) as cause:
        raise _unusable(source, _without_password(text), str(cause)) from cause
    if parts.scheme not in _SCHEMES:
        known = ", ".join(_SCHEMES)
        raise _unusable(source, _without_password(text), f"knit can use proxies of {known}")
    if not host:
        raise _unusable(source, _without_password(text), "it has no host")
    user, password = (one and unquote(one) for one in (parts.username, parts.password))
    if parts.scheme not in _DEFAULT_PORTS and len(f"{user}{password}") > _MAX_SOCKS_BYTES:
        raise _unusable(source, _without_password(text), "user and password are too long for SOCKS")
    url = f"{parts.scheme}://{_bracketed(host)}" + (f":{port}" if port is not None else "")
    return Proxy(url, source, user, password)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _without_password(text: str) -> str:
    return text.rpartition("@")[2]


def _unusable(source: str, text: str, reason: str) -> ProfileProblem:
    return ProfileProblem(
        f"the proxy {text} from {source} cannot be used",
        reason=reason,
        advice=f"write {source}=http://HOST:PORT (or socks5://), or unset it; "
        "list hosts that need no proxy in NO_PROXY",
    )


# ---------------------------------------------------------------- what goes wrong with a proxy


@contextmanager
def proxy_errors(proxy: Proxy | None, api_root: str) -> Iterator[None]:
    """Translates errors of the proxy; others pass unchanged."""
    try:
        yield
    except (httpx.HTTPError, SOCKSError) as cause:
        if proxy is not None and (translated := _translated(cause, proxy, api_root)) is not None:
            raise translated from cause
        raise


def _translated(cause: Exception, proxy: Proxy, api_root: str) -> ApiUnreachable | None:
    advice = f"check {proxy.source}; if no proxy is needed, add the API's host to NO_PROXY"
    match cause:
        case httpx.ConnectError() | httpx.ConnectTimeout() if not _is_about_trust(cause):
            late = isinstance(cause, httpx.ConnectTimeout)
            reason = "the connection was not accepted in time" if late else str(cause)
            dead = ConnectionCut(f"the proxy {proxy} does not answer", reason=reason, advice=advice)
            dead.safe_to_retry = True
            return dead
        case httpx.ProxyError() if _wants_password(str(cause)):
            return ApiUnreachable(
                f"the proxy {proxy} requires a user and a password",
                reason=str(cause),
                advice=f"put them into {proxy.source}, as in {with_password(proxy.url)}",
            )
        case httpx.ProxyError() | SOCKSError():
            return ApiUnreachable(
                f"the proxy {proxy} cannot reach the API at {api_root}",
                reason=str(cause),
                advice=advice,
            )
    return None


def with_password(url: str) -> str:
    """Shows where user and password go in a proxy's address."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://USER:PASSWORD@{rest}"


def _wants_password(text: str) -> bool:
    return text.startswith("407") or "password" in text.lower()


def _is_about_trust(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
