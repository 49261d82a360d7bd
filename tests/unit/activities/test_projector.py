"""In what order the Projector does what there is, and how many Runs it lets be under way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.api.enums.v1 import UpdateWorkflowExecutionLifecycleStage
from temporalio.api.workflowservice.v1 import (
    UpdateWorkflowExecutionRequest,
    UpdateWorkflowExecutionResponse,
)
from temporalio.client import Client as TemporalClient
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from knit_workflows.activities import projector
from knit_workflows.activities.projector import EVENTS_PER_PASS, PROJECT_FOR
from knit_workflows.compute.base import RunLimits
from knit_workflows.compute.memory import MemoryBackend
from knit_workflows.contracts.projector import Drained, ProjectorInput
from knit_workflows.domain.errors import BackendUnavailable, StoreUnavailable
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.ports import (
    ADMITTED_AT_ONCE,
    AdmissionLimits,
    Pass,
    Projection,
    RunKey,
    StartableRun,
    StopRequest,
)
from knit_workflows.plugin import Deps, Role
from knit_workflows.settings import EngineSettings, QueueSettings
from tests.waiting import PATIENCE, until

REQUEST = ProjectorInput(engine_queue="e", compute_queue="c", watch_queue="w")
"""A drain ends with the wake-ups of its store."""


class Store:
    """A store with so many events, each of which takes its time."""

    def __init__(self, events: int, seconds: float) -> None:
        self.left, self.seconds = events, seconds
        self.calls: list[str] = []
        self.limits: list[AdmissionLimits] = []
        self.startable: list[list[StartableRun]] = []
        self.projection = self.admission = self
        self.execution = self.transfers = self.runs = self.data = self.hooks = self
        self.housekeeping = self
        self.somebody_waits = False
        self.stops: list[StopRequest] = []

    async def project(self, *, page_size: int) -> Projection | None:
        if not self.left:
            return None
        self.calls.append("project")
        self.left -= 1
        await asyncio.sleep(self.seconds)
        return Projection("data_done", page_size, self.left > 0)

    async def project_and_admit(
        self, *, page_size: int, limits: AdmissionLimits, started: Sequence[RunKey]
    ) -> Pass:
        projection = await self.project(page_size=page_size)
        if projection is not None and projection.has_next:
            return Pass(projection, None)
        if started:
            await self.started(started)
        return Pass(projection, await self.admit(limits))

    async def admit(self, limits: AdmissionLimits) -> Sequence[StartableRun]:
        self.limits.append(limits)
        return self.startable.pop(0) if self.startable else []

    async def prepare(self, keys: Sequence[RunKey]) -> None:
        self.calls.append(f"prepared {len(keys)}")

    async def started(self, keys: Sequence[RunKey]) -> None:
        self.calls.append(f"started {len(keys)}")

    def has_stops(self) -> bool:
        return True

    async def finish_unstarted(self) -> int:
        return 0

    async def stop_requests(self) -> Sequence[StopRequest]:
        self.calls.append("stops")
        return [*self.stops]

    async def close_event(self, event_id: int) -> None:
        self.stops = [one for one in self.stops if one.event_id != event_id]

    def throttled(self) -> bool:
        return self.somebody_waits

    async def wake_ups(self, *, fallback: timedelta) -> AsyncGenerator[None, None]:
        yield


class Client:
    """A client of a Temporal that does not tell its search attributes."""

    namespace = "default"

    def __init__(self) -> None:
        self.operator_service = SimpleNamespace(list_search_attributes=self._refuse)

    async def start_workflow(self, *_arguments: object, **_options: object) -> None:
        """Takes any workflow."""

    async def _refuse(self, _request: object) -> None:
        raise RPCError("no", RPCStatusCode.PERMISSION_DENIED, b"")


class Machine(MemoryBackend):
    """One that suits seven Runs, five beside people, and nine short ones."""

    def suggested_runs(self) -> RunLimits:
        return RunLimits(usual=7, throttled=5, short=9)


class Updates(SimpleNamespace):
    """What the SDK's client sends updates with."""

    config = SimpleNamespace(identity="test")

    def __init__(self, update: Callable[..., Awaitable[object]]) -> None:
        super().__init__(workflow_service=SimpleNamespace(update_workflow_execution=update))


class ClientWithUpdates(Client):
    """One whose updates are the SDK's own, but for what they are sent with."""

    def __init__(self, update: Callable[..., Awaitable[object]]) -> None:
        super().__init__()
        service: Any = Updates(update)
        sdk = TemporalClient(service, data_converter=pydantic_data_converter)
        self.get_workflow_handle_for = sdk.get_workflow_handle_for


