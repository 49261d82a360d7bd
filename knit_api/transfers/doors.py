"""The client's side of a door to a volume: a folder of this machine, or the agent in a pod."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterator,
)
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import httpx

from knit_api.server.streams import BytePipe, ThreadIterator, Threads, cancelled, completed
from knit_api.transfers.agent_upload import AgentLost, send_body
from knit_api.transfers.codecs import PLAIN_TAR
from knit_api.transfers.upload_body import UploadBody
from knit_workflows import archive
from knit_workflows.archive import Form, Span
from knit_workflows.disk import FULL, storage_full
from knit_workflows.domain import errors
from knit_workflows.domain.os_errors import advice_for
from knit_workflows.domain.ports import TransferRecord

T = TypeVar("T")

FOLLOW_SECONDS: Final = 0.1
"""How often a followed log is looked at."""
AGENT_SILENCE_SECONDS: Final = 0.5
"""A followed agent that sends nothing for so long, longer than its own interval, has nothing."""
LOG_FILE: Final = "log"

_DISK_FULL: Final = FULL | {errno.EFBIG}
_BAD_NAME: Final = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
_READ_LOG: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PATIENCE: Final = httpx.Timeout(60.0, connect=10.0)
_ENDLESS: Final = httpx.Timeout(60.0, connect=10.0, read=None)


class Pieces(Protocol):
    """Bytes that come piece by piece, from something that must be closed."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...
    async def __anext__(self) -> bytes: ...
    async def aclose(self) -> None: ...  # noqa: D102


class Inlet(Protocol):
    """Where a thread gets a body from: a pipe that the event loop feeds, or the socket itself."""

    def get(self) -> bytes | memoryview:
        """Waits for the next piece, good until the next call; empty at the end."""

    def abandon(self) -> None:
        """Says, from the thread, that nothing will be read any more."""

    def break_off(self) -> None:
        """Makes the reader's next call raise, unless everything is there."""


class Door(Protocol):
    """One open door to one volume."""

    async def put(self, body: UploadBody) -> None:
        """Unpacks a body into the empty volume: all of it, or nothing.

        Raises InvalidArchive, DataExists, StorageFull, BackendUnavailable, and what the body does.
        """

    async def clear(self) -> None:
        """Empties the volume again."""

    def archive(self, form: Form) -> Pieces:
        """Gives the volume as plain tar."""

    def spans(self, form: Form) -> Generator[bytes | Span, None, None] | None:
        """Gives the same for a thread, large files unread; None where they are not at hand."""

    async def archive_bytes(self, form: Form) -> int | None:
        """Gives how long that archive is, as long as nothing changes; None: it cannot be told."""

    def content(self) -> Pieces:
        """Gives the content of all files, one after another."""

    async def content_bytes(self) -> int | None:
        """Gives how long that content is now; None: it cannot be told."""

    def followed(self) -> Pieces:
        """Gives the content of the log, then what is added to it, without end.

        An empty piece says that there was nothing new for the moment; a few come per second.
        """


def open_door(record: TransferRecord, threads: Threads, http: httpx.AsyncClient) -> Door:
    """Gives the door a transfer leads to. Raises TransferNotReady when it is not open yet."""
    if not record.endpoint:
        raise errors.TransferNotReady
    url = urlsplit(record.endpoint)
    if url.scheme == "file":
        return FolderDoor(Path(unquote(url.path)), threads)
    return AgentDoor(record.endpoint.rstrip("/"), record.token, threads, http)


