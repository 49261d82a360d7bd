"""`RunStore` in memory, as far as the API uses it, and what carries a Run out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from knit_workflows.domain.cursors import parse_cursor
from knit_workflows.domain.errors import (
    IllegalMove,
    InvalidRequest,
    RunNotFound,
    Superseded,
)
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.plans.model import IMPORTED, UPLOADED
from knit_workflows.domain.ports import Relaunched, RunCensus, RunKey, RunsOfPlan
from knit_workflows.domain.runs.run import (
    ABORTED_BY_USER,
    KNIT,
    STOPPED_BY_USER,
    USER,
    Exit,
    RunDetail,
    RunEvent,
    RunQuery,
    RunStatus,
    may_move,
)
from knit_workflows.store.not_found import missing_run
from tests.memory_store.details import run_detail
from tests.memory_store.matching import add_data
from tests.memory_store.memory import Memory, Part, RunRow
from tests.memory_store.moves import finish, move
from tests.memory_store.transfers import end_readers

_S = RunStatus
_ENDED: Final = {_S.DONE, _S.FAILED}
_SHOWN: Final = frozenset(RunStatus) - {_S.INVALIDATED}


class MemoryRuns(Part):
    """Runs by id."""

    async def find(
        self, query: RunQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[RunDetail]:
        return [run_detail(self.rows, run) for run in self._found(query, after)[:limit]]

    async def find_ids(self, query: RunQuery, *, after: str | None = None) -> Sequence[str]:
        return [run.run_id for run in self._found(query, after)]

    def _found(self, query: RunQuery, after: str | None) -> list[RunRow]:
        rows = self.rows
        rows.asked.append(query)
        begin = None if after is None else _position(rows, after)
        return [
            run
            for run in sorted(rows.runs.values(), key=_place)
            if _matches(run, query) and (begin is None or _place(run) > begin)
        ]

    async def get_each(self, run_ids: Sequence[str]) -> Sequence[RunDetail]:
        rows = self.rows
        found = [rows.runs[RunId(run_id)] for run_id in run_ids if run_id in rows.runs]
        return [run_detail(rows, run) for run in found if run.status is not _S.INVALIDATED]

    async def get(self, run_id: RunId) -> RunDetail:
        return run_detail(self.rows, self._run(run_id))

    async def census(self, *, plans: int) -> RunCensus:
        going_on = [run for run in self.rows.runs.values() if not run.status.is_final]
        waiting = [run.updated_at for run in going_on if run.status is _S.WAITING]
        of_plans = Counter(run.plan_id for run in going_on)
        most = sorted(of_plans, key=lambda one: (-of_plans[one], one))[:plans]
        return RunCensus(
            Counter(run.status for run in going_on),
            self.rows.now() - min(waiting) if waiting else timedelta(),
            [
                RunsOfPlan(
                    plan_id,
                    self.rows.plans[plan_id].name or str(self.rows.plans[plan_id].spec.image),
                    Counter(run.status for run in going_on if run.plan_id == plan_id),
                )
                for plan_id in most
            ],
        )

    async def events(self, run_id: RunId) -> Sequence[RunEvent]:
        return list(self._run(run_id).events)

    async def stop(self, run_id: RunId, *, fail: bool, actor: str = USER) -> RunDetail:
        run = self._run(run_id)
        target = _S.ABORTING if fail else _S.COMPLETING
        if run.status is not target:
            if not may_move(run.status, target):
                reason = f"the Run {run_id} is {run.status} and cannot become {target}"
                raise IllegalMove(reason, advice="wait, or look at it", see=run_id)
            name = self.rows.plans[run.plan_id].name
            if name in (IMPORTED, UPLOADED) and not fail:
                raise IllegalMove(f"the Run {run_id} is {name}", advice="wait", see=run_id)
            exit = ABORTED_BY_USER if fail else STOPPED_BY_USER
            move(self.rows, run, target, cause=exit.message, exit=exit, actor=actor)
        return run_detail(self.rows, run)

    async def retry(self, run_id: RunId, *, actor: str = USER) -> RunDetail:
        rows, run = self.rows, self._living(run_id)
        plan = rows.plans[run.plan_id]
        if plan.name is not None:
            reason = f"the Run {run_id} is {plan.name}: there is nothing that could run again"
            raise IllegalMove(reason, advice="push the Data again", see=run_id)
        _require(run, _ENDED)
        for knit_id in run.inputs.values():
            if rows.data[knit_id].purged:
                reason = f"the Run {run_id} cannot be retried: its input {knit_id} was purged"
                raise IllegalMove(reason, advice="use another Data", see=knit_id)
        _begin_anew(rows, run, cause="retried", actor=actor)
        run.relaunches = 0
        return run_detail(rows, run)

    async def delete(self, run_id: RunId, *, actor: str = USER) -> Sequence[str]:
        rows, run = self.rows, self._living(run_id)
        _require(run, {*_ENDED, _S.WAITING, _S.DEACTIVATED})
        outputs = [rows.data[knit_id] for knit_id in run.outputs.values()]
        _discard_outputs(rows, run)
        if run.inputs:
            move(rows, run, _S.INVALIDATED, cause="deleted", actor=actor)
            run.exit, run.notes = None, ()
        else:
            _remove(rows, run)
        return [one.adopted_volume for one in outputs if one.adopted_volume and not one.purged]

    def _run(self, run_id: str) -> RunRow:
        run = self.rows.runs.get(run_id)
        if run is None:
            raise missing_run(run_id)
        return run

    def _living(self, run_id: str) -> RunRow:
        run = self._run(run_id)
        if run.status is _S.INVALIDATED:
            raise missing_run(run_id)
        return run


class MemoryExecution(Part):
    """What tests carry Runs out with: `RunExecutionStore`, as far as they need it."""

    async def advance(
        self, key: RunKey, target: RunStatus, *, cause: str, exit: Exit | None = None
    ) -> RunStatus:
        run = self._run(key)
        if may_move(run.status, target):
            move(self.rows, run, target, cause=cause, exit=exit)
        return run.status

    async def finalize(self, key: RunKey, *, cause: str) -> RunStatus:
        run = self._run(key)
        if run.status in _ENDED:
            return run.status
        if run.status not in (_S.COMPLETING, _S.ABORTING):
            raise IllegalMove(f"the Run {run.run_id} is {run.status}", see=run.run_id)
        move(
            self.rows,
            run,
            _S.DONE if run.status is _S.COMPLETING else _S.FAILED,
            cause=cause,
        )
        finish(self.rows, run)
        return run.status

    async def relaunch(self, key: RunKey, *, cause: str, limit: int) -> Relaunched:
        run = self._run(key)
        if run.status.is_under_way and run.relaunches < limit:
            again = f"launched again, {run.relaunches + 1} of at most {limit} times"
            _begin_anew(self.rows, run, cause=f"{cause}; {again}", actor=KNIT)
            run.relaunches += 1
        return Relaunched(run.status, run.relaunches)

    async def finish(self, key: RunKey, *, cause: str) -> RunStatus:
        return await self.finalize(key, cause=cause)

    def _run(self, key: RunKey) -> RunRow:
        run = self.rows.runs.get(key.run_id)
        if run is None:
            raise RunNotFound(see=key.run_id)
        if run.generation != key.generation:
            raise Superseded(see=key.run_id)
        return run


def _begin_anew(memory: Memory, run: RunRow, *, cause: str, actor: str) -> None:
    plan = memory.plans[run.plan_id]
    _discard_outputs(memory, run)
    run.generation += 1
    target = _S.WAITING if plan.spec.active else _S.DEACTIVATED
    move(memory, run, target, cause=cause, actor=actor)
    run.exit, run.used, run.notes, run.priority = None, None, (), plan.spec.priority
    add_data(memory, run)


def _matches(run: RunRow, query: RunQuery) -> bool:
    inputs, outputs = {*run.inputs.values()}, {*run.outputs.values()}
    return (
        run.status in (query.statuses or _SHOWN)
        and (not query.plan_ids or run.plan_id in query.plan_ids)
        and (not query.input_knit_ids or bool(inputs & query.input_knit_ids))
        and (not query.output_knit_ids or bool(outputs & query.output_knit_ids))
        and (query.since is None or query.since <= run.updated_at)
        and (query.until is None or run.updated_at < query.until)
    )


def _place(run: RunRow) -> tuple[datetime, str]:
    return run.updated_at, run.run_id


def _position(memory: Memory, after: str) -> tuple[datetime, str]:
    cursor = parse_cursor(after)
    if cursor.instant is not None:
        return cursor.instant, cursor.id
    if cursor.id not in memory.runs:
        raise InvalidRequest(f"the cursor {cursor} is no Run's id", advice="start again")
    return _place(memory.runs[cursor.id])


def _require(run: RunRow, wanted: set[RunStatus]) -> None:
    if run.status not in wanted:
        reason = f"the Run {run.run_id} is {run.status}: it has not finished yet"
        raise IllegalMove(reason, advice="stop it first, or wait", see=run.run_id)


def _discard_outputs(memory: Memory, run: RunRow) -> None:
    """Removes the Data of a Run, and the tombstones of Runs that used them."""
    made = [memory.data[knit_id] for knit_id in run.outputs.values()]
    users = [memory.runs[run_id] for one in made for run_id in one.users]
    for user in users:
        if user.status is not _S.INVALIDATED:
            reason = f"a Data of the Run {run.run_id} is in use by the Run {user.run_id}"
            raise IllegalMove(reason, advice="delete that Run first", see=user.run_id)
    knit_ids = {one.knit_id for one in made}
    end_readers(memory, knit_ids)
    if any(one.knit_id in knit_ids for one in memory.transfers.values()):
        reason = f"a Data of the Run {run.run_id} is being transferred"
        raise IllegalMove(reason, advice="wait until the transfer has ended", see=run.run_id)
    for user in {user.run_id: user for user in users}.values():
        _remove(memory, user)
    for knit_id in knit_ids:
        del memory.data[knit_id]
    run.outputs.clear()


def _remove(memory: Memory, run: RunRow) -> None:
    del memory.runs[run.run_id]
    memory.deliveries = {
        key: one for key, one in memory.deliveries.items() if one.transition.run_id != run.run_id
    }
    for knit_id in {*run.inputs.values()}:
        memory.data[knit_id].users.remove(run.run_id)
    memory.assignments = {
        key: run_id for key, run_id in memory.assignments.items() if run_id != run.run_id
    }
