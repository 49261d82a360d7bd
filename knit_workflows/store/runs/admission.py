"""Admits Runs, records which workflows exist, and hands out stops to deliver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from knit_workflows import names
from knit_workflows.domain.errors import IllegalMove, Superseded
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.ports import (
    THROTTLE_FOR,
    AdmissionLimits,
    Pass,
    RunKey,
    StartableRun,
    StopRequest,
)
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Statement
from knit_workflows.store.listening import Listener
from knit_workflows.store.locks import AdvisoryLock
from knit_workflows.store.plans.images import image_of
from knit_workflows.store.projection.projection_store import PostgresProjectionStore
from knit_workflows.store.runs.execution import PostgresRunExecutionStore
from knit_workflows.store.runs.queue import admitting

_SQL: Final = named_sql.beside(__file__)


RUNS_TO_START: Final = _SQL["runs_to_start"]
"""The part of a statement that reads what `startable_run` needs."""
_BATCH: Final = 500


class PostgresAdmissionStore:
    """Implements `ports.AdmissionStore`."""

    def __init__(
        self,
        db: Database,
        listener: Listener,
        execution: PostgresRunExecutionStore,
        projection: PostgresProjectionStore,
    ) -> None:
        self._db = db
        self._listener = listener
        self._execution = execution
        self._projection = projection
        self._has_stops = True

    async def admit(self, limits: AdmissionLimits) -> Sequence[StartableRun]:
        """See the port; the order is that of `queue.sql`."""
        return self._startable(await self._db.together(_admission(limits, ())))

    async def project_and_admit(
        self, *, page_size: int, limits: AdmissionLimits, started: Sequence[RunKey]
    ) -> Pass:
        """See the port; one transaction."""
        last = _admission(limits, started)
        projection, rows = await self._projection.project_and(page_size, last)
        return Pass(projection, None if rows is None else self._startable(rows))

    def _startable(self, rows: Sequence[list[Any]]) -> Sequence[StartableRun]:
        *_, startable, [stops] = rows
        self._has_stops = stops.found
        return [startable_run(row) for row in startable]

    async def prepare(self, keys: Sequence[RunKey]) -> None:
        """See the port."""
        await self._execution.prepare(keys)

    async def started(self, keys: Sequence[RunKey]) -> None:
        """See the port."""
        await self._db.rows(*_recording_started(keys))

    def has_stops(self) -> bool:
        """See the port."""
        return self._has_stops

    async def stop_requests(self) -> Sequence[StopRequest]:
        """See the port."""
        return [
            StopRequest(row.event_id, RunKey(RunId(row.run_id), row.generation), row.fail)
            for row in await self._db.rows(_SQL["stop_requests"])
        ]

    async def close_event(self, event_id: int) -> None:
        """See the port."""
        await self._db.do(_SQL["close_event"], {"event_id": event_id})

    async def finish_unstarted(self) -> int:
        """See the port."""
        finished = 0
        for row in await self._db.rows(_SQL["unstarted"], {"limit": _BATCH}):
            key = RunKey(RunId(row.run_id), row.generation)
            try:
                status = await self._execution.finish(key, cause="stopped")
            except (IllegalMove, Superseded):
                continue  # retried or deleted since
            finished += status.is_final
        return finished

    def throttled(self) -> bool:
        """See the port."""
        return self._listener.silence(names.THROTTLE_CHANNEL) < THROTTLE_FOR


def _admission(limits: AdmissionLimits, started: Sequence[RunKey]) -> list[Statement]:
    """Gives the statements of one admission, which are one transaction and one round trip.

    A Run that waits for its turn waits for this.
    """
    return [
        *([_recording_started(started)] if started else []),
        (_SQL["lock"], {"lock": AdvisoryLock.ADMISSION}),
        *admitting(limits),
        (_SQL["startable"], None),
        (_SQL["has_stops"], None),
    ]


def _recording_started(keys: Sequence[RunKey]) -> Statement:
    ordered = sorted(keys, key=lambda key: key.run_id)
    return _SQL["started"], {
        "run_ids": [key.run_id for key in ordered],
        "generations": [key.generation for key in ordered],
        "channel": names.OUTBOX_CHANNEL,
    }


def startable_run(row: Any) -> StartableRun:
    """Reads a row of `runs_to_start`."""
    return StartableRun(
        key=RunKey(RunId(row.run_id), row.generation),
        plan_id=PlanId(row.plan_id),
        image=str(image_of(row) or ""),
        command=tuple(row.command),
        input_ids=tuple(KnitId(one) for one in row.input_ids),
    )