async def drained(
    store: Store,
    backend: type[MemoryBackend] = Machine,
    client: Client | None = None,
    *,
    queues: QueueSettings | None = None,
    request: ProjectorInput = REQUEST,
    environment: ActivityEnvironment | None = None,
    **settings: Any,
) -> Drained:
    """Lets the Projector do all there is."""
    engine = EngineSettings(**settings)
    deps = Deps(store, backend(), engine=engine, queues=queues)  # type: ignore[arg-type]
    [drain] = [
        one for one in deps.activities(frozenset({Role.ENGINE})) if one.__name__ == "drain_outbox"
    ]
    if environment is None:
        environment = ActivityEnvironment(client=client or Client())  # type: ignore[arg-type]
    result: Drained = await environment.run(drain, request)
    return result


@pytest.mark.patient
async def test_stops_do_not_wait_for_the_last_page_of_a_flood() -> None:
    """A page may be slow: after a while stops are delivered, beside the next one."""
    store = Store(3, PROJECT_FOR.total_seconds() * 1.1)
    await drained(store)
    assert store.calls[:5] == ["project", "project", "stops", "project", "stops"]


A_STOP = StopRequest(1, RunKey(RunId("r"), 1), fail=True)


async def test_a_drain_ends_while_a_stop_is_being_delivered() -> None:
    """The SDK makes an error of its own of the cancellation: it must not be taken for another."""
    store, is_sent = Store(0, 0), asyncio.Event()
    store.stops = [A_STOP]

    async def never_answered(*_arguments: object, **_options: object) -> None:
        is_sent.set()
        await asyncio.Event().wait()

    async def woken_once(*, fallback: timedelta) -> AsyncGenerator[None, None]:
        yield
        await is_sent.wait()

    store.wake_ups = woken_once  # type: ignore[method-assign]
    client = ClientWithUpdates(never_answered)
    draining = asyncio.create_task(drained(store, client=client))
    done, _ = await asyncio.wait({draining}, timeout=PATIENCE)
    draining.cancel()
    assert done == {draining}
    draining.result()
    assert store.stops == [A_STOP]  # for the next drain


ACCEPTED = UpdateWorkflowExecutionResponse(
    stage=UpdateWorkflowExecutionLifecycleStage.UPDATE_WORKFLOW_EXECUTION_LIFECYCLE_STAGE_ACCEPTED
)


def woken_once_while_there_are_stops(store: Store) -> None:
    async def wake_ups(*, fallback: timedelta) -> AsyncGenerator[None, None]:
        yield
        await until(lambda: not store.stops)

    store.wake_ups = wake_ups  # type: ignore[method-assign]


