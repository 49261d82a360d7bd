"""An HTTP proxy in front of the API server of a cluster, which refuses, stalls and cuts watches."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from random import Random
from typing import Final

import aiohttp
from aiohttp import web

_HOP_BY_HOP: Final = frozenset(
    ("connection", "host", "keep-alive", "transfer-encoding", "content-length", "upgrade")
)
_MOST: Final = 64 << 20


class ApiServerProxy:
    """Speaks plain HTTP to knit, and with a client certificate to the API server."""

    def __init__(self, server: str, tls: ssl.SSLContext, random: Random) -> None:
        self._server = server
        self._tls = tls
        self._random = random
        self._watches: set[asyncio.Task[object]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.storm: tuple[int, float] | None = None
        """With which status requests are refused, and how many of them."""
        self.delay = 0.0

    @property
    def url(self) -> str:
        """Where knit reaches the cluster."""
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def open(self) -> None:
        """Listens."""
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )
        application = web.Application(client_max_size=_MOST)
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()

    async def aclose(self) -> None:
        """Ends everything."""
        self.cut_watches()
        await self._runner.cleanup()
        await self._client.close()

    def cut_watches(self) -> int:
        """Loses all watches; gives how many there were."""
        hit = len(self._watches)
        for one in list(self._watches):
            one.cancel()
        return hit

    def hold(self) -> None:
        """Answers nobody until `let_go`."""
        self._flows.clear()

    def let_go(self) -> None:
        """Answers again."""
        self._flows.set()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if self.storm is not None and self._random.random() < self.storm[1]:
            return _refusal(self.storm[0])
        await self._flows.wait()
        if self.delay:
            await asyncio.sleep(self.delay)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
        body = await request.read()
        url = f"{self._server}{request.raw_path}"
        try:
            return await self._passed(request, url, headers, body)
        except aiohttp.ClientError:  # the server is away, or goes away in the middle of its answer
            if request.transport is not None:
                request.transport.abort()
            raise

    async def _passed(
        self, request: web.Request, url: str, headers: Mapping[str, str], body: bytes
    ) -> web.StreamResponse:
        async with self._client.request(request.method, url, headers=headers, data=body) as found:
            answer = web.StreamResponse(status=found.status)
            for name, value in found.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    answer.headers.add(name, value)
            # Whoever has asked may be gone by now.
            with suppress(ConnectionError):
                await answer.prepare(request)
                if request.query.get("watch"):
                    await self._watch(request, found, answer)
                else:
                    await answer.write(await found.read())
                await answer.write_eof()
            return answer

    async def _watch(
        self, request: web.Request, found: aiohttp.ClientResponse, answer: web.StreamResponse
    ) -> None:
        """Passes events on until the watch ends or is cut, which shows as a lost connection."""
        passing: asyncio.Task[object] = asyncio.create_task(self._pass(found, answer))
        self._watches.add(passing)
        try:
            await asyncio.wait({passing})
        finally:
            self._watches.discard(passing)
            if not passing.done() or passing.cancelled() or passing.exception():
                passing.cancel()
                if request.transport is not None:
                    request.transport.abort()

    async def _pass(self, found: aiohttp.ClientResponse, answer: web.StreamResponse) -> None:
        async for chunk in found.content.iter_any():
            await self._flows.wait()
            await answer.write(chunk)


def _refusal(code: int) -> web.Response:
    reasons = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "the storm",
        "reason": reasons[code],
        "code": code,
    }
    headers = {"Retry-After": "1"} if code == 429 else {}
    return web.json_response(status, status=code, headers=headers)
