"""A volume that is a folder of this machine."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from knit_api.server.streams import (
    BodySource,
    BytePipe,
    Chunks,
    ThreadIterator,
    Threads,
    finish_despite_cancel,
)
from knit_api.transfers.upload_body import UploadBody, refused_archive
from knit_workflows import archive
from knit_workflows.archive import Form, Span
from knit_workflows.disk import FULL, storage_full
from knit_workflows.domain import errors
from knit_workflows.domain.os_errors import advice_for

T = TypeVar("T")

LOG_FILE: Final = "log"
"""The name of the one file in the volume of a log."""

_FOLLOW_INTERVAL: Final = 0.1
_TAIL_BYTES: Final = 1 << 20
_DISK_FULL: Final = FULL | {errno.EFBIG}
_BAD_NAME: Final = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
_READ_LOG: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LocalVolume:
    """A volume that is a folder of this machine; the API process reads and writes it itself."""

    def __init__(self, root: Path, threads: Threads) -> None:
        self._root = root
        self._threads = threads

    async def put(self, body: UploadBody) -> None:
        """See `VolumeAccess`."""
        with body.detached() as detached:
            if detached is not None:
                await self._put(detached, body, None)
            else:
                pipe = BytePipe()
                await self._put(pipe, body, _feed(pipe, body))

    async def _put(
        self, source: BodySource, body: UploadBody, feeding: Coroutine[Any, Any, None] | None
    ) -> None:
        loop = asyncio.get_running_loop()
        job = loop.run_in_executor(self._threads.uploads, self._unpack, source, body)
        try:
            if feeding is not None:
                await feeding
            await asyncio.wait({job})
            job.result()
        except BaseException:
            source.abort()
            await finish_despite_cancel(asyncio.wait({job}))
            if job.exception() is None:  # it had received everything before the interruption
                await self.clear()
            raise

    async def clear(self) -> None:
        """See `VolumeAccess`."""
        loop = asyncio.get_running_loop()
        await finish_despite_cancel(
            loop.run_in_executor(self._threads.steps, archive.clear, self._root)
        )

    def archive(self, form: Form) -> Chunks:
        """See `VolumeAccess`."""
        return ThreadIterator(
            self._threads.steps, lambda: _readable(archive.iter_pack(self._root, form))
        )

    def spans(self, form: Form) -> Generator[bytes | Span, None, None]:
        """See `VolumeAccess`."""
        return _readable(archive.iter_spans(self._root, form))

    async def archive_bytes(self, form: Form) -> int:
        """See `VolumeAccess`."""
        return await self._measured(lambda: self.spans(form))

    def content(self) -> Chunks:
        """See `VolumeAccess`."""
        return ThreadIterator(
            self._threads.steps, lambda: _readable(archive.read_concatenated(self._root))
        )

    async def content_bytes(self) -> int:
        """See `VolumeAccess`."""
        return await self._measured(lambda: _readable(archive.iter_content_spans(self._root)))

    async def _measured(self, spans: Callable[[], Iterator[bytes | Span]]) -> int:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._threads.downloads, lambda: archive.length_of(spans())
        )

    async def followed(self) -> AsyncGenerator[bytes, None]:
        """See `VolumeAccess`."""
        loop = asyncio.get_running_loop()
        tail = _Tail(self._root / LOG_FILE)
        try:
            while True:
                # Its descriptor must not be closed while a thread reads from it.
                reading = loop.run_in_executor(self._threads.steps, tail.read)
                chunk = await finish_despite_cancel(reading)
                yield chunk
                if not chunk:
                    await asyncio.sleep(_FOLLOW_INTERVAL)
        finally:
            tail.close()

    def _unpack(self, source: BodySource, body: UploadBody) -> None:
        try:
            archive.unpack(_BodyReader(source, body), self._root, sync=True)
        except archive.ArchiveRefused as error:
            raise refused_archive(error.reason, error.member) from error
        except FileExistsError as error:
            raise errors.DataExists from error
        except OSError as error:
            _raise_for_disk(error, self._root)
        finally:
            source.close()


class _BodyReader:
    """The file that `archive.unpack` reads in its thread: plain tar, decoded from the body."""

    def __init__(self, source: BodySource, body: UploadBody) -> None:
        self._source = source
        self._body = body
        self._ended = False

    def read(self, size: int, /) -> bytes | memoryview:
        """Gives the next chunk; empty once the body is complete and its checksum verified."""
        decoder = self._body.decoder
        while not (chunk := decoder.read()):
            if self._ended:
                return b""
            encoded = self._source.get()
            if encoded:
                decoder.feed(encoded)
            else:
                # Verified before the unpacker sees the end, so that it removes a bad archive.
                decoder.finish(self._body.checksum())
                self._ended = True
        return chunk


class _Tail:
    """Reads a file that grows and need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def read(self) -> bytes:
        """Gives what was appended since the last call, at most 1 MiB."""
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self._path, _READ_LOG)
            except FileNotFoundError:
                return b""
        return os.read(self._descriptor, _TAIL_BYTES)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


async def _feed(pipe: BytePipe, body: UploadBody) -> None:
    """Puts the body into the pipe, up to its end or until the reader closes the pipe."""
    async for chunk in body:
        if not await pipe.put(chunk):
            return
    pipe.put_eof()


def _readable(chunks: Iterator[T]) -> Generator[T, None, None]:
    """Translates into domain errors what keeps a folder from being read."""
    try:
        yield from chunks
    except archive.CannotPack as error:
        raise errors.BackendRejected(f"the Data cannot be packed: {error}") from error
    except FileNotFoundError as error:
        raise errors.DataNotFound(
            "the Data has no content", advice="its Run ended before it could write anything"
        ) from error
    except OSError as error:
        raise _volume_failed("read", error) from error


def _raise_for_disk(error: OSError, folder: Path) -> NoReturn:
    if error.errno in _DISK_FULL:
        raise storage_full(error, folder) from error
    if error.errno in _BAD_NAME:
        raise refused_archive(f"the storage refuses a name ({error.strerror})", None) from error
    raise _volume_failed("written", error) from error


def _volume_failed(what: str, error: OSError) -> errors.BackendUnavailable:
    return errors.BackendUnavailable(
        f"the volume cannot be {what}: {error.strerror or error}",
        advice=f"tell the operator, who can help where Data is kept: {advice_for(error)}",
    )
