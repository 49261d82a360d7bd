"""Short ways to make Plans, Data and Runs in a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from knit_workflows.domain.data import TagChange
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.plans.model import Image, PlanInput, PlanOutput, PlanSpec, Requirement
from knit_workflows.domain.ports import AdmissionLimits, RunKey
from knit_workflows.domain.runs.run import Exit, RunStatus
from knit_workflows.domain.tags import KEY_ID, KEY_TIMESTAMP, Tag, parse_tag, parse_timestamp
from knit_workflows.store import PostgresStore
from tests.postgres import fetch

QUEUED_AT = datetime(2026, 1, 2, tzinfo=UTC)

Wishes = Mapping[str, str]
"""Path → tags, written as in `type:dataset project:demo`."""


def tags(text: str) -> frozenset[Tag]:
    return frozenset(parse_tag(one) for one in text.split())


def requirement(text: str) -> Requirement:
    """Reads tags of an input; `knit#id` and `knit#timestamp` become pins."""
    pins = {tag.key: tag.value for tag in tags(text) if tag.is_system}
    instant = pins.get(KEY_TIMESTAMP)
    return Requirement(
        frozenset(tag for tag in tags(text) if not tag.is_system),
        pins.get(KEY_ID),
        None if instant is None else parse_timestamp(instant),
    )


def spec(
    inputs: Wishes,
    outputs: Wishes | None = None,
    *,
    log: str | None = None,
    image: str = "demo:1",
    **more: Any,
) -> PlanSpec:
    name, _, digest = image.partition("@")
    repository, _, image_tag = name.partition(":")
    return PlanSpec(
        image=Image(repository, image_tag, digest),
        inputs=tuple(PlanInput(path, requirement(text)) for path, text in sorted(inputs.items())),
        outputs=tuple(
            PlanOutput(path, tags(text)) for path, text in sorted((outputs or {}).items())
        ),
        log=None if log is None else tags(log),
        resources={"cpu": "1", "memory": "1Gi"},
        **more,
    )


async def register(store: PostgresStore, plan: PlanSpec) -> PlanId:
    return (await store.plans.register(plan, new_runs_limit=None)).summary.plan_id


async def begin(store: PostgresStore) -> tuple[RunKey, KnitId]:
    """Begins an upload; its Run is running."""
    run_id, knit_id = RunId(str(uuid4())), KnitId(str(uuid4()))
    await store.transfers.begin_upload(f"transfer-{knit_id}", run_id, knit_id)
    return RunKey(run_id, 1), knit_id


async def upload(store: PostgresStore, text: str = "") -> KnitId:
    """Uploads a Data with these tags; its Run is done."""
    key, knit_id = await begin(store)
    if text:
        await store.data.change_tags(knit_id, TagChange(add=tags(text)))
    await end(store, key)
    return knit_id


async def end(store: PostgresStore, key: RunKey, *, fail: bool = False) -> RunStatus:
    """Brings a Run to its end from wherever it is."""
    if fail:
        await store.execution.advance(key, RunStatus.ABORTING, cause="test", exit=Exit(1, "broken"))
    else:
        await store.execution.advance(key, RunStatus.READY, cause="test")
        await store.execution.advance(key, RunStatus.COMPLETING, cause="test", exit=Exit(0, ""))
    return await store.execution.finalize(key, cause="test")


async def drain(store: PostgresStore, *, page_size: int = 100) -> int:
    """Projects until no event is left; gives how many Runs were made."""
    made = 0
    while (step := await store.projection.project(page_size=page_size)) is not None:
        made += step.created
    return made


async def admit_all(store: PostgresStore) -> list[RunKey]:
    """Admits everything that waits and says that it was started."""
    keys: list[RunKey] = []
    while admitted := [
        one.key for one in await store.admission.admit(AdmissionLimits(total=1_000_000))
    ]:
        await store.admission.started(admitted)
        keys += admitted
    return keys


def queue_up(
    url: str, plan_id: str, ages: Sequence[int], *, priority: int = 0, admitted: int = 0
) -> None:
    """Puts Runs, so many seconds old, into the queue; the first `admitted` are under way already.

    They have no inputs: what admits them does not ask.
    """
    fetch(
        url,
        """INSERT INTO run (run_id, plan_id, assignment_hash, status, priority, admitted_at,
                            workflow_started_at, created_at, updated_at)
           SELECT gen_random_uuid(), %s, sha256(gen_random_uuid()::text::bytea), status, %s, at,
                  at, %s - age * interval '1s', %s
             FROM unnest(%s::int[]) WITH ORDINALITY AS one (age, place)
            CROSS JOIN LATERAL (
                SELECT CASE WHEN place <= %s THEN 'running' ELSE 'waiting' END AS status,
                       CASE WHEN place <= %s THEN now() END AS at) AS state""",
        plan_id, priority, QUEUED_AT, QUEUED_AT, list(ages), admitted, admitted,
    )  # fmt: skip


def runs_in(url: str) -> dict[tuple[str, tuple[str, ...]], str]:
    """Gives all projected Runs: (Plan, Data by position) → status. Fails on doubles."""
    found: dict[tuple[str, tuple[str, ...]], str] = {}
    rows = fetch(
        url,
        """SELECT r.plan_id::text, r.status,
                  array_agg(ri.knit_id::text ORDER BY i.position) AS knit_ids
             FROM run r JOIN run_input ri USING (run_id) JOIN plan_input i USING (input_id)
            GROUP BY r.run_id""",
    )
    for row in rows:
        run = (row["plan_id"], tuple(row["knit_ids"]))
        assert run not in found, f"twice: {run}"
        found[run] = row["status"]
    return found


def only(items: Iterable[Any]) -> Any:
    (item,) = items
    return item


def millis(instant: datetime) -> bool:
    """Says whether an instant is a whole number of milliseconds."""
    return instant.microsecond % 1000 == 0
