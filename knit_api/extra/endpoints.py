"""Which requests belong to which extra API, and where they go: pure functions of paths.

A path is compared segment by segment, decoded, and forwarded byte by byte, as it was sent.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from knit_api.errors import HttpProblem
from knit_workflows.settings.extra_apis import OWN_PATHS, ExtraApi

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_ORIGIN: Final = re.compile(r"(?:https?:)?//[^/?#]*", re.IGNORECASE)


class Endpoint(ExtraApi):
    """One extra API, with what a request needs to know of it."""

    __slots__ = ()

    @property
    def segments(self) -> list[str]:
        """The segments of the path; none for `/`."""
        return [segment for segment in self.path.split("/") if segment]

    @property
    def host(self) -> str:
        """The name or address of the service, without brackets."""
        return self._upstream.hostname or ""

    @property
    def port(self) -> int:
        """The port of the service."""
        return self._upstream.port or _DEFAULT_PORTS[self._upstream.scheme]

    @property
    def authority(self) -> str:
        """What the service is told as its `Host`."""
        return self._upstream.netloc

    @property
    def uses_tls(self) -> bool:
        """Whether the service is spoken to in TLS."""
        return self._upstream.scheme == "https"

    def forwarded(self, rest: str, query: str = "") -> str:
        """Gives the URL for what follows the path in a request: "", or begins with a slash."""
        base = self.proxy_to.removesuffix("/") if rest else self.proxy_to
        return f"{base}{rest}?{query}" if query else f"{base}{rest}"

    def target(self, rest: str, query: str = "") -> str:
        """Gives the same as a request line has it: without scheme and host, never without path."""
        whole = self.forwarded(rest, query).removeprefix(self.origin)
        return whole if whole.startswith("/") else f"/{whole}"

    def location(self, sent: str) -> str:
        """Gives a `Location` of the service as clients of knit reach it.

        One that is not below `proxy_to` stays as it is.
        """
        below = self._without_origin(sent)
        base = self.base.rstrip("/")
        rest = below.removeprefix(base)
        is_ours = below.startswith("/") and not below.startswith("//") and below.startswith(base)
        if not is_ours or (rest and rest[0] not in "/?#"):
            return sent
        return "".join(f"/{segment}" for segment in self.segments) + rest or "/"

    def _without_origin(self, sent: str) -> str:
        found = _ORIGIN.match(sent)
        if not found:
            return sent
        try:
            parts = urlsplit(found[0], self._upstream.scheme)
            there = parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
        except ValueError:  # of a port that is no number
            return sent
        return sent[found.end() :] if there == self._place else sent

    @property
    def base(self) -> str:
        """The path of `proxy_to`."""
        return self._upstream.path

    @property
    def origin(self) -> str:
        """The scheme, host and port of `proxy_to`, as it has them."""
        return f"{self._upstream.scheme}://{self._upstream.netloc}"

    @property
    def _place(self) -> tuple[str, str, int]:
        return self._upstream.scheme, self.host, self.port

    @property
    def _upstream(self) -> SplitResult:
        return urlsplit(self.proxy_to)


@dataclass(frozen=True, slots=True)
class Match:
    """A request of an extra API: the endpoint, and what follows its path."""

    endpoint: Endpoint
    rest: str


class Endpoints:
    """The extra APIs of one configuration; of two that fit a request the longer path counts."""

    def __init__(self, extra_apis: Iterable[ExtraApi] = ()) -> None:
        endpoints = (Endpoint(one.path, one.proxy_to) for one in extra_apis)
        self._longest_first = sorted(endpoints, key=lambda one: -len(one.segments))

    def __len__(self) -> int:
        return len(self._longest_first)

    def find(self, raw_path: str) -> Match | None:
        """Gives the extra API that a path, as it was sent, belongs to; None: it is knit's own.

        Raises:
            HttpProblem: dot segments lead out of the extra API (400).
        """
        is_path = raw_path.startswith("/") or not raw_path  # else `*`, or a whole URL
        if not self._longest_first or not is_path:
            return None
        resolved = _resolved(raw_path)
        if resolved[:1] and resolved[0] in OWN_PATHS:
            return None
        sent = raw_path.split("/")[1:]
        for endpoint in self._longest_first:
            count = len(endpoint.segments)
            if [unquote(segment) for segment in sent[:count]] == endpoint.segments:
                if _leads_out(sent[count:]):
                    raise HttpProblem(
                        400,
                        f"bad request: the path leads out of {endpoint.path}",
                        "send the path without dot segments (`..`)",
                    )
                return Match(endpoint, "".join(f"/{segment}" for segment in sent[count:]))
        return None


def _leads_out(rest: Sequence[str]) -> bool:
    """Says whether a service may come above `proxy_to` when it resolves the dots of a path.

    Services differ. So what some take for two segments (`a%2Fb`, `a\\b`) counts as one level down,
    what some take for none (`//`, `;a`) as none, and what some take for `..` (`..;a`) as one up.
    """
    depth = 0
    for segment in rest:
        parts = (part.partition(";")[0] for part in re.split(r"[/\\]", unquote(segment)))
        names = [name for name in parts if name not in ("", ".")]
        for is_up, alike in groupby(names, lambda name: name == ".."):
            depth += -len(list(alike)) if is_up else 1
            if depth < 0:
                return True
    return False


def _resolved(raw_path: str) -> list[str]:
    """Gives the segments that a service may see if it decodes the path and resolves its dots."""
    path = re.sub(r"[/\\]+", "/", f"/{unquote(raw_path)}")
    return [segment for segment in posixpath.normpath(path).split("/") if segment]
