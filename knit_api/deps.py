"""What the routes work with: store, Temporal and volumes, each of which may be unavailable."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, TypeVar
from uuid import UUID

from fastapi import Depends, Request

from knit_api.accounts.access import Accounts
from knit_api.accounts.guard import projects_of
from knit_api.accounts.projects import seen_by
from knit_api.extra.in_force import ExtraApis
from knit_api.schema_watch import SchemaWatch
from knit_api.server.streams import Threads, drain_background
from knit_api.watchdog import wait_or_abandon
from knit_workflows.client import TransferHandle
from knit_workflows.contracts.hook_test import HookTestResult
from knit_workflows.contracts.transfers import Closed
from knit_workflows.contracts.trials import TrialResult
from knit_workflows.contracts.volumes import Question, VolumeAnswer
from knit_workflows.domain.errors import KnitError, Unavailable
from knit_workflows.domain.hooks import HookPhase
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.imports import ImportTimes
from knit_workflows.domain.ports import ApiStore
from knit_workflows.domain.runs.run import USER
from knit_workflows.settings import ExtraApisSettings
from knit_workflows.temporal.queue_state import EngineState

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

T = TypeVar("T")


class TransferClient(Protocol):
    """What transfers ask of Temporal."""

    async def ping(self) -> None: ...  # noqa: D102
    async def open_upload(  # noqa: D102
        self, key: UUID | None = None, *, actor: str = USER
    ) -> TransferHandle: ...
    async def open_download(self, knit_id: KnitId) -> TransferHandle: ...  # noqa: D102
    async def renew(self, transfer: TransferHandle) -> None: ...  # noqa: D102
    async def finish(  # noqa: D102
        self, transfer: TransferHandle, *, ok: bool, reason: str = ""
    ) -> Closed: ...
    async def look_at_volumes(  # noqa: D102
        self, question: Question, volumes: Sequence[str]
    ) -> list[VolumeAnswer]: ...


class EngineClient(TransferClient, Protocol):
    """All that the API asks of Temporal; `knit_workflows.client.KnitClient` implements it."""

    async def state(self) -> EngineState: ...  # noqa: D102
    async def hook_skipped(self, run_id: RunId, generation: int) -> None: ...  # noqa: D102
    async def test_hook(self, url: str, phase: HookPhase) -> HookTestResult: ...  # noqa: D102
    async def try_plan(self, document: Mapping[str, Any]) -> TrialResult: ...  # noqa: D102


class Lazy(Generic[T]):
    """A part that is connected when first needed, and again after a failure.

    So the process starts and responds whatever is unavailable. Once connected, the part itself
    reconnects. A request waits at most `timeout` seconds for the connection; for `pause` seconds
    after a failed attempt requests fail at once.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[T]],
        unavailable: type[Unavailable],
        *,
        timeout: float = 5.0,
        pause: float = 1.0,
    ) -> None:
        self._connect = connect
        self._unavailable = unavailable
        self._timeout = timeout
        self._pause = pause
        self._value: T | None = None
        self._failed_at = -pause
        self._failure: KnitError = unavailable()
        self._lock = asyncio.Lock()

    @classmethod
    def of(cls, value: T) -> Lazy[T]:
        """Gives a part that is connected already."""
        lazy = cls(lambda: _ready(value), Unavailable)
        lazy._value = value
        return lazy

    @property
    def connected(self) -> T | None:
        """The part, if it has been connected."""
        return self._value

    async def get(self) -> T:
        """Gives the part, connecting it first if necessary; raises the `unavailable` error."""
        if self._value is not None:
            return self._value
        async with self._lock:
            if self._value is None:
                if time.monotonic() - self._failed_at < self._pause:
                    last = self._failure  # raised anew: one error would collect tracebacks
                    raise type(last)(last.reason, advice=last.advice, see=last.see)
                self._value = await self._try()
            return self._value

    async def _try(self) -> T:
        try:
            value = await wait_or_abandon(self._connect(), self._timeout)
        except Exception as error:  # whatever a driver raises means unavailable
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


