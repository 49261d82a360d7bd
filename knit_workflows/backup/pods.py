"""Volumes behind a back-end: each is opened as a transfer opens it, some of them ahead.

On Kubernetes a transfer is a short-lived pod that mounts the claim, read-only to be read.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import secrets
import threading
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from knit_workflows import archive, names
from knit_workflows.backup.volumes import VolumeAbsent, VolumeOccupied, VolumeUnreadable
from knit_workflows.compute.base import ComputeBackend, Transfer, TransferMode
from knit_workflows.domain.errors import (
    BackendRejected,
    BackendUnavailable,
    DataExists,
    KnitError,
    TransferNotReady,
)
from knit_workflows.domain.volumes import Volume, VolumeOptions
from knit_workflows.settings import ComputeSettings

T = TypeVar("T")

TRANSFER_ID: Final = "backup"
"""With this begins the last part of the names of these pods; up to four characters may follow."""
_AHEAD: Final = 6
_OPENING: Final = timedelta(minutes=5)
_IDLE: Final = timedelta(minutes=15)
_PAUSE: Final = 0.2
_CHUNK: Final = 1 << 20
_CONNECTING: Final = 30.0
_TIMEOUT: Final = 300.0


def served_by_pods(compute: ComputeSettings) -> ComputeSettings:
    """Gives these settings for a process without the mounts that those of workers may name."""
    cluster = compute.kubernetes.model_copy(update={"volume_folders": None})
    return compute.model_copy(update={"kubernetes": cluster})


class PodVolumes:
    """The volumes of a back-end that serves them over HTTP; implements `Volumes`."""

    at_once = 1
    """The next ones are opened meanwhile: it is pods that are waited for."""

    def __init__(
        self,
        backend: ComputeBackend,
        storage_class: str | None = None,
        transfer_id: str = TRANSFER_ID,
        usual: int = 0,
    ) -> None:
        """Says how volumes are opened.

        `storage_class`: that of volumes that are made; None: the installation's. `transfer_id`: the
        last part of the names of pods; no other command may have the same at the same time.
        `usual`: bytes of volumes for which no size is asked.
        """
        self._usual = usual
        self._backend = backend
        self._transfer_id = transfer_id
        self._storage_class = storage_class
        self._loop = asyncio.new_event_loop()
        self._coming: deque[tuple[Volume, TransferMode]] = deque()
        self._opened: dict[tuple[str, TransferMode], _Opened] = {}
        self._closing: list[Future[None]] = []
        self._made: set[str] = set()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Connects to the back-end; at the end all that was opened is closed."""
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        try:
            self._do(self._backend.open())
            try:
                yield
            finally:
                for opened in list(self._opened.values()):
                    opened.opening.cancel()
                    self._close(opened)
                for one in self._closing:
                    with suppress(KnitError):
                        one.result()
                self._do(self._backend.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    def expect(self, volumes: Sequence[Volume], *, to_write: bool) -> None:
        """See `Volumes`: some are opened ahead, since a pod takes seconds."""
        mode = TransferMode.WRITE if to_write else TransferMode.READ
        self._coming.extend((one, mode) for one in volumes)

    def settle(self) -> None:
        """See `Volumes`: an agent answers only once all is on its disk."""

    def read(self, volume: Volume) -> Iterator[bytes]:
        """See `Volumes`."""
        with self._connected(volume, TransferMode.READ) as (connection, token):
            yield from _received(connection, token, volume)

    def capacity(self, volume: Volume) -> int | None:
        """See `Volumes`."""
        try:
            return self._do(self._backend.measure_volume(volume))
        except KnitError:
            return None  # what is asked for again is then the installation's own

    def room_for(self, size: int) -> str | None:
        """See `Volumes`."""
        return str(size) if size > self._usual else None

    def write(self, volume: Volume, archive_: Iterator[bytes]) -> None:
        """See `Volumes`; the agent undoes what is cut."""
        with self._connected(volume, TransferMode.WRITE) as (connection, token):
            _require_empty(connection, token)
            _send(connection, token, archive_, volume)

    # --- transfers ------------------------------------------------------------------------------

    def _open(self, volume: Volume, mode: TransferMode) -> _Opened:
        """Gives the opening of a volume, and begins those of the next ones."""
        if self._coming and self._coming[0] == (volume, mode):
            self._coming.popleft()
        opened = self._begun(volume, mode)
        for other in list(self._coming)[:_AHEAD]:
            self._begun(*other)
        return opened

    @contextmanager
    def _connected(
        self, volume: Volume, mode: TransferMode
    ) -> Iterator[tuple[http.client.HTTPConnection, str]]:
        """Connects to the agent of a volume, and gives the token that it wants.

        An agent that was opened ahead ends by itself if the volume before took long, and one that
        could not be opened then may be now. So each of these is closed, and opened anew once.
        """
        opened = self._open(volume, mode)
        try:
            connection = None if opened.has_failed() else _connection_to(self._endpoint(opened))
            if connection is None:
                with suppress(KnitError):
                    self._close(opened).result()
                opened = self._begun(volume, mode)
                connection = _connection_to(self._endpoint(opened))
            if connection is None:
                raise VolumeUnreadable(f"{volume.name}: its pod cannot be reached")
            with closing(connection), _losses(volume):
                yield connection, opened.transfer.token
        finally:
            self._close(opened)

    def _begun(self, volume: Volume, mode: TransferMode) -> _Opened:
        key = (volume.name, mode)
        if key not in self._opened:
            name = names.transfer(volume.knit_id, mode.value, self._transfer_id)
            transfer = Transfer(name, volume, mode, secrets.token_urlsafe(32), idle=_IDLE)
            opening = asyncio.run_coroutine_threadsafe(self._opening(transfer), self._loop)
            self._opened[key] = _Opened(key, transfer, opening)
        return self._opened[key]

    async def _opening(self, transfer: Transfer) -> str:
        told = "it is not ready"
        volume = transfer.volume
        try:
            async with asyncio.timeout(_OPENING.total_seconds()):
                while True:
                    try:
                        if transfer.mode is TransferMode.WRITE:
                            await self._make(volume)
                        return (await self._backend.open_transfer(transfer)).url
                    except (TransferNotReady, BackendUnavailable) as not_yet:
                        told = not_yet.reason
                    await asyncio.sleep(_PAUSE)
        except TimeoutError as cause:
            raise VolumeUnreadable(f"{volume.name}: {told}") from cause

    async def _make(self, volume: Volume) -> None:
        if volume.name not in self._made:
            options = VolumeOptions(storage_class=self._storage_class, size=volume.options.size)
            await self._backend.create_volume(replace(volume, options=options))
            self._made.add(volume.name)

    def _endpoint(self, opened: _Opened) -> str:
        """Gives the address of an opened volume."""
        try:
            return opened.opening.result()
        except DataExists as cause:
            raise VolumeOccupied from cause
        except BackendRejected as cause:
            # Also an image that cannot be pulled, or an agent that fails, is refused for good.
            if self._is_missing(opened.transfer.volume):
                raise VolumeAbsent(cause.reason) from cause
            raise VolumeUnreadable(f"{opened.transfer.volume.name}: {cause.reason}") from cause
        except KnitError as cause:
            raise VolumeUnreadable(cause.reason) from cause

    def _is_missing(self, volume: Volume) -> bool:
        """Says whether there is no such volume; where that cannot be asked, there may be one."""
        try:
            return bool(self._do(self._backend.missing_volumes([volume])))
        except KnitError:
            return False

    def _close(self, opened: _Opened) -> Future[None]:
        self._opened.pop(opened.key, None)
        ending = self._backend.close_transfer(opened.transfer)
        self._closing = [one for one in self._closing if not one.done()]
        self._closing.append(asyncio.run_coroutine_threadsafe(ending, self._loop))
        return self._closing[-1]

    def _do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


class _Opened:
    """A transfer that is open, or being opened."""

    def __init__(
        self, key: tuple[str, TransferMode], transfer: Transfer, opening: Future[str]
    ) -> None:
        self.key = key
        self.transfer = transfer
        self.opening = opening

    def has_failed(self) -> bool:
        """Says whether it could not be opened, some time ago; content that is there stays there."""
        if not self.opening.done():
            return False
        failure = self.opening.exception()
        return failure is not None and not isinstance(failure, DataExists)


def _received(
    connection: http.client.HTTPConnection, token: str, volume: Volume
) -> Iterator[bytes]:
    path = f"/?{archive.WHOLE.query()}"
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
    response = connection.getresponse()
    _require(response, HTTPStatus.OK, volume)
    while chunk := response.read(_CHUNK):
        yield chunk


def _require_empty(connection: http.client.HTTPConnection, token: str) -> None:
    """Raises VolumeOccupied before anything of an archive is read, which is needed to compare.

    An agent looks whether it may write before it misses the body.
    """
    connection.putrequest("POST", "/")
    connection.putheader("Authorization", f"Bearer {token}")
    connection.endheaders()
    response = connection.getresponse()
    response.read()
    if response.status == HTTPStatus.CONFLICT:
        raise VolumeOccupied
    connection.close()  # what comes next connects anew


def _send(
    connection: http.client.HTTPConnection, token: str, archive_: Iterator[bytes], volume: Volume
) -> None:
    headers = {"Authorization": f"Bearer {token}", "Transfer-Encoding": "chunked"}
    # A refusal is told although the rest of the body does not arrive any more.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.request("POST", "/", archive_, headers, encode_chunked=True)
    response = connection.getresponse()
    if response.status == HTTPStatus.CONFLICT:
        raise VolumeOccupied
    _require(response, HTTPStatus.NO_CONTENT, volume)


def _connection_to(url: str) -> http.client.HTTPConnection | None:
    """Connects to an agent; None: there is none."""
    address = urlsplit(url)
    host = address.hostname or ""
    connection = http.client.HTTPConnection(host, address.port, timeout=_CONNECTING)
    try:
        connection.connect()
    except OSError:
        connection.close()
        return None
    connection.timeout = _TIMEOUT
    connection.sock.settimeout(_TIMEOUT)
    return connection


@contextmanager
def _losses(volume: Volume) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as cause:
        raise VolumeUnreadable(f"{volume.name}: its pod was lost: {cause!r}") from cause


def _require(response: http.client.HTTPResponse, status: HTTPStatus, volume: Volume) -> None:
    if response.status == status:
        return
    body = response.read(1 << 16)
    reason = body.decode("utf-8", "replace")
    with suppress(ValueError, KeyError, TypeError):
        reason = json.loads(body)["reason"]
    raise VolumeUnreadable(f"{volume.name}: {response.status} {reason}")
