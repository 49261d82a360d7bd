"""Which Runs may have a workflow, which have one, and stops on their way to them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from typing import Any, Final

from knit_workflows import names
from knit_workflows.domain.errors import IllegalMove, Superseded
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.ports import (
    ATTENDED_FOR,
    AdmissionLimits,
    RunKey,
    StartableRun,
    StopOrder,
)
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Session
from knit_workflows.store.listening import Listener
from knit_workflows.store.plans.images import image_of
from knit_workflows.store.runs.execution import RunRows
from knit_workflows.store.runs.waiting import admit_next

_SQL: Final = named_sql.beside(__file__)


def of_runs_to_start(statement: str) -> str:
    """Put what a start needs to know where the statement has its place for it."""
    return statement.replace("/*runs_to_start*/", _SQL["runs_to_start"])


_STARTABLE: Final = of_runs_to_start(_SQL["startable"])
_LOCK: Final = 5_640_102
_BATCH: Final = 500


class AdmissionRows(RunRows):
    """The part of the store that starts workflows and hands stops to them."""

    _db: Database
    _listener: Listener

    async def admit(self, limits: AdmissionLimits) -> Sequence[StartableRun]:
        """Admit waiting Runs up to the limits; give all admitted ones without a workflow.

        At most `ADMITTED_AT_ONCE` are admitted, in the order of `waiting.sql`: call again
        until none is given.
        """

        async def step(session: Session) -> list[Any]:
            await session.do(_SQL["lock"], {"lock": _LOCK})
            await admit_next(session, limits)
            return await session.rows(_STARTABLE)

        return [startable_run(row) for row in await self._db.transaction(step)]

    async def started(self, keys: Sequence[RunKey]) -> None:
        """Record that these Runs' workflows exist."""
        ordered = sorted(keys, key=lambda key: key.run_id)
        await self._db.rows(
            _SQL["started"],
            {
                "run_ids": [key.run_id for key in ordered],
                "generations": [key.generation for key in ordered],
                "channel": names.OUTBOX_CHANNEL,
            },
        )

    async def stop_orders(self) -> Sequence[StopOrder]:
        """Give stops to deliver, oldest first; only of Runs whose workflow has been started."""
        return [
            StopOrder(row.event_id, RunKey(RunId(row.run_id), row.generation), row.fail)
            for row in await self._db.rows(_SQL["stop_orders"])
        ]

    async def close_event(self, event_id: int) -> None:
        """Remove a delivered event. Gone already: fine."""
        await self._db.do(_SQL["close_event"], {"event_id": event_id})

    async def finish_unstarted(self) -> int:
        """Finalize aborting Runs that never were admitted; gives how many."""
        finished = 0
        for row in await self._db.rows(_SQL["unstarted"], {"limit": _BATCH}):
            try:
                await self.finalize(RunKey(RunId(row.run_id), row.generation), cause="stopped")
            except (IllegalMove, Superseded):
                continue  # retried or deleted since
            finished += 1
        return finished

    async def attend(self) -> None:
        """Tell every process that somebody begins to wait for a transfer."""
        await self._db.do(_SQL["attend"], {"channel": names.ATTENDED_CHANNEL})

    def attended(self) -> bool:
        """Say whether somebody has begun to wait for something within `ATTENDED_FOR`."""
        return self._listener.silence(names.ATTENDED_CHANNEL) < ATTENDED_FOR

    async def work(self, *, fallback: timedelta) -> AsyncGenerator[None, None]:
        """Yield at once, then whenever there may be work: on NOTIFY, or after `fallback`."""
        with self._listener.subscribed(names.OUTBOX_CHANNEL) as bell:
            while True:
                yield
                left = ATTENDED_FOR - self._listener.silence(names.ATTENDED_CHANNEL)
                await bell.wait(min(fallback, left) if left > timedelta() else fallback)


def startable_run(row: Any) -> StartableRun:
    """Read a row of `runs_to_start`."""
    return StartableRun(
        key=RunKey(RunId(row.run_id), row.generation),
        plan_id=PlanId(row.plan_id),
        image=str(image_of(row)),
        command=tuple(row.command),
        input_ids=tuple(KnitId(one) for one in row.input_ids),
    )
