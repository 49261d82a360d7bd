"""Looks Runs up; requests, stops, retries and deletes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from knit_workflows import names
from knit_workflows.domain.cursors import Cursor, parse_cursor
from knit_workflows.domain.errors import (
    IllegalMove,
    InvalidRequest,
)
from knit_workflows.domain.ids import KnitId, PlanId, RunId, is_id
from knit_workflows.domain.plans.model import IMPORTED, UPLOADED
from knit_workflows.domain.ports import RunCensus, RunKey, RunsOfPlan
from knit_workflows.domain.runs.run import (
    ABORTED_BY_USER,
    STOPPED_BY_USER,
    USER,
    RunDetail,
    RunEvent,
    RunQuery,
    RunStatus,
    may_move,
)
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Session
from knit_workflows.store.ids import PackedIds, only_ids
from knit_workflows.store.listening import Listener
from knit_workflows.store.not_found import missing_data, missing_plan, missing_run
from knit_workflows.store.plans.images import plan_of
from knit_workflows.store.projection.candidates import inputs_filled_by
from knit_workflows.store.projection.creation import Combination, create_runs
from knit_workflows.store.runs import retry_delete
from knit_workflows.store.runs.details import run_details
from knit_workflows.store.runs.history import read_events
from knit_workflows.store.runs.search import search_all_runs, search_runs

_SQL: Final = named_sql.beside(__file__)

_ADVICE: Final = {
    RunStatus.DEACTIVATED: "it has not started: stop it with --fail",
    RunStatus.WAITING: "it has not started: stop it with --fail",
    RunStatus.COMPLETING: "wait until it is done",
    RunStatus.ABORTING: "wait until it has failed",
}
"""What a user may do about a Run that cannot be stopped in that way."""
_ENDED_BY_CLIENTS: Final = {
    IMPORTED: "end it with its token, or stop it with --fail",
    UPLOADED: "wait until the push has ended, or stop it with --fail",
}
"""What a user may do about those of whose content knit does not know when it is whole."""


class PostgresRunStore:
    """Implements `ports.RunStore`."""

    def __init__(self, db: Database, listener: Listener) -> None:
        self._db = db
        self._listener = listener

    async def find(
        self, query: RunQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[RunDetail]:
        """See the port."""

        async def read(session: Session) -> list[RunDetail]:
            cursor = None if after is None else await _located(session, parse_cursor(after))
            return await run_details(session, await search_runs(session, query, cursor, limit))

        return await self._db.reading(read)

    async def find_ids(self, query: RunQuery, *, after: str | None = None) -> Sequence[str]:
        """See the port."""

        async def read(session: Session) -> PackedIds:
            cursor = None if after is None else await _located(session, parse_cursor(after))
            return await search_all_runs(session, query, cursor)

        return await self._db.reading(read)

    async def get_each(self, run_ids: Sequence[str]) -> Sequence[RunDetail]:
        """See the port."""
        found = await self._db.reading(lambda session: run_details(session, run_ids))
        return [one for one in found if one.summary.status is not RunStatus.INVALIDATED]

    async def get(self, run_id: RunId) -> RunDetail:
        """See the port."""
        found: Sequence[RunDetail] = []
        if is_id(run_id):
            found = await self._db.reading(lambda session: run_details(session, [run_id]))
        if not found:
            raise missing_run(run_id)
        return found[0]

    async def census(self, *, plans: int) -> RunCensus:
        """See the port."""
        rows = await self._db.rows(_SQL["census"], {"most": plans})
        every: Counter[RunStatus] = Counter()
        by_plan: dict[tuple[PlanId, str], dict[RunStatus, int]] = {}
        for row in rows:
            status = RunStatus(row.status)
            every[status] += row.runs
            if row.plan_id is not None:
                plan = plan_of(row)
                by_plan.setdefault((row.plan_id, plan), {})[status] = row.runs
        found = [RunsOfPlan(plan_id, plan, runs) for (plan_id, plan), runs in by_plan.items()]
        found.sort(key=lambda one: (-sum(one.runs.values()), one.plan_id))
        waited = next((row.waited for row in rows), None)
        return RunCensus(every, waited or timedelta(), found)

    async def events(self, run_id: RunId) -> Sequence[RunEvent]:
        """See the port."""
        return await read_events(self._db, run_id)

    async def stop(self, run_id: RunId, *, fail: bool, actor: str = USER) -> RunDetail:
        """See the port."""
        if not is_id(run_id):
            raise missing_run(run_id)

        async def step(session: Session) -> None:
            row = await session.row(_SQL["lock_run"], {"run_id": run_id})
            if row is None:
                raise missing_run(run_id)
            await _stop(session, row, fail, actor)

        await self._db.freeing(step)
        return await self.get(run_id)

    async def retry(self, run_id: RunId, *, actor: str = USER) -> RunDetail:
        """See the port."""
        await retry_delete.retry(self._db, run_id, actor)
        return await self.get(run_id)

    async def delete(self, run_id: RunId, *, actor: str = USER) -> Sequence[str]:
        """See the port."""
        return await retry_delete.delete(self._db, run_id, actor)

    async def ensure(self, plan_id: PlanId, inputs: Mapping[str, KnitId]) -> RunKey:
        """See the port."""
        if not is_id(plan_id):
            raise missing_plan(plan_id)

        async def step(session: Session) -> RunKey:
            combination = await _combination(session, plan_id, inputs)
            wanted = {"plan_id": plan_id, "hash": combination.hash()}
            row = await session.row(_SQL["assigned_run"], wanted)
            if row is None:
                await _check_fills(session, combination)
                await create_runs(session, [combination], cause="requested")
                row = await session.row(_SQL["assigned_run"], wanted)
                if row is None:
                    raise InvalidRequest("one of the Data was purged at this moment")
            return RunKey(RunId(row.run_id), row.generation)

        return await self._db.transaction(step)

    async def wait_final(self, run_id: RunId, *, fallback: timedelta) -> RunDetail:
        """See the port."""
        if not is_id(run_id):
            raise missing_run(run_id)
        with self._listener.subscribe(names.RUN_CHANNEL, run_id) as subscription:
            while True:
                # Only its status: thousands may wait here, and finding out why costs more.
                row = await self._db.row(_SQL["run_status"], {"run_id": run_id})
                if row is None or RunStatus(row.status).is_final:
                    detail = await self.get(run_id)
                    if detail.summary.status.is_final:  # not retried in between
                        return detail
                await subscription.wait(fallback)


async def _located(session: Session, cursor: Cursor) -> Cursor:
    """Completes a cursor that is an id alone with the present instant of its Run."""
    if cursor.instant is not None:
        return cursor
    row = await session.row(_SQL["run_place"], {"run_id": cursor.id})
    if row is None:
        raise InvalidRequest(
            f"the cursor {cursor} is not the id of a Run", advice="start again without a cursor"
        )
    return Cursor(cursor.id, row.updated_at)


async def _stop(session: Session, row: Any, fail: bool, actor: str) -> None:
    before = RunStatus(row.status)
    target = RunStatus.ABORTING if fail else RunStatus.COMPLETING
    if before is target:
        return
    if not may_move(before, target):
        raise IllegalMove(
            f"the Run {row.run_id} is {before} and cannot become {target}",
            advice=_ADVICE.get(before, "there is nothing left to stop"),
            see=row.run_id,
        )
    if (advice := _ENDED_BY_CLIENTS.get(row.plan_name)) and not fail:
        raise IllegalMove(
            f"the Run {row.run_id} is {row.plan_name}: only who fills its volume knows whether it "
            "is complete",
            advice=advice,
            see=row.run_id,
        )
    exit = ABORTED_BY_USER if fail else STOPPED_BY_USER
    await session.do(
        _SQL["stop"],
        {
            "run_id": row.run_id,
            "before": before.value,
            "target": target.value,
            "exit_code": exit.code,
            "exit_message": exit.message,
            "cause": exit.message,
            "actor": actor,
            "fail": fail,
            # An upload has no Run workflow: its transfer sees the status by itself.
            "has_execution": row.admitted_at is not None
            or (row.projected and before.holds_resources),
            "run_channel": names.RUN_CHANNEL,
            "outbox_channel": names.OUTBOX_CHANNEL,
            "throttle_channel": names.THROTTLE_CHANNEL,
        },
    )


async def _combination(session: Session, plan_id: str, inputs: Mapping[str, KnitId]) -> Combination:
    """Puts the Data into the order of the Plan's inputs; raises if a path or Data is unknown."""
    paths = [row.path for row in await session.rows(_SQL["inputs"], {"plan_id": plan_id})]
    if not paths:
        raise missing_plan(plan_id)
    if set(paths) != set(inputs):
        raise InvalidRequest(
            f"the Plan {plan_id} has the inputs {', '.join(paths)}",
            advice="give one Data for each of them, and no others",
            see=plan_id,
        )
    present = await session.rows(_SQL["present"], {"knit_ids": only_ids(set(inputs.values()))})
    unknown = set(inputs.values()) - {row.knit_id for row in present}
    if unknown:
        raise missing_data(min(unknown))
    return Combination(plan_id, tuple(inputs[path] for path in paths))


async def _check_fills(session: Session, combination: Combination) -> None:
    """Raises InvalidRequest if a Data does not fill its input."""
    for position, knit_id in enumerate(combination.knit_ids):
        filled = await inputs_filled_by(session, knit_id)
        wanted = (combination.plan_id, position)
        if wanted not in {(one.plan_id, one.position) for one in filled}:
            raise InvalidRequest(
                f"the Data {knit_id} does not satisfy input {position + 1} of the Plan",
                advice="compare its tags with the input's; its Run must be done, and its content "
                "not purged",
                see=knit_id,
            )
