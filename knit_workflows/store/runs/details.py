"""Reads Runs and Data from rows, with a constant number of statements however many there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from knit_workflows.domain.data import DataDetail, Downstream, Nomination, Upstream
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.plans.options import stored_options
from knit_workflows.domain.runs.run import (
    Assignment,
    Exit,
    LogAssignment,
    RunDetail,
    RunStatus,
    RunSummary,
    Used,
    Waiting,
)
from knit_workflows.domain.tags import (
    KEY_ID,
    KEY_TRANSIENT,
    TRANSIENT_FAILED,
    TRANSIENT_PROCESSING,
    TRANSIENT_PURGED,
    Tag,
    timestamp_tag,
)
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Session
from knit_workflows.store.ids import id_array
from knit_workflows.store.plans.details import StoredPlan, load_plans
from knit_workflows.store.runs.queue import why_waiting

_SQL: Final = named_sql.beside(__file__)

Plans = Mapping[str, StoredPlan]


async def run_details(session: Session, run_ids: Sequence[str]) -> list[RunDetail]:
    """Gives these Runs in this order, without those that no longer exist.

    Four statements, and one more if some of them wait in the queue.
    """
    wanted = {"run_ids": id_array(run_ids)}
    rows = {row.run_id: row for row in await session.rows(_SQL["runs"], wanted)}
    if not rows:
        return []
    assigned: dict[str, dict[int, KnitId]] = defaultdict(dict)
    for one in await session.rows(_SQL["run_inputs"], wanted):
        assigned[one.run_id][one.input_id] = one.knit_id
    made: dict[str, dict[int, KnitId]] = defaultdict(dict)
    for one in await session.rows(_SQL["run_outputs"], wanted):
        made[one.run_id][one.output_id] = one.knit_id
    plans = await load_plans(session, {row.plan_id for row in rows.values()})
    waiting = await why_waiting(session, rows.values())
    return [
        _run_detail(rows[run_id], plans, assigned[run_id], made[run_id], waiting.get(run_id))
        for run_id in run_ids
        if run_id in rows
    ]


async def data_details(session: Session, knit_ids: Sequence[str]) -> list[DataDetail]:
    """Gives these Data in this order, without those that no longer exist; four statements."""
    wanted = {"knit_ids": id_array(knit_ids)}
    rows = {row.knit_id: row for row in await session.rows(_SQL["data"], wanted)}
    if not rows:
        return []
    downstreams = await session.rows(_SQL["downstreams"], wanted)
    nominations = await session.rows(_SQL["nominations"], wanted)
    plans = await load_plans(
        session,
        {row.plan_id for row in [*rows.values(), *downstreams, *nominations]},
    )
    uses: dict[str, list[Downstream]] = defaultdict(list)
    for one in downstreams:
        mountpoint = plans[one.plan_id].inputs[one.input_id]
        uses[one.knit_id].append(Downstream(mountpoint, _summary(one, plans)))
    fills: dict[str, list[Nomination]] = defaultdict(list)
    for one in nominations:
        plan = plans[one.plan_id]
        fills[one.knit_id].append(Nomination(plan.inputs[one.input_id], plan.summary))
    return [
        DataDetail(
            knit_id=KnitId(knit_id),
            tags=_tags(rows[knit_id]),
            upstream=_upstream(rows[knit_id], plans),
            downstreams=tuple(uses[knit_id]),
            nominations=tuple(fills[knit_id]),
            adopted_volume=rows[knit_id].adopted_volume,
        )
        for knit_id in knit_ids
        if knit_id in rows
    ]


def exit_of(row: Any) -> Exit | None:
    """Reads how a Run ended from its row, or from that of an event."""
    return None if row.exit_code is None else Exit(row.exit_code, row.exit_message or "")


def _summary(row: Any, plans: Plans) -> RunSummary:
    return RunSummary(
        run_id=RunId(row.run_id),
        status=RunStatus(row.status),
        updated_at=row.updated_at,
        exit=exit_of(row),
        plan=plans[row.plan_id].summary,
    )


def _run_detail(
    row: Any,
    plans: Plans,
    assigned: Mapping[int, KnitId],
    made: Mapping[int, KnitId],
    waiting: Waiting | None,
) -> RunDetail:
    plan = plans[row.plan_id]
    log = None
    if plan.log_id is not None:
        log = LogAssignment(plan.outputs[plan.log_id].tags, made.get(plan.log_id))
    return RunDetail(
        summary=_summary(row, plans),
        generation=row.generation,
        inputs=tuple(
            Assignment(one.path, one.tags, assigned.get(number))
            for number, one in plan.inputs.items()
        ),
        outputs=tuple(
            Assignment(one.path, one.tags, made.get(number))
            for number, one in plan.outputs.items()
            if number != plan.log_id
        ),
        log=log,
        priority=row.priority,
        used=_used(row),
        waiting=waiting,
        notes=tuple(row.notes or ()),
    )


def _used(row: Any) -> Used | None:
    # Recorded with the order for a pod, said once there is one: a quota may keep it away for long.
    if row.used_resources is None or row.status == RunStatus.STARTING:
        return None
    options = stored_options(row.used_options)
    return Used(row.used_resources, row.used_service_account, row.image_digest, options)


def _upstream(row: Any, plans: Plans) -> Upstream:
    plan = plans[row.plan_id]
    return Upstream(
        path=plan.output_path(row.output_id),
        tags=plan.outputs[row.output_id].tags,
        run=_summary(row, plans),
    )


def _tags(row: Any) -> tuple[Tag, ...]:
    """Gives all tags of a Data, including computed ones; by key, then value."""
    tags = [Tag(key, value) for key, value in row.tags or ()]
    tags.append(Tag(KEY_ID, row.knit_id))
    if row.timestamp is not None:
        tags.append(timestamp_tag(row.timestamp))
    status = RunStatus(row.status)
    if row.purged_at is not None:
        tags.append(Tag(KEY_TRANSIENT, TRANSIENT_PURGED))
    elif not status.is_final:
        tags.append(Tag(KEY_TRANSIENT, TRANSIENT_PROCESSING))
    elif status is not RunStatus.DONE:
        tags.append(Tag(KEY_TRANSIENT, TRANSIENT_FAILED))
    return tuple(sorted(tags))
