"""Chooses the proxy for the API from the environment, and translates errors of proxies."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import httpx
from socksio.exceptions import SOCKSError

from knit_cli.errors import ApiUnreachable, ConnectionCut, ProfileProblem
from knit_workflows.http1.proxies import named_proxy

_SCHEMES = ("http", "https", "socks5", "socks5h")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_SOCKS_BYTES = 255  # of user name and password together
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


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
    named = named_proxy(url.scheme, url.host, port, variables)
    if named is None:
        return None
    source, text = named
    return _parsed(text, source)


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