class FolderDoor:
    """A volume that is a folder here; whoever may use the API's process may use the folder."""

    def __init__(self, root: Path, threads: Threads) -> None:
        self._root = root
        self._threads = threads

    async def put(self, body: UploadBody) -> None:
        """Sees `Door`."""
        with body.taken() as taken:
            if taken is not None:
                await self._put(taken, body, None)
            else:
                pipe = BytePipe()
                await self._put(pipe, body, _feed(pipe, body))

    async def _put(
        self, inlet: Inlet, body: UploadBody, feeding: Coroutine[Any, Any, None] | None
    ) -> None:
        loop = asyncio.get_running_loop()
        job = loop.run_in_executor(self._threads.uploads, self._unpack, inlet, body)
        try:
            if feeding is not None:
                await feeding
            await asyncio.wait({job})
            job.result()
        except BaseException:
            inlet.break_off()
            await completed(asyncio.wait({job}))
            if job.exception() is None:  # it had got everything before we were interrupted
                await self.clear()
            raise

    async def clear(self) -> None:
        """Sees `Door`."""
        loop = asyncio.get_running_loop()
        await completed(loop.run_in_executor(self._threads.steps, archive.clear, self._root))

    def archive(self, form: Form) -> Pieces:
        """Sees `Door`."""
        return ThreadIterator(
            self._threads.steps, lambda: _readable(archive.iter_pack(self._root, form))
        )

    def spans(self, form: Form) -> Generator[bytes | Span, None, None]:
        """Sees `Door`."""
        return _readable(archive.iter_spans(self._root, form))

    async def archive_bytes(self, form: Form) -> int:
        """Sees `Door`."""
        return await self._measured(lambda: self.spans(form))

    def content(self) -> Pieces:
        """Sees `Door`."""
        return ThreadIterator(
            self._threads.steps, lambda: _readable(archive.read_concatenated(self._root))
        )

    async def content_bytes(self) -> int:
        """Sees `Door`."""
        return await self._measured(lambda: _readable(archive.iter_content_spans(self._root)))

    async def _measured(self, spans: Callable[[], Iterator[bytes | Span]]) -> int:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._threads.downloads, lambda: archive.length_of(spans())
        )

    async def followed(self) -> AsyncGenerator[bytes, None]:
        """Sees `Door`."""
        loop = asyncio.get_running_loop()
        tail = _Tail(self._root / LOG_FILE)
        try:
            while True:
                piece = await loop.run_in_executor(self._threads.steps, tail.read)
                yield piece
                if not piece:
                    await asyncio.sleep(FOLLOW_SECONDS)
        finally:
            tail.close()

    def _unpack(self, inlet: Inlet, body: UploadBody) -> None:
        try:
            archive.unpack(_BodyReader(inlet, body), self._root, sync=True)
        except archive.ArchiveRefused as error:
            raise _refused(error.reason, error.member) from error
        except FileExistsError as error:
            raise errors.DataExists from error
        except OSError as error:
            _raise_for_disk(error, self._root)
        finally:
            inlet.abandon()


class _BodyReader:
    """What `archive.unpack` reads from, in its thread: plain tar out of the body."""

    def __init__(self, inlet: Inlet, body: UploadBody) -> None:
        self._inlet = inlet
        self._body = body
        self._ended = False

    def read(self, size: int, /) -> bytes | memoryview:
        """Gives the next piece; empty once the body is complete and was found good."""
        decoder = self._body.decoder
        while not (piece := decoder.read()):
            if self._ended:
                return b""
            wire = self._inlet.get()
            if wire:
                decoder.feed(wire)
            else:
                # Judged before the unpacker sees the end, so that it removes what is not good.
                decoder.finish(self._body.checksum())
                self._ended = True
        return piece


