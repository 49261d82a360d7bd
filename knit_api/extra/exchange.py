"""One request of an extra API and its response, streamed both ways at the same time.

Two tasks share the connection to the service: one feeds it the request's body and then watches
whether the client leaves, the other passes on the response. A service may respond before it has the
whole body, or without reading it. What it does not end properly is not ended properly by us.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Final

import h11
from starlette.types import Message, Receive, Scope, Send

from knit_api.errors import ClientDisconnected, HttpProblem
from knit_api.extra import header_rules
from knit_api.extra.endpoints import Match
from knit_api.extra.pool import Pool
from knit_api.extra.tunnel import tunnel
from knit_api.extra.upstream import Upstream, UpstreamFailed
from knit_api.server.framing import accepts_chunks, needs_http_1_1
from knit_api.server.sockets import peer_of
from knit_api.server.streams import cancel_and_wait
from knit_api.server.trailers import EXTENSION, ResponseAborted, request_trailers

log = logging.getLogger(__name__)

_CONTINUE_SECONDS: Final = 1.0
"""How long a service may take to say `100 Continue`; many never do (RFC 9110, §10.1.1)."""


class Exchange:
    """Forwards one request; `run` is called once."""

    def __init__(
        self,
        match: Match,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        idle: timedelta,
        pool: Pool,
        stopping: asyncio.Event,
    ) -> None:
        self._endpoint = match.endpoint
        self._target = match.endpoint.target(match.rest, scope["query_string"].decode("latin-1"))
        self._scope = scope
        self._receive = receive
        self._send = send
        self._idle = idle.total_seconds()
        self._limit = asyncio.timeout(self._idle)
        self._pool = pool
        self._stopping = stopping
        self._status = 0
        self._promised: float | None = None
        self._waits_for_client = False
        self._started = False
        self._body_wanted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def run(self, upstream: Upstream) -> None:
        """Sends the response; the connection to the service is kept for another, or closed.

        Raises:
            HttpProblem: before the response has started.
            ResponseAborted, UpstreamFailed: afterwards; it must end without a proper end.
            StaleConnection: see `Upstream.responses`; nothing was sent to the client.
            ClientDisconnected: the client left.
        """
        complete = False
        try:
            async with self._limit:
                await self._relay(upstream)
            complete = True
        except TimeoutError as error:
            raise self._timed_out() from error
        finally:
            if not complete:
                upstream.abort()
            elif self._may_keep(upstream):
                self._pool.put(upstream, self._promised)
            else:
                upstream.close()

    async def _relay(self, upstream: Upstream) -> None:
        feeding = asyncio.ensure_future(self._feed(upstream))
        responding = asyncio.ensure_future(self._respond(upstream))
        try:
            await asyncio.wait({feeding, responding}, return_when=asyncio.FIRST_COMPLETED)
            done = responding.done()
        finally:
            await cancel_and_wait(feeding, responding)
        if done:
            responding.result()
        else:
            feeding.result()
            raise ClientDisconnected("the client left")

    # --- client to service ---

    async def _feed(self, upstream: Upstream) -> None:
        """Returns when the client has left."""
        try:
            await upstream.send(self._request())
            self._progress()
            if not header_rules.has_body(self._scope["headers"]):
                await upstream.send(h11.EndOfMessage())
            elif await self._may_send_body():
                await self._feed_body(upstream)
        except OSError as error:  # it may have responded all the same
            log.debug("%s takes no more: %s", self._endpoint.proxy_to, error)
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _feed_body(self, upstream: Upstream) -> None:
        more = True
        while more:
            self._waits_for_client = True
            message = await self._receive()
            self._waits_for_client = False
            if message["type"] == "http.disconnect":
                raise ClientDisconnected("the client closed the connection within the body")
            if body := message.get("body", b""):
                await upstream.send(h11.Data(data=body))
            more = message.get("more_body", False)
            self._progress()
        sent = request_trailers(self._scope).items()
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent]
        await upstream.send(h11.EndOfMessage(headers=header_rules.trailers(encoded)))

    def _request(self) -> h11.Request:
        sent = header_rules.request_headers(self._scope["headers"], self._endpoint, self._client())
        return h11.Request(method=self._scope["method"], target=self._target, headers=sent)

    def _client(self) -> header_rules.Client:
        headers = self._scope["headers"]
        host = next((value for name, value in headers if name == b"host"), b"")
        return header_rules.Client(peer_of(self._scope), self._scope["scheme"], host)

    async def _may_send_body(self) -> bool:
        """Waits until the service wants the body, if the client waits for that (100-continue)."""
        if b"100-continue" not in header_rules.values(self._scope["headers"], b"expect"):
            return True
        # Whoever receives tells the client to go on.
        await asyncio.wait({self._body_wanted}, timeout=_CONTINUE_SECONDS)
        return not self._body_wanted.done() or self._body_wanted.result()

    # --- service to client ---

    async def _respond(self, upstream: Upstream) -> None:
        async for response in upstream.responses():
            self._progress()
            if isinstance(response, h11.Response):
                await self._respond_with(upstream, response)
            elif response.status_code == 100:
                self._want_body(True)
            elif response.status_code == 101:
                await self._switch(upstream, response)

    async def _respond_with(self, upstream: Upstream, response: h11.Response) -> None:
        self._check(response)
        self._status = response.status_code
        self._promised = header_rules.kept_for(response.headers)
        headers = header_rules.response_headers(
            list(response.headers), self._endpoint, self._client()
        )
        has_trailers = EXTENSION in self._scope.get("extensions", {}) and header_rules.is_chunked(
            response.headers
        )
        if not has_trailers:
            headers = [one for one in headers if one[0] != b"trailer"]
        start: Message = {"status": response.status_code, "headers": headers}
        self._started = True
        await self._send({"type": "http.response.start", "trailers": has_trailers, **start})
        self._want_body(False)
        async for part in upstream.body():
            if isinstance(part, h11.Data):
                body = {"body": bytes(part.data), "more_body": True}
                await self._send({"type": "http.response.body", **body})
                self._progress()
            else:
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
                if has_trailers:
                    sent = header_rules.trailers(part.headers)
                    await self._send({"type": EXTENSION, "headers": sent})

    async def _switch(self, upstream: Upstream, response: h11.InformationalResponse) -> None:
        if not header_rules.wants_websocket(self._scope["headers"]):
            reason = "changes to a protocol that nobody asked for"
            raise UpstreamFailed(self._endpoint, "http_protocol_error", reason)
        self._started = True
        await tunnel(self._scope, upstream, response, self._progress, self._stopping)

    def _check(self, response: h11.Response) -> None:
        if response.status_code > 599:
            reason = f"responds with the status {response.status_code}, which does not exist"
            raise UpstreamFailed(self._endpoint, "http_protocol_error", reason)
        has_body = self._scope["method"] != "HEAD" and response.status_code not in (204, 304)
        has_length = any(name == b"content-length" for name, _ in response.headers)
        unframed = header_rules.is_chunked(response.headers) or not has_length
        if has_body and unframed and not accepts_chunks(self._scope):
            raise needs_http_1_1("the response")

    def _may_keep(self, upstream: Upstream) -> bool:
        """Says whether what comes next on a connection can only be the next response."""
        return (
            upstream.is_reusable
            and self._scope["method"] != "HEAD"
            and self._status not in (204, 304)
            and not header_rules.binds_connection(self._scope["headers"])
        )

    # --- both ---

    def _want_body(self, wanted: bool) -> None:
        if not self._body_wanted.done():
            self._body_wanted.set_result(wanted)

    def _progress(self) -> None:
        self._limit.reschedule(asyncio.get_running_loop().time() + self._idle)

    def _timed_out(self) -> Exception:
        if self._started:
            return ResponseAborted(f"nothing moved for {self._idle:g} s")
        if self._waits_for_client:
            reason = f"the client sent nothing for {self._idle:g} s"
            return HttpProblem(408, reason, "send the request again", {"Connection": "close"})
        reason = f"did not respond within {self._idle:g} s"
        return UpstreamFailed(self._endpoint, "http_response_timeout", reason, 504)
