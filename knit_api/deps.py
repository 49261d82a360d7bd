"""What the routes work with: the store, Temporal, and doors to volumes; each may be away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Generic, Protocol, TypeVar
from uuid import UUID

import httpx
from fastapi import Depends, Request

from knit_api.server.streams import Threads, drain_background
from knit_api.watchdog import wait_or_abandon
from knit_workflows.client import TransferHandle
from knit_workflows.contracts.transfers import Closed
from knit_workflows.domain.errors import KnitError, Unavailable
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.ports import ApiStore

log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_SECONDS: Final = 5.0
"""How long a request waits for a part that has not been connected yet."""
PAUSE_SECONDS: Final = 1.0
"""How long after a failed attempt nobody tries anew; requests are refused at once meanwhile."""
SETTLE_SECONDS: Final = 5.0


class Transfers(Protocol):
    """What the API asks of Temporal; `knit_workflows.client.KnitClient` is it."""

    async def ping(self) -> None: ...  # noqa: D102
    async def open_upload(self, key: UUID | None = None) -> TransferHandle: ...  # noqa: D102
    async def open_download(self, knit_id: KnitId) -> TransferHandle: ...  # noqa: D102
    async def renew(self, transfer: TransferHandle) -> None: ...  # noqa: D102
    async def finish(  # noqa: D102
        self, transfer: TransferHandle, *, ok: bool, reason: str = ""
    ) -> Closed: ...


class Lazy(Generic[T]):
    """A part that is connected when first needed, and tried anew after a failure.

    So the process starts, and answers, whatever is away. Once connected the part itself is in
    charge of reconnecting.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[T]],
        unavailable: type[Unavailable],
        *,
        seconds: float = CONNECT_SECONDS,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        self._connect = connect
        self._unavailable = unavailable
        self._seconds = seconds
        self._pause = pause
        self._value: T | None = None
        self._failed_at = -pause
        self._failure: KnitError = unavailable()
        self._lock = asyncio.Lock()

    @classmethod
    def of(cls, value: T) -> Lazy[T]:
        """Gives one that is connected already."""
        lazy = cls(lambda: _ready(value), Unavailable)
        lazy._value = value
        return lazy

    @property
    def connected(self) -> T | None:
        """The part, if it has been connected."""
        return self._value

    async def get(self) -> T:
        """Gives the part, connecting it first if need be; raises the `unavailable` error."""
        if self._value is not None:
            return self._value
        async with self._lock:
            if self._value is None:
                if time.monotonic() - self._failed_at < self._pause:
                    last = self._failure  # a new error each time: one gathers stacks
                    raise type(last)(last.reason, advice=last.advice, see=last.see)
                self._value = await self._try()
            return self._value

    async def _try(self) -> T:
        try:
            value = await wait_or_abandon(self._connect(), self._seconds)
        except Exception as error:  # whatever a driver raises: it is away
            self._failed_at = time.monotonic()
            log.warning(
                "%s: %r", self._unavailable.__name__, error, extra={"action": "connect_failed"}
            )
            self._failure = error if isinstance(error, KnitError) else self._unavailable()
            raise self._failure from error
        log.info("connected", extra={"action": "connected", "part": type(value).__name__})
        return value


async def _ready(value: T) -> T:
    return value


def agent_client() -> httpx.AsyncClient:
    """Gives the client that speaks to transfer agents."""
    # Agents are pods of this cluster: no proxy, and as many as there are transfers. They speak
    # plain HTTP, so certificates need not be loaded, which costs 0.2 s and some MiB.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(trust_env=False, verify=False, limits=limits, timeout=30.0)


@dataclass(frozen=True, slots=True)
class Deps:
    """All that one API process holds.

    `lease` is how long a transfer may be silent; `new_runs` how many Runs a Plan may create at once
    without being confirmed. `disk` is the database's folder, if it is on this machine.
    """

    store: Lazy[ApiStore]
    transfers: Lazy[Transfers]
    lease: timedelta = timedelta(seconds=60)
    new_runs: int = 10_000
    disk: Path | None = None
    close_store: Callable[[], Awaitable[None]] | None = None
    threads: Threads = field(default_factory=Threads.start)
    agents: httpx.AsyncClient = field(default_factory=agent_client)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process is about to end: what would go on for ever ends by itself."""

    async def aclose(self) -> None:
        """Lets go of everything; waits shortly for transfers that are being ended."""
        await drain_background(SETTLE_SECONDS)
        self.threads.shutdown()
        await self.agents.aclose()
        if self.close_store is not None:
            with suppress(KnitError):
                await self.close_store()


def get_deps(request: Request) -> Deps:
    """Gives the process's parts to a route."""
    deps: Deps = request.app.state.deps
    return deps


DepsOf = Annotated[Deps, Depends(get_deps)]


async def get_store(deps: DepsOf) -> ApiStore:
    """Gives the store to a route; raises StoreUnavailable."""
    return await deps.store.get()


StoreOf = Annotated[ApiStore, Depends(get_store)]
