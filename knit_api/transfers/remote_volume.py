"""A volume behind the transfer agent in a pod."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from typing import Any, Final

import httpx

from knit_api.server.streams import Chunks, Threads, cancel_and_wait, finish_despite_cancel
from knit_api.transfers.agent_download import AgentRefused, received
from knit_api.transfers.agent_upload import (
    BROKEN_RESPONSE,
    NO_CONNECTION,
    SILENT,
    AgentUnreachable,
    send_body,
)
from knit_api.transfers.codecs import PLAIN_TAR
from knit_api.transfers.upload_body import UploadBody, refused_archive
from knit_workflows.archive import Form
from knit_workflows.domain import errors

_IDLE_AFTER: Final = 0.5
"""An agent that follows and sends nothing for so long, longer than its interval, has nothing."""
_TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)
_FOLLOW_TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0, read=None)


class RemoteVolume:
    """A volume behind the agent of `knit_workflows.pod.agent`."""

    def __init__(self, url: str, token: str, threads: Threads, http: httpx.AsyncClient) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._threads = threads
        self._http = http

    async def put(self, body: UploadBody) -> None:
        """See `VolumeAccess`."""
        headers = {**self._headers, "Content-Type": PLAIN_TAR}
        plain = self._plain(body)
        try:
            status, detail = await send_body(f"{self._url}/", headers, plain)
        except AgentUnreachable as error:
            raise _agent_lost(error) from error
        finally:
            await plain.aclose()
        _raise_for_agent(status, detail)

    async def clear(self) -> None:
        """See `VolumeAccess`."""
        try:
            response = await self._http.delete(f"{self._url}/", headers=self._headers)
        except httpx.HTTPError as error:
            raise _agent_lost(error) from error
        _raise_for_agent(response.status_code, response.content)

    async def archive(self, form: Form) -> AsyncGenerator[bytes, None]:
        """See `VolumeAccess`."""
        loop = asyncio.get_running_loop()
        # Not among the `steps`: an agent may let each wait.
        threads = self._threads.downloads
        chunks = self.spans(form)
        try:
            while chunk := await finish_despite_cancel(
                loop.run_in_executor(threads, next, chunks, b"")
            ):
                yield chunk
        finally:
            await finish_despite_cancel(loop.run_in_executor(threads, chunks.close))

    def spans(self, form: Form) -> Generator[bytes, None, None]:
        """See `VolumeAccess`; there is no span among them."""
        try:
            yield from received(self._url, f"/?{form.query()}", self._headers)
        except AgentUnreachable as error:
            raise _agent_lost(error) from error
        except AgentRefused as refused:
            _raise_for_agent(refused.status, refused.body)

    async def archive_bytes(self, form: Form) -> int:
        """See `VolumeAccess`."""
        return await self._measured(f"/?{form.query()}")

    def content(self) -> Chunks:
        """See `VolumeAccess`."""
        return self._get("/log", _TIMEOUT)

    async def content_bytes(self) -> int:
        """See `VolumeAccess`."""
        return await self._measured("/log")

    async def _measured(self, path: str) -> int:
        try:
            response = await self._http.head(
                self._url + path, headers=self._headers, timeout=_TIMEOUT
            )
        except httpx.HTTPError as error:
            raise _agent_lost(error) from error
        _raise_for_agent(response.status_code, b"")
        return int(response.headers["Content-Length"])

    async def followed(self) -> AsyncGenerator[bytes, None]:
        """See `VolumeAccess`."""
        chunks = self._get("/log?follow", _FOLLOW_TIMEOUT)
        pending = asyncio.ensure_future(anext(chunks, None))
        try:
            while True:
                await asyncio.wait({pending}, timeout=_IDLE_AFTER)
                if not pending.done():
                    yield b""
                    continue
                chunk = pending.result()
                if chunk is None:
                    return
                yield chunk
                pending = asyncio.ensure_future(anext(chunks, None))
        finally:
            await cancel_and_wait(pending)
            await chunks.aclose()

    async def _get(self, path: str, timeout: httpx.Timeout) -> AsyncGenerator[bytes, None]:
        async with AsyncExitStack() as stack:
            try:
                request = self._http.stream(
                    "GET", self._url + path, headers=self._headers, timeout=timeout
                )
                response = await stack.enter_async_context(request)
                if response.status_code != 200:
                    _raise_for_agent(response.status_code, await response.aread())
                if not {"content-length", "transfer-encoding"} & response.headers.keys():
                    raise errors.BackendUnavailable(
                        "something between the API and the transfer agent hides where bodies end",
                        advice="let whatever proxies inside the cluster speak HTTP/1.1",
                    )
                async for chunk in response.aiter_raw():
                    yield chunk
            except httpx.HTTPError as error:
                raise _agent_lost(error) from error

    async def _plain(self, body: UploadBody) -> AsyncGenerator[bytes | memoryview, None]:
        loop = asyncio.get_running_loop()
        decoder = body.decoder
        async for chunk in body:
            decoder.feed(chunk)
            while plain := await loop.run_in_executor(self._threads.steps, decoder.read):
                yield plain
        # If this raises, the agent never gets the last chunk and removes what it has unpacked.
        decoder.finish(body.checksum())


def _agent_lost(error: AgentUnreachable | httpx.HTTPError) -> errors.BackendUnavailable:
    """Says it in words of ours: those of HTTP libraries are about their own state."""
    match error:
        case AgentUnreachable():
            why = str(error)
        case httpx.ConnectError() | httpx.ConnectTimeout():
            why = NO_CONNECTION
        case httpx.TimeoutException():
            why = SILENT
        case _:
            why = BROKEN_RESPONSE
    return errors.BackendUnavailable(
        f"the volume's transfer agent is lost: {why}",
        advice="try again in some seconds",
    )


def _raise_for_agent(status: int, body: bytes) -> None:
    """Translates an error response of the agent into a domain error, by its status alone."""
    if status < 300:
        return
    detail = _agent_reason(body)
    reason = str(detail.get("reason") or f"the transfer agent answered {status}")
    member = detail.get("member")
    if status == 400:
        raise refused_archive(reason, str(member) if member else None)
    if status == 409:
        raise errors.DataExists
    if status == 507:
        raise errors.StorageFull(f"there is no room left in the Data's volume: {reason}")
    if status == 503:
        raise errors.TransferNotReady(reason)
    raise errors.BackendUnavailable(f"the volume's agent failed: {reason}")


def _agent_reason(body: bytes) -> dict[str, Any]:
    try:
        detail = json.loads(body)
    except ValueError:
        return {}
    return detail if isinstance(detail, dict) else {}
