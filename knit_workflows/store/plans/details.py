"""Reads Plans from rows, with a constant number of statements however many there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from knit_workflows.domain.ids import PlanId
from knit_workflows.domain.plans.model import (
    Annotation,
    LinkedMountpoint,
    Mountpoint,
    NodeMode,
    NodeRule,
    PlanDetail,
    PlanLink,
    PlanSummary,
)
from knit_workflows.domain.plans.options import PlanOptions, stored_options
from knit_workflows.domain.tags import KEY_ID, Tag, timestamp_tag
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Session
from knit_workflows.store.ids import id_array
from knit_workflows.store.plans.images import image_of

_SQL: Final = named_sql.beside(__file__)
_REMEMBERED: Final = 4096
"""How many Plans a process caches, at some 3 KiB each."""


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A Plan without its neighbours; mountpoints by their number, in path order."""

    summary: PlanSummary
    inputs: Mapping[int, Mountpoint]
    outputs: Mapping[int, Mountpoint]
    log_id: int | None
    active: bool
    on_node: tuple[NodeRule, ...]
    resources: Mapping[str, str]
    service_account: str | None
    priority: int
    options: PlanOptions

    def output_path(self, output_id: int) -> str | None:
        """Gives the path of an output, None for the log."""
        return None if output_id == self.log_id else self.outputs[output_id].path


async def load_plans(session: Session, plan_ids: Collection[str]) -> dict[str, StoredPlan]:
    """Gives these Plans by id; one statement, and another for those that are not cached.

    Most of a Plan never changes and is cached: only the rest is read again.
    """
    memory: dict[str, StoredPlan] = session.memory.setdefault(__name__, {})
    known = {one: memory[one] for one in set(plan_ids) if one in memory}
    found: dict[str, StoredPlan] = {}
    if known:
        rows = await session.rows(_SQL["changeable"], {"plan_ids": id_array(known)})
        found = {row.plan_id: _as_of(known[row.plan_id], row) for row in rows}
    if unknown := set(plan_ids) - known.keys():
        rows = await session.rows(_SQL["plans"], {"plan_ids": id_array(unknown)})
        found |= {row.plan_id: _stored(row) for row in rows}
    memory |= found
    while len(memory) > _REMEMBERED:
        del memory[next(iter(memory))]
    return found


async def plan_links(session: Session, plan_ids: Iterable[str]) -> Sequence[Any]:
    """Gives the links to and from these Plans: producer, consumer, and their mountpoints."""
    return await session.rows(_SQL["links"], {"plan_ids": id_array(plan_ids)})


async def plan_details(session: Session, plan_ids: Sequence[str]) -> list[PlanDetail]:
    """Gives these Plans with their neighbours, in this order; five statements at most."""
    plans = await load_plans(session, plan_ids)
    links = await plan_links(session, plans) if plans else []
    ends = {end for link in links for end in (link.consumer, link.producer)}
    everyone = {**plans, **await load_plans(session, ends - plans.keys())}
    upstream: dict[int, list[PlanLink]] = defaultdict(list)
    downstream: dict[int, list[PlanLink]] = defaultdict(list)
    for link in links:
        producer, consumer = everyone[link.producer], everyone[link.consumer]
        upstream[link.input_id].append(
            PlanLink(
                producer.summary,
                producer.output_path(link.output_id),
                producer.outputs[link.output_id].tags,
            )
        )
        into = consumer.inputs[link.input_id]
        downstream[link.output_id].append(PlanLink(consumer.summary, into.path, into.tags))
    return [_detail(plans[one], upstream, downstream) for one in plan_ids if one in plans]


def _detail(
    plan: StoredPlan,
    upstream: Mapping[int, Sequence[PlanLink]],
    downstream: Mapping[int, Sequence[PlanLink]],
) -> PlanDetail:
    outputs = {
        number: _linked(mountpoint, downstream.get(number, ()))
        for number, mountpoint in plan.outputs.items()
    }
    log = None if plan.log_id is None else outputs.pop(plan.log_id)
    return PlanDetail(
        summary=plan.summary,
        inputs=tuple(
            _linked(mountpoint, upstream.get(number, ()))
            for number, mountpoint in plan.inputs.items()
        ),
        outputs=tuple(outputs.values()),
        log=log,
        active=plan.active,
        on_node=plan.on_node,
        resources=plan.resources,
        service_account=plan.service_account,
        priority=plan.priority,
        options=plan.options,
    )


def _linked(mountpoint: Mountpoint, links: Iterable[PlanLink]) -> LinkedMountpoint:
    ordered = sorted(links, key=lambda link: (link.plan.plan_id, link.path or ""))
    return LinkedMountpoint(mountpoint, tuple(ordered))


def _stored(row: Any) -> StoredPlan:
    outputs = row.outputs or []
    return StoredPlan(
        summary=PlanSummary(
            plan_id=PlanId(row.plan_id),
            image=image_of(row),
            name=row.name,
            entrypoint=tuple(row.entrypoint),
            args=tuple(row.args),
            annotations=_annotations(row),
        ),
        inputs={
            number: Mountpoint(path, _input_tags(tags, knit_id, timestamp))
            for number, path, tags, knit_id, timestamp in row.inputs or []
        },
        outputs={number: Mountpoint(path, _tags(tags)) for number, path, tags, _ in outputs},
        log_id=next((number for number, _, _, is_log in outputs if is_log), None),
        active=row.active,
        on_node=tuple(NodeRule(NodeMode(mode), key, value) for mode, key, value in row.on_node),
        resources=row.resources,
        service_account=row.service_account,
        priority=row.priority,
        options=stored_options(row.options),
    )


def _as_of(known: StoredPlan, row: Any) -> StoredPlan:
    """Updates a cached Plan from a row."""
    return replace(
        known,
        summary=replace(known.summary, annotations=_annotations(row)),
        active=row.active,
        resources=row.resources,
        service_account=row.service_account,
        priority=row.priority,
        options=stored_options(row.options),
    )


def _annotations(row: Any) -> tuple[Annotation, ...]:
    return tuple(Annotation(key, value) for key, value in row.annotations)


def _tags(pairs: Iterable[tuple[str, str]] | None) -> tuple[Tag, ...]:
    return tuple(sorted(Tag(key, value) for key, value in pairs or ()))


def _input_tags(
    pairs: Iterable[tuple[str, str]] | None, knit_id: str | None, timestamp: str | None
) -> tuple[Tag, ...]:
    """Gives an input's tags as a user writes them, the pins among them."""
    pins = []
    if knit_id is not None:
        pins.append(Tag(KEY_ID, knit_id))
    if timestamp is not None:
        instant = datetime.fromisoformat(timestamp)
        pins.append(timestamp_tag(instant))
    return tuple(sorted([*_tags(pairs), *pins]))