async def test_a_stop_that_is_not_taken_is_offered_again_and_keeps_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Although nothing wakes the Projector: of the stop that is late nobody tells it again."""
    monkeypatch.setattr(projector, "_AGAIN_AFTER", timedelta(milliseconds=10))
    store, sent = Store(0, 0), Counter[str]()
    store.stops = [A_STOP, StopRequest(2, RunKey(RunId("other"), 1), fail=True)]
    woken_once_while_there_are_stops(store)

    async def update(request: UpdateWorkflowExecutionRequest, **_options: object) -> object:
        update_id = request.request.meta.update_id
        sent[update_id] += 1
        if update_id == "stop-1" and sent["stop-1"] < 4:
            raise RPCError("late", RPCStatusCode.DEADLINE_EXCEEDED, b"")
        return ACCEPTED

    await drained(store, client=ClientWithUpdates(update))
    assert sent == {"stop-1": 4, "stop-2": 1}


async def test_stops_are_looked_for_again_after_the_database_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(projector, "_AGAIN_AFTER", timedelta(milliseconds=10))
    store, away = Store(0, 0), [StoreUnavailable("blinks")]
    store.stops = [A_STOP]
    woken_once_while_there_are_stops(store)

    async def finish_unstarted() -> int:
        if away:
            raise away.pop()
        return 0

    async def update(*_arguments: object, **_options: object) -> object:
        return ACCEPTED

    store.finish_unstarted = finish_unstarted  # type: ignore[method-assign]
    await drained(store, client=ClientWithUpdates(update))
    assert not away


def startable(count: int) -> list[StartableRun]:
    """Gives so many admitted Runs."""
    return [
        StartableRun(RunKey(RunId(f"r{n}"), 1), PlanId("p"), "demo:1", (), (KnitId("d"),))
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("events", "admitted", "looks"),
    [
        (0, [], 1),
        (EVENTS_PER_PASS, [3], 1),
        (EVENTS_PER_PASS + 1, [3], 2),
        (0, [ADMITTED_AT_ONCE, ADMITTED_AT_ONCE, 1], 3),
    ],
)
async def test_the_projector_looks_again_only_when_something_may_be_left(
    events: int, admitted: list[int], looks: int
) -> None:
    """What comes in meanwhile rings its bell; a round that left nothing is not repeated."""
    store = Store(events, 0)
    store.startable = [startable(count) for count in admitted]
    await drained(store)
    assert len(store.limits) == looks
    assert [one for one in store.calls if one.startswith("started")] == [
        f"started {count}" for count in admitted
    ]


@pytest.mark.parametrize(
    ("set_to", "alone", "beside_people"),
    [(None, (7, 9), (5, 0)), (2, (2, 2), (2, 0)), (1000, (1000, 1000), (5, 0))],
)
async def test_the_back_end_says_how_many_runs_and_the_settings_how_many_at_most(
    set_to: int | None, alone: tuple[int, int], beside_people: tuple[int, int]
) -> None:
    store = Store(0, 0)
    for store.somebody_waits in (False, True):
        await drained(store, max_active_runs=set_to)
    assert [(one.total, one.short) for one in store.limits] == [alone, beside_people]


@pytest.mark.parametrize("limit", [3, 1000])
async def test_a_back_end_that_shares_no_machine_with_users_is_never_throttled(limit: int) -> None:
    """Such as a cluster, whatever limit an operator has set."""
    store = Store(0, 0)
    store.somebody_waits = True
    await drained(store, MemoryBackend, max_active_runs=limit)
    assert [(one.total, one.short) for one in store.limits] == [(limit, limit)]


async def test_nobody_is_admitted_while_an_administrator_holds_runs() -> None:
    """Those who wait are told why."""
    store = Store(1, 0)
    await drained(store, hold="knit is frozen")
    assert {one.held for one in store.limits} == {"knit is frozen"}
    assert store.calls.count("project") == 1


ENDLESS = 1_000_000


async def test_a_drain_ends_in_its_time_although_there_is_always_more() -> None:
    """What is left is for the next one, which has the settings of its worker and a new history."""
    store = Store(ENDLESS, 0.01)
    request = REQUEST.model_copy(update={"drain_for": timedelta(seconds=0.3)})
    async with asyncio.timeout(PATIENCE / 10):
        done = await drained(store, request=request)
    assert 0 < done.events < ENDLESS


async def test_a_worker_can_stop_although_there_is_always_more() -> None:
    store = Store(ENDLESS, 0.01)
    environment = ActivityEnvironment(client=Client())  # type: ignore[arg-type]
    draining = asyncio.create_task(drained(store, environment=environment))
    await until(lambda: store.left < ENDLESS)
    environment.worker_shutdown()
    async with asyncio.timeout(PATIENCE / 10):
        done = await draining
    assert 0 < done.events < ENDLESS


class Unreadable(Machine):
    """One whose state folder cannot be used."""

    async def require_room(self) -> None:
        """Refuses."""
        raise BackendUnavailable("the state folder cannot be used")


async def test_events_are_projected_while_the_back_end_is_away() -> None:
    """The Runs that they mean are seen waiting, with the reason."""
    store = Store(1, 0)
    await drained(store, Unreadable)
    assert store.calls.count("project") == 1
    assert [one.held for one in store.limits] == ["the state folder cannot be used"]


async def test_started_workflows_are_recorded_although_nothing_follows() -> None:
    store = Store(0, 0)
    store.startable = [startable(2)]

    async def woken_once(*, fallback: timedelta) -> AsyncGenerator[None, None]:
        yield
        await until(lambda: "started 2" in store.calls)

    store.wake_ups = woken_once  # type: ignore[method-assign]
    await drained(store)


async def test_the_next_drain_has_the_settings_of_the_worker() -> None:
    """But for the queue that its workflow is on."""
    heartbeat = timedelta(seconds=7)
    queues = QueueSettings.single("new")
    done = await drained(Store(0, 0), queues=queues, projector_heartbeat=heartbeat)
    assert done.next_input == ProjectorInput(
        engine_queue=REQUEST.engine_queue,
        compute_queue="new",
        watch_queue="new",
        interactive_queue="new",
        hooks_queue="new",
        heartbeat=heartbeat,
    )
