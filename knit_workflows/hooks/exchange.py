"""One POST over HTTP, and what became of it."""

from __future__ import annotations

import asyncio
import io
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from knit_workflows import names, tracing
from knit_workflows.domain.hooks import MAX_ANSWER, HookAnswer
from knit_workflows.hooks.addresses import Guard, Lookup, Names
from knit_workflows.hooks.answers import (
    environment_of,
    for_the_record,
    is_json,
    phrase,
    refusal,
    retry_after,
)
from knit_workflows.hooks.envelope import written
from knit_workflows.hooks.explanations import explanation
from knit_workflows.hooks.failures import CallFailed, one_line
from knit_workflows.hooks.file import HooksFile
from knit_workflows.hooks.message import HookMessage
from knit_workflows.hooks.signing import read_secrets, signature_headers
from knit_workflows.hooks.trust import Trust
from knit_workflows.http1.proxies import named_proxy
from knit_workflows.settings import HookSettings

_BEGINNING: Final = 4 * MAX_ANSWER
"""Bytes of an answer that are enough for the characters that are kept of it."""
_PORTS: Final = {"http": 80, "https": 443}
_PROXIES: Final = ("http", "https")


@dataclass
class _Course:
    """How far a call has come."""

    proxy: str | None = None
    is_connected: bool = False
    status: int | None = None


class Exchange:
    """Makes calls, any number at once, each over a connection of its own.

    Needs a running event loop; `aclose` ends it.
    """

    def __init__(
        self,
        settings: HookSettings,
        file: HooksFile,
        lookup: Lookup,
        variables: Mapping[str, str],
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._variables = variables
        self._names = Names(lookup)
        self._trust = Trust(settings.ca_file)
        self._direct: aiohttp.ClientSession | None = None
        self._proxied: aiohttp.ClientSession | None = None
        self.configure(file)

    def configure(self, file: HooksFile) -> None:
        """Writes and guards calls from now on as this file says."""
        self._format = file.format
        self._guard = Guard(file.allow, allow_loopback=self._settings.allow_loopback)

    async def call(self, url: str, message: HookMessage) -> HookAnswer:
        """Calls a hook once. Whatever a receiver or the network does is an answer, not an error."""
        begun = time.monotonic()
        course = _Course()
        try:
            async with asyncio.timeout(self._settings.timeout.total_seconds()) as timer:
                # Not its URL, which may hold a secret.
                with tracing.span("POST hook", server_address=URL(url, encoded=True).host or ""):
                    answer = await self._called(url, message, course)
        except CallFailed as failed:
            answer = _failure(failed.text, failed.status_code or course.status)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, TimeoutError) and timer.expired():
                answer = _failure(self._late(course), course.status)
            else:
                answer = _failure(explanation(error, course.proxy), course.status)
        return replace(answer, duration=timedelta(seconds=time.monotonic() - begun))

    async def aclose(self) -> None:
        """Ends all connections."""
        for session in (self._direct, self._proxied):
            if session is not None:
                await session.close()
        self._names.close()

    async def _called(self, url: str, message: HookMessage, course: _Course) -> HookAnswer:
        target = URL(url, encoded=True)
        proxy = self._proxy(target, course)
        # Also behind a proxy: it is the one that resolves names, but an address needs none.
        self._guard.check_literal(target.host or "")
        body, content_type = written(message.body, message.delivery_id, self._format)
        # Otherwise an unreadable file of authorities would stop calls that need none.
        is_encrypted = "https" in (target.scheme, proxy and proxy.scheme)
        headers = {"Content-Type": content_type, **self._signature(message, body)}
        async with self._session(is_proxied=proxy is not None).post(
            target,
            data=io.BytesIO(body),  # bytes, if there are many, would go out in one piece
            headers={**headers, **tracing.headers()},
            proxy=proxy,
            ssl=self._trust.context() if is_encrypted else True,
            allow_redirects=False,
            trace_request_ctx=course,
        ) as response:
            course.status = response.status
            return await self._answer(response, wants_environment=message.wants_environment)

    async def _answer(
        self, response: aiohttp.ClientResponse, *, wants_environment: bool
    ) -> HookAnswer:
        status = response.status
        if not 200 <= status < 300:
            location = response.headers.get("Location")
            is_redirect = 300 <= status < 400
            beginning = "" if is_redirect else _text(await _read(response, _BEGINNING))
            wait = retry_after(response.headers.get("Retry-After"), self._clock())
            return replace(_failure(refusal(status, location, beginning), status), retry_after=wait)
        limit = self._settings.max_answer_bytes
        body = await _read(response, limit + 1)
        if len(body) > limit:
            raise CallFailed(
                f"answered {phrase(status)} with more than {limit} bytes; let it answer less, or "
                "raise KNIT_HOOKS__MAX_ANSWER_BYTES"
            )
        environment: Mapping[str, str] = {}
        if is_json(response.headers.get("Content-Type", "")):
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise CallFailed("its answer is compressed, which was not asked for")
            environment = environment_of(body, wanted=wants_environment)
            body = for_the_record(body)
        return HookAnswer(True, _text(body), timedelta(), status, environment)

    def _signature(self, message: HookMessage, body: bytes) -> dict[str, str]:
        path = self._settings.secrets_file
        if path is None:
            # Also unsigned: by it a receiver knows a repeated call.
            return {"webhook-id": message.delivery_id}
        at = int(self._clock())
        return signature_headers(read_secrets(path), message.delivery_id, at, body)

    def _proxy(self, target: URL, course: _Course) -> URL | None:
        if not self._settings.proxies:
            return None
        port = target.port or _PORTS.get(target.scheme, 0)
        named = named_proxy(target.scheme, target.host or "", port, self._variables)
        if named is None:
            return None
        source, text = named
        shown = text.rpartition("@")[2]
        try:
            proxy = URL(text if "://" in text else f"http://{text}")
        except ValueError as cause:
            raise CallFailed(f"the proxy {shown} from {source} is not an address") from cause
        if proxy.scheme not in _PROXIES or not proxy.host:
            raise CallFailed(
                f"the proxy {shown} from {source} cannot be used: hooks can be called through "
                "http:// and https:// proxies; put the hook's host into NO_PROXY, or set "
                "KNIT_HOOKS__PROXIES=false"
            )
        course.proxy = f"{shown} (from {source})"
        return proxy

    def _session(self, *, is_proxied: bool) -> aiohttp.ClientSession:
        if is_proxied:
            # It is the operator's choice where the proxy is.
            self._proxied = self._proxied or _session(Resolver(self._names, lambda *_: None))
            return self._proxied
        if self._direct is None:
            # The guard is looked up at each call: it changes with the file.
            check = lambda host, address: self._guard.check(host, address)  # noqa: E731
            self._direct = _session(Resolver(self._names, check))
        return self._direct

    def _late(self, course: _Course) -> str:
        within = f"within {self._settings.timeout.total_seconds():g} s"
        if not course.is_connected:
            return f"no connection {within}; is the receiver running, and can it be reached?"
        advice = "let it answer first and work later, or raise KNIT_HOOKS__TIMEOUT"
        if course.status is None:
            return f"no answer {within}; {advice}"
        return (
            f"answered {phrase(course.status)}, but the answer was not complete {within}; {advice}"
        )


