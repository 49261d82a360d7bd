"""Keeps empty volumes waiting for uploads, each with an open transfer.

A row is there before its claim and its pod, and goes after the pod: whatever dies in between, the
next turn of a keeper goes on. An upload takes a volume by deleting its row (`begin_upload`), so a
volume has either one keeper or one Data.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Final

from knit_workflows import names
from knit_workflows.compute.base import ComputeBackend, Transfer, TransferMode, WarmPool
from knit_workflows.domain.errors import DataExists, KnitError, TransferNotReady
from knit_workflows.domain.ports import WarmVolume, WarmVolumeStore
from knit_workflows.domain.volumes import Volume

log = logging.getLogger(__name__)

_WHILE_OPENING: Final = 0.2
_AT_REST: Final = 10.0
"""Seconds until the next turn, unless an upload takes a volume."""


class WarmVolumes:
    """The volumes that one process keeps waiting; other processes may keep others."""

    def __init__(self, store: WarmVolumeStore, backend: ComputeBackend, idle: timedelta) -> None:
        """`idle` is after how long without a keeper a transfer closes itself."""
        self._store = store
        self._backend = backend
        self._idle = idle
        self._me = uuid.uuid4().hex
        self._taken = asyncio.Event()
        self._said = ""

    def taken(self) -> None:
        """Has what an upload has taken replaced soon."""
        self._taken.set()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keeps them while inside; they stay afterwards."""
        pool = self._backend.warm_pool()
        if pool is None:
            yield
            return
        keeping = asyncio.create_task(self._keep(pool))
        try:
            yield
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping

    async def _keep(self, pool: WarmPool) -> None:
        while True:
            self._taken.clear()
            pause = _AT_REST
            try:
                if not await self.turn(pool):
                    pause = _WHILE_OPENING
                self._said = ""
            except KnitError as error:
                self._failed(error)
            except Exception:
                log.exception("warm volumes", extra={"action": "warm_volumes"})
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._taken.wait()

    async def turn(self, pool: WarmPool) -> bool:
        """Does what there is to do; True if nothing is left to wait for."""
        held = await self._store.hold(self._me, pool.kind, pool.count)
        looks = (self._look_after(one) for one in held)
        done = await asyncio.gather(*looks, return_exceptions=True)
        for one in done:
            if isinstance(one, BaseException):
                raise one
        return all(done)

    async def _look_after(self, one: WarmVolume) -> bool:
        volume = Volume(one.volume, one.knit_id)
        transfer = Transfer(
            names.warm_transfer(one.volume), volume, TransferMode.WRITE, one.token, self._idle
        )
        try:
            if not one.ending:
                await self._backend.create_volume(volume)
                await self._backend.open_transfer(transfer)
                await self._store.ready(self._me, one.volume)
                return True
        except TransferNotReady:
            return False
        except DataExists:
            pass  # somebody else has written to it
        # By now it may be an upload's that began after our hold had ended, and so may its pod.
        if await self._store.end(self._me, one.volume):
            await self._backend.close_transfer(transfer)
            await self._store.discard(self._me, one.volume)
        return True

    def _failed(self, error: KnitError) -> None:
        if error.reason != self._said:
            self._said = error.reason
            log.warning(
                "no volumes are kept waiting for uploads: %s",
                error.reason,
                extra={"action": "warm_volumes"},
            )
