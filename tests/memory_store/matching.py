"""Which Data fill which inputs, and the Runs that this means; by the domain's own rules."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final
from uuid import uuid4

from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.instants import floor_to_millis
from knit_workflows.domain.matching import assignment_hash, page
from knit_workflows.domain.plans.model import Requirement
from knit_workflows.domain.runs.run import RunEvent, RunStatus
from knit_workflows.domain.tags import Tag
from tests.memory_store.memory import DataRow, Memory, PlanRow, RunRow

_ALL: Final = 1_000_000_000


def satisfies(
    tags: frozenset[Tag], knit_id: str, timestamp: datetime, requirement: Requirement
) -> bool:
    """Says whether a Data of a Run that is *done* fills an input.

    `tags` may hold more than the input asks for, system tags too. `timestamp` and the input's
    are compared as instants, in whole milliseconds, the precision in which they are shown.
    An input that asks for nothing is filled by nothing.
    """
    if not requirement.tags and not requirement.has_system_tag:
        return False
    if requirement.knit_id is not None and requirement.knit_id != knit_id:
        return False
    if requirement.timestamp is not None and (
        floor_to_millis(requirement.timestamp) != floor_to_millis(timestamp)
    ):
        return False
    return requirement.tags <= tags


def fills(memory: Memory, one: DataRow, wanted: Requirement) -> bool:
    """Says whether a Data fills an input; none does before its Run is done."""
    return (
        memory.runs[one.run_id].status is RunStatus.DONE
        and one.timestamp is not None
        and not one.purged
        and satisfies(frozenset(one.tags), one.knit_id, one.timestamp, wanted)
    )


def candidates(memory: Memory, wanted: list[Requirement]) -> list[list[str]]:
    """Gives the Data that fill each of these inputs, sorted."""
    return [
        sorted(one.knit_id for one in memory.data.values() if fills(memory, one, asked))
        for asked in wanted
    ]


def project_plan(memory: Memory, plan: PlanRow) -> None:
    """Makes the Runs of all combinations of a Plan that have none."""
    found = candidates(memory, [one.requirement for one in plan.spec.inputs])
    for knit_ids in page(found, None, None, _ALL).items:
        create_run(memory, plan, knit_ids)


def project_data(memory: Memory, one: DataRow) -> None:
    """Makes the Runs of all combinations with this Data that have none."""
    for plan in list(memory.plans.values()):
        wanted = [asked.requirement for asked in plan.spec.inputs]
        trigger = {
            place: one.knit_id for place, asked in enumerate(wanted) if fills(memory, one, asked)
        }
        if trigger:
            for knit_ids in page(candidates(memory, wanted), trigger, None, _ALL).items:
                create_run(memory, plan, knit_ids)


def create_run(memory: Memory, plan: PlanRow, knit_ids: tuple[str, ...]) -> None:
    """Makes the Run of a combination, unless there is one, deleted or not."""
    if (plan.plan_id, assignment_hash(dict(enumerate(knit_ids)))) not in memory.assignments:
        paths = [one.path for one in plan.spec.inputs]
        new_run(memory, plan, dict(zip(paths, map(KnitId, knit_ids), strict=True)))


def new_run(memory: Memory, plan: PlanRow, inputs: Mapping[str, KnitId]) -> RunRow:
    """Makes a Run with its Data, which wait for it."""
    at = memory.now()
    status = RunStatus.WAITING if plan.spec.active else RunStatus.DEACTIVATED
    run = RunRow(RunId(str(uuid4())), plan.plan_id, status, at, at, plan.spec.priority)
    run.inputs.update(inputs)
    for knit_id in {*inputs.values()}:
        memory.data[knit_id].users.append(run.run_id)
    if inputs:
        in_order = [inputs[one.path] for one in plan.spec.inputs]
        assignment = assignment_hash(dict(enumerate(in_order)))
        memory.assignments[plan.plan_id, assignment] = run.run_id
    add_run(memory, run, cause="projected")
    add_data(memory, run)
    return run


def add_run(memory: Memory, run: RunRow, *, cause: str) -> None:
    """Adds a new Run with the first line of its history."""
    memory.runs[run.run_id] = run
    run.events.append(RunEvent(run.created_at, 1, None, run.status, cause, None))


def add_data(memory: Memory, run: RunRow) -> None:
    """Adds the Data that a Run is to make, with the tags of its Plan's outputs."""
    plan = memory.plans[run.plan_id]
    made: dict[str | None, frozenset[Tag]] = {one.path: one.tags for one in plan.spec.outputs}
    if plan.spec.log is not None:
        made[None] = plan.spec.log
    for path, tags in made.items():
        one = DataRow(KnitId(str(uuid4())), run.run_id, path, set(tags))
        memory.data[one.knit_id] = one
        run.outputs[path] = one.knit_id
