"""Keeps the hooks of a hooks file in force, and tells others which worker does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from knit_workflows.domain.errors import KnitError
from knit_workflows.domain.hooks import FOLLOWS_FOR, HooksSource
from knit_workflows.domain.ports import HookStore
from knit_workflows.hooks.caller import HookCaller
from knit_workflows.hooks.file import Follower, HooksFile

log = logging.getLogger(__name__)

_SAYS_SO_EVERY: Final = FOLLOWS_FOR / 6
_LEAVES_WITHIN: Final = timedelta(seconds=2)


class FollowedHooks:
    """A hooks file that a worker follows; `worker` is its identity in Temporal."""

    def __init__(self, worker: str, path: Path, store: HookStore, caller: HookCaller) -> None:
        self._path = path
        self._store = store
        self._caller = caller
        self._source = HooksSource(worker, str(path), "")
        self._problem = ""

    @asynccontextmanager
    async def in_force(self) -> AsyncIterator[None]:
        """Keeps its hooks in force while inside, however it changes."""
        follower = Follower(self._path, self._apply, self._refuse)
        await follower.begin()
        tasks = [
            asyncio.create_task(follower.go_on()),
            asyncio.create_task(self._go_on_saying_so()),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._leave()

    async def _apply(self, file: HooksFile) -> None:
        self._caller.configure(file)
        self._now(file.digest, "")
        changed = await self._store.configure(file.hooks, self._source)
        await self._say_so()
        if changed:
            log.info(
                "hooks are in force: %d before, %d after",
                len(file.hooks.before),
                len(file.hooks.after),
                extra={"action": "hooks_changed", "digest": file.digest},
            )

    async def _refuse(self, problem: str) -> None:
        self._now("", problem)
        log.error(
            "hooks file is refused, those before stay in force: %s",
            problem,
            extra={"action": "hooks_refused"},
        )
        await self._say_so()

    def _now(self, digest: str, problem: str) -> None:
        self._source = HooksSource(self._source.worker, self._source.file, digest)
        self._problem = problem

    async def _say_so(self) -> None:
        await self._store.follow(self._source, self._problem)

    async def _go_on_saying_so(self) -> None:
        while True:
            await asyncio.sleep(_SAYS_SO_EVERY.total_seconds())
            with suppress(KnitError):  # the next time will do
                await self._say_so()

    async def _leave(self) -> None:
        """Otherwise it would count for a while, perhaps against the one that takes its place."""
        with suppress(KnitError, TimeoutError):
            async with asyncio.timeout(_LEAVES_WITHIN.total_seconds()):
                await self._store.leave(self._source.worker)
