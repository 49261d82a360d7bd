"""The extra APIs of this process: those of its file, which it follows, and how many are busy."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from starlette.types import Receive, Scope, Send

from knit_api.errors import HttpProblem
from knit_api.extra import header_rules
from knit_api.extra.endpoints import Endpoint, Endpoints, Match
from knit_api.extra.exchange import Exchange
from knit_api.extra.pool import Pool
from knit_api.extra.upstream import StaleConnection, Upstream, UpstreamFailed
from knit_workflows.settings import ExtraApisSettings
from knit_workflows.settings.extra_apis import ExtraApisRefused, content_of, parse_extra_apis

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 1.0
"""How often the file is read. It is small, and mounted ConfigMaps give no other reliable sign."""


class ExtraApis:
    """Forwards requests to the services of the file that was valid last."""

    def __init__(self, settings: ExtraApisSettings) -> None:
        self.endpoints = Endpoints()
        self.refusal: str | None = None
        """Why the file as it is now is not in force; None: it is."""
        self._settings = settings
        self._pool = Pool(settings.keep_alive)
        self._seen: bytes | None = None
        self._changed: bytes | None = None
        self._busy = 0
        self._tls: ssl.SSLContext | None = None

    @property
    def file(self) -> Path | None:
        """The file; None: there are no extra APIs."""
        return self._settings.config

    def load(self) -> None:
        """Puts the file in force; raises ExtraApisRefused, then nothing has changed."""
        if self.file is not None:
            self._seen = content_of(self.file)
            self.endpoints = Endpoints(parse_extra_apis(self._seen, str(self.file)))

    async def follow(self) -> None:
        """Puts each new content of the file in force, for ever; refuses what is not valid."""
        if self.file is None:
            return
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.refresh(self.file)
            except Exception:  # nobody else would notice that the file is not followed any more
                log.exception("the look failed", extra={"action": "extra_apis_look_failed"})

    async def refresh(self, file: Path) -> None:
        """Looks once; what was in force stays if the file is refused, which is logged once.

        A change counts when two looks have found the same: the file may just be being written.
        """
        try:
            content = await asyncio.to_thread(content_of, file)
        except ExtraApisRefused as refused:
            self._seen = None
            self._refuse(refused)
            return
        if content == self._seen:
            self._changed = None
            return
        if content != self._changed:
            self._changed = content
            return
        self._seen = content
        try:
            self.endpoints = Endpoints(
                await asyncio.to_thread(parse_extra_apis, content, str(file))
            )
        except ExtraApisRefused as refused:
            self._refuse(refused)
            return
        self.refusal = None
        log.info(
            "extra APIs are in force",
            extra={"action": "extra_apis_loaded", "endpoints": len(self.endpoints)},
        )

    def _refuse(self, refused: ExtraApisRefused) -> None:
        if str(refused) != self.refusal:
            log.error(
                "refused, the last valid file stays in force: %s",
                refused,
                extra={"action": "extra_apis_refused"},
            )
        self.refusal = str(refused)

    async def forward(
        self, match: Match, scope: Scope, receive: Receive, send: Send, stopping: asyncio.Event
    ) -> None:
        """Serves one request by forwarding it; see `Exchange.run` for what it raises."""
        self._check(match, scope)
        self._busy += 1
        try:
            await self._exchange(
                match.endpoint,
                lambda: Exchange(
                    match,
                    scope,
                    receive,
                    send,
                    idle=self._settings.idle_timeout,
                    pool=self._pool,
                    stopping=stopping,
                ),
                may_repeat=header_rules.may_be_repeated(scope["method"], scope["headers"]),
            )
        except UpstreamFailed as failed:
            log.warning(
                "%s: %s",
                match.endpoint.proxy_to,
                failed,
                extra={"action": "extra_api_failed", "path": match.endpoint.path},
            )
            raise
        finally:
            self._busy -= 1

    async def _exchange(
        self, endpoint: Endpoint, begin: Callable[[], Exchange], *, may_repeat: bool
    ) -> None:
        if may_repeat and (waiting := await self._pool.take(endpoint)):
            try:
                return await begin().run(waiting)
            except StaleConnection:
                log.debug("%s has ended a connection that waited", endpoint.proxy_to)
        fresh = await Upstream.connect(
            endpoint,
            await self._trust() if endpoint.uses_tls else None,
            self._settings.connect_timeout.total_seconds(),
        )
        return await begin().run(fresh)

    def close(self) -> None:
        """Closes the connections that wait for another request."""
        self._pool.close()

    def _check(self, match: Match, scope: Scope) -> None:
        if scope["method"] == "CONNECT":
            raise HttpProblem(
                405,
                f"{match.endpoint.path} opens no tunnels",
                "use another method: CONNECT is for proxies that a client chooses itself",
                headers={"Allow": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"},
            )
        if header_rules.is_loop(scope["headers"]):
            raise HttpProblem(
                508,
                f"{match.endpoint.path} leads back to this API",
                "let its operator correct proxy_to in the file of the extra APIs",
                headers={"Proxy-Status": "knit; error=proxy_loop_detected"},
            )
        if self._busy >= self._settings.max_requests:
            raise HttpProblem(
                503,
                f"{self._busy} requests of extra APIs are under way, and no more are allowed",
                "try again in some seconds",
                headers={
                    "Retry-After": "2",
                    "Proxy-Status": "knit; error=connection_limit_reached",
                },
            )

    async def _trust(self) -> ssl.SSLContext:
        if self._tls is None:  # a quarter of a second and some MiB, for those who need it
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        return self._tls