class Resolver(AbstractResolver):
    """Resolves for aiohttp, which connects to nothing but what this gives.

    One address that is refused refuses them all: the next look-up might give it first.
    """

    def __init__(self, names: Names, check: Callable[[str, str], None]) -> None:
        self._names = names
        self._check = check

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Gives the checked addresses of a host; raises AddressRefused and other OSErrors."""
        addresses = await self._names.addresses(host, port)
        for address in addresses:
            self._check(host, address)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Does nothing: the names are shared."""


def _session(resolver: Resolver) -> aiohttp.ClientSession:
    async def connected(_: object, context: object, __: object) -> None:
        course: _Course = context.trace_request_ctx  # type: ignore[attr-defined]
        course.is_connected = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(connected)
    return aiohttp.ClientSession(
        # A connection per call: one that is kept may be closed by the receiver just when it is
        # used, and an After hook cannot be called again.
        connector=aiohttp.TCPConnector(
            resolver=resolver, use_dns_cache=False, force_close=True, limit=0
        ),
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None),
        headers={
            "User-Agent": f"knit/{names.VERSION}",
            "Accept": "application/json, */*;q=0.5",
            "Accept-Encoding": "identity",
        },
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[trace],
    )


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Reads an answer to its end, or up to `limit` bytes."""
    found = bytearray()
    while len(found) < limit and (chunk := await response.content.read(limit - len(found))):
        found += chunk
    if len(found) >= limit:
        response.close()  # the rest is not waited for
    return bytes(found)


def _text(body: bytes) -> str:
    return one_line(body[:_BEGINNING].decode("utf-8", "replace"))


def _failure(text: str, status: int | None) -> HookAnswer:
    return HookAnswer(False, text, timedelta(), status)