class _Tail:
    """Reads a file that grows, and need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def read(self) -> bytes:
        """Gives what is new, at most 1 MiB."""
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self._path, _READ_LOG)
            except FileNotFoundError:
                return b""
        return os.read(self._descriptor, 1 << 20)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


class AgentDoor:
    """A volume behind the agent of `knit_workflows.pod.agent`."""

    def __init__(self, url: str, token: str, threads: Threads, http: httpx.AsyncClient) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._threads = threads
        self._http = http

    async def put(self, body: UploadBody) -> None:
        """Sees `Door`."""
        headers = {**self._headers, "Content-Type": PLAIN_TAR}
        plain = self._plain(body)
        try:
            status, told = await send_body(f"{self._url}/", headers, plain)
        except AgentLost as error:
            raise _agent_lost(error) from error
        finally:
            await plain.aclose()
        _raise_for_agent(status, told)

    async def clear(self) -> None:
        """Sees `Door`."""
        try:
            answer = await self._http.delete(f"{self._url}/", headers=self._headers)
        except httpx.HTTPError as error:
            raise _agent_lost(error) from error
        _raise_for_agent(answer.status_code, answer.content)

    def archive(self, form: Form) -> Pieces:
        """Sees `Door`."""
        return self._get(f"/?{form.query()}", _PATIENCE)

    def spans(self, form: Form) -> None:
        """Sees `Door`."""

    async def archive_bytes(self, form: Form) -> int | None:
        """Sees `Door`."""
        return await self._measured(f"/?{form.query()}")

    def content(self) -> Pieces:
        """Sees `Door`."""
        return self._get("/log", _PATIENCE)

    async def content_bytes(self) -> int | None:
        """Sees `Door`."""
        return await self._measured("/log")

    async def _measured(self, path: str) -> int | None:
        try:
            answer = await self._http.head(
                self._url + path, headers=self._headers, timeout=_PATIENCE
            )
        except httpx.HTTPError as error:
            raise _agent_lost(error) from error
        if answer.status_code == 405:  # an agent of an older release
            return None
        _raise_for_agent(answer.status_code, b"")
        return int(answer.headers["Content-Length"])

    async def followed(self) -> AsyncGenerator[bytes, None]:
        """Sees `Door`."""
        pieces = self._get("/log?follow", _ENDLESS)
        coming = asyncio.ensure_future(anext(pieces, None))
        try:
            while True:
                await asyncio.wait({coming}, timeout=AGENT_SILENCE_SECONDS)
                if not coming.done():
                    yield b""
                    continue
                piece = coming.result()
                if piece is None:
                    return
                yield piece
                coming = asyncio.ensure_future(anext(pieces, None))
        finally:
            await cancelled(coming)
            await pieces.aclose()

    async def _get(self, path: str, timeout: httpx.Timeout) -> AsyncGenerator[bytes, None]:
        async with AsyncExitStack() as stack:
            try:
                request = self._http.stream(
                    "GET", self._url + path, headers=self._headers, timeout=timeout
                )
                answer = await stack.enter_async_context(request)
                if answer.status_code != 200:
                    _raise_for_agent(answer.status_code, await answer.aread())
                if not {"content-length", "transfer-encoding"} & answer.headers.keys():
                    raise errors.BackendUnavailable(
                        "something between the API and the transfer agent hides where bodies end",
                        advice="let whatever proxies inside the cluster speak HTTP/1.1",
                    )
                async for piece in answer.aiter_raw():
                    yield piece
            except httpx.HTTPError as error:
                raise _agent_lost(error) from error

    async def _plain(self, body: UploadBody) -> AsyncGenerator[bytes | memoryview, None]:
        loop = asyncio.get_running_loop()
        decoder = body.decoder
        async for wire in body:
            decoder.feed(wire)
            while piece := await loop.run_in_executor(self._threads.steps, decoder.read):
                yield piece
        # If this raises, the agent never sees the last chunk and removes what it has.
        decoder.finish(body.checksum())


async def _feed(pipe: BytePipe, body: UploadBody) -> None:
    """Puts the body into the pipe, up to its end or until nobody wants more of it."""
    async for wire in body:
        if not await pipe.put(wire):
            return
    pipe.end()


def _readable(pieces: Iterator[T]) -> Generator[T, None, None]:
    """Names in the domain's words what keeps a folder from being read."""
    try:
        yield from pieces
    except archive.CannotPack as error:
        raise errors.BackendRejected(f"the Data cannot be packed: {error}") from error
    except FileNotFoundError as error:
        raise errors.DataNotFound(
            "the Data has no content", advice="its Run ended before it could write anything"
        ) from error
    except OSError as error:
        raise _volume_trouble("read", error) from error


def _refused(reason: str, member: str | None) -> errors.InvalidArchive:
    place = f"{member!r}: " if member else ""
    return errors.InvalidArchive(
        f"the archive is refused: {place}{reason}",
        advice="nothing of it was kept; pack the folder anew, then push again",
    )


def _raise_for_disk(error: OSError, folder: Path) -> NoReturn:
    if error.errno in _DISK_FULL:
        raise storage_full(error, folder) from error
    if error.errno in _BAD_NAME:
        raise _refused(f"the storage refuses a name ({error.strerror})", None) from error
    raise _volume_trouble("written", error) from error


def _volume_trouble(what: str, error: OSError) -> errors.BackendUnavailable:
    return errors.BackendUnavailable(
        f"the volume cannot be {what}: {error.strerror or error}",
        advice=f"tell the operator, who can help where Data is kept: {advice_for(error)}",
    )


def _agent_lost(error: Exception) -> errors.BackendUnavailable:
    return errors.BackendUnavailable(
        f"the transfer agent does not answer ({str(error) or type(error).__name__})",
        advice="try again in some seconds",
    )


def _raise_for_agent(status: int, body: bytes) -> None:
    """Turns what the agent answers into the domain's words, by its status alone."""
    if status < 300:
        return
    told = _agent_reason(body)
    reason = str(told.get("reason") or f"the transfer agent answered {status}")
    member = told.get("member")
    if status == 400:
        raise _refused(reason, str(member) if member else None)
    if status == 409:
        raise errors.DataExists
    if status == 507:
        raise errors.StorageFull(f"there is no room left in the Data's volume: {reason}")
    if status == 503:
        raise errors.TransferNotReady(reason)
    raise errors.BackendUnavailable(f"the volume's agent failed: {reason}")


def _agent_reason(body: bytes) -> dict[str, Any]:
    try:
        told = json.loads(body)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