class Agents:
    """The HTTP client for transfer agents, made for the first transfer that needs one."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None

    def client(self) -> httpx.AsyncClient:
        """Gives the client, always the same."""
        if self._client is None:
            # Here, since it takes 5 MiB, which an API on one machine never needs.
            import httpx

            # Agents are pods of this cluster: no proxy, one for each transfer. They speak plain
            # HTTP, so certificates, which cost 0.2 s and some MiB, need not be loaded.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
            self._client = httpx.AsyncClient(
                trust_env=False, verify=False, limits=limits, timeout=30.0
            )
        return self._client

    async def aclose(self) -> None:
        """Closes its connections, if there is one."""
        if self._client is not None:
            await self._client.aclose()


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long one API process waits, and how often it checks, in seconds."""

    write: float = 60.0
    """A client that takes nothing for so long is considered gone."""
    body: float = 60.0
    """How long a body of JSON, which has some MiB at most, may take to come."""
    ping: float = 3.0
    """How long store and Temporal may take to say that they are there."""
    open_check_interval: float = 3.0
    """How often both are pinged while a transfer is being opened."""
    finish: float = 30.0
    """How long the end of a complete upload is retried while Temporal does not answer."""
    abort: float = 5.0
    """How long the client of a failed transfer waits for its clean-up, which goes on without it."""
    log_poll_interval: float = 0.5
    """How often the store is asked whether the Run of a followed log goes on."""
    log_idle: float = 0.5
    """The log of a Run that has ended is complete once nothing was added for so long."""
    log_idle_while_ending: float = 3.0
    """The same while the Run is being ended: a stopped container may still write."""
    log_size: float = 10.0
    """How long the volume of a log may take to say, at the end, how much there is of it."""
    drain: float = 5.0
    """How long the end of the process waits for transfers that are being ended."""


@dataclass(frozen=True, slots=True)
class Deps:
    """All that one API process holds.

    A transfer fails when its client sends nothing for `lease`. A Plan may create `new_runs` Runs at
    once without confirmation, and have `plan_pod_keys` (None: all keys) in its `pod`. `disk` is the
    database's folder, if it is on this machine.
    """

    store: Lazy[ApiStore]
    transfers: Lazy[EngineClient]
    accounts: Accounts
    lease: timedelta = timedelta(seconds=60)
    imports: ImportTimes = field(default_factory=ImportTimes)
    new_runs: int = 10_000
    plan_pod_keys: tuple[str, ...] | None = None
    disk: Path | None = None
    timeouts: Timeouts = Timeouts()
    close_store: Callable[[], Awaitable[None]] | None = None
    threads: Threads = field(default_factory=Threads.start)
    schema: SchemaWatch = field(default_factory=SchemaWatch)
    extra_apis: ExtraApis = field(default_factory=lambda: ExtraApis(ExtraApisSettings()))
    agents: Agents = field(default_factory=Agents)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set on shutdown; endless responses (followed logs) watch it and finish."""

    async def aclose(self) -> None:
        """Closes everything, after a short wait for transfers that are being ended."""
        await drain_background(self.timeouts.drain)
        self.threads.shutdown()
        self.extra_apis.close()
        await self.agents.aclose()
        await self.accounts.aclose()
        if self.close_store is not None:
            with suppress(KnitError):
                await self.close_store()


def get_deps(request: Request) -> Deps:
    """Gives the process's parts to a route."""
    deps: Deps = request.app.state.deps
    return deps


DepsOf = Annotated[Deps, Depends(get_deps)]


async def get_store(request: Request, deps: DepsOf) -> ApiStore:
    """Gives the store to a route, as the caller may see it; raises StoreUnavailable."""
    return seen_by(await deps.store.get(), projects_of(request))


StoreOf = Annotated[ApiStore, Depends(get_store)]
