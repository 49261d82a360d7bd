"""Registration of a Plan: its identity, the check for cycles, its rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import uuid4

from psycopg.types.json import Jsonb

from knit_workflows.domain.errors import CyclicPlans, EquivalentPlan
from knit_workflows.domain.ids import PlanId
from knit_workflows.domain.instants import floor_to_millis
from knit_workflows.domain.plans.graph import PlanNode, find_cycle, identity_hash, node_of
from knit_workflows.domain.plans.model import LOG_PATH, PlanOutput, PlanSpec, Requirement
from knit_workflows.domain.plans.options import options_document
from knit_workflows.domain.tags import Tag
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Session
from knit_workflows.store.locks import AdvisoryLock
from knit_workflows.store.plans.details import plan_links

_SQL: Final = named_sql.beside(__file__)

IDENTITY_CONSTRAINT: Final = "uq_plan_identity_hash"


@dataclass(frozen=True, slots=True)
class Registration:
    """A Plan to be inserted: its new id, its specification, the numbers of its tags."""

    plan_id: PlanId
    spec: PlanSpec
    identity: str
    tag_ids: Mapping[Tag, int]

    @classmethod
    def of(cls, spec: PlanSpec, tag_ids: Mapping[Tag, int]) -> Registration:
        """Makes a registration with a new id."""
        return cls(PlanId(str(uuid4())), spec, identity_hash(spec), tag_ids)


def tags_of(spec: PlanSpec) -> frozenset[Tag]:
    """Gives all user tags that a Plan mentions."""
    node = node_of(spec)
    return frozenset().union(*(one.tags for one in node.inputs), *node.outputs)


async def lock_registrations(session: Session) -> None:
    """Blocks other registrations until this transaction ends."""
    await session.do(_SQL["lock"], {"lock": AdvisoryLock.REGISTRATION})


async def refuse_equivalent(session: Session, identity: str) -> None:
    """Raises EquivalentPlan if a Plan with this identity is registered."""
    row = await session.row(_SQL["equivalent"], {"identity_hash": identity})
    if row is not None:
        raise EquivalentPlan(
            f"the Plan {row.plan_id} is equivalent",
            advice="use that Plan, or change the image, a mountpoint, a tag or the arguments",
            see=row.plan_id,
        )


async def refuse_cycle(session: Session, registration: Registration) -> None:
    """Raises CyclicPlans if the new Plan, just inserted, feeds itself.

    The whole graph is read only when the Plan has neighbours on both sides. The search compares
    sets of tags only, so the numbers of tags serve as well.
    """
    me = registration.plan_id
    links = await plan_links(session, [me])
    if me not in {one.consumer for one in links} or me not in {one.producer for one in links}:
        return
    graph = await _graph(session)
    del graph[me]
    cycle = find_cycle(_numbered(registration), graph)
    if cycle is None:
        return
    way = " → ".join(["the new Plan", *cycle, "the new Plan"])
    raise CyclicPlans(
        f"the Plan would feed itself: {way}",
        advice="ask for a tag at its input that those outputs do not have",
        see=cycle[0] if cycle else "",
    )


def _numbered(registration: Registration) -> PlanNode:
    node = node_of(registration.spec)
    number = {tag: _number(tag_id) for tag, tag_id in registration.tag_ids.items()}
    return PlanNode(
        inputs=tuple(
            replace(one, tags=frozenset(number[tag] for tag in one.tags)) for one in node.inputs
        ),
        outputs=tuple(frozenset(number[tag] for tag in tags) for tags in node.outputs),
    )


async def _graph(session: Session) -> dict[PlanId, PlanNode]:
    inputs: dict[PlanId, list[Requirement]] = defaultdict(list)
    outputs: dict[PlanId, list[frozenset[Tag]]] = defaultdict(list)
    for row in await session.rows(_SQL["graph"]):
        tags = frozenset(map(_number, row.tag_ids))
        if row.is_input:
            inputs[row.plan_id].append(Requirement(tags))
        else:
            outputs[row.plan_id].append(tags)
    return {
        plan_id: PlanNode(tuple(inputs[plan_id]), tuple(outputs[plan_id]))
        for plan_id in {*inputs, *outputs}
    }


def _number(tag_id: int) -> Tag:
    return Tag("", str(tag_id))


async def insert_plan(session: Session, registration: Registration) -> None:
    """Writes the rows of the Plan. A unique violation names `IDENTITY_CONSTRAINT`."""
    await session.do(_SQL["insert"], _parameters(registration))


def _parameters(registration: Registration) -> dict[str, Any]:
    spec = registration.spec
    outputs = list(spec.outputs)
    if spec.log is not None:
        outputs.append(PlanOutput(LOG_PATH, spec.log))
    requirements = [one.requirement for one in spec.inputs]
    stamps = [one.timestamp and floor_to_millis(one.timestamp) for one in requirements]
    asked = list(_positions_and_tags((one.tags for one in requirements), registration.tag_ids))
    given = list(_positions_and_tags((one.tags for one in outputs), registration.tag_ids))
    return {
        "plan_id": registration.plan_id,
        "identity_hash": registration.identity,
        "repository": spec.image.repository,
        "image_tag": spec.image.image_tag,
        "image_digest": spec.image.digest,
        "entrypoint": list(spec.entrypoint),
        "args": list(spec.args),
        "on_node": Jsonb([[one.mode, one.key, one.value] for one in sorted(spec.on_node)]),
        "resources": Jsonb(dict(spec.resources)),
        "service_account": spec.service_account,
        "annotations": Jsonb([[one.key, one.value] for one in sorted(spec.annotations)]),
        "active": spec.active,
        "priority": spec.priority,
        "options": Jsonb(options_document(spec.options)),
        "input_positions": list(range(len(requirements))),
        "input_paths": [one.path for one in spec.inputs],
        "tag_counts": [len(one.tags) for one in requirements],
        "pinned_knit_ids": [one.knit_id for one in requirements],
        "pinned_timestamps": stamps,
        "input_tag_positions": [position for position, _ in asked],
        "input_tag_ids": [tag_id for _, tag_id in asked],
        "output_positions": list(range(len(outputs))),
        "output_paths": [one.path for one in outputs],
        "are_logs": [
            spec.log is not None and position == len(spec.outputs)
            for position in range(len(outputs))
        ],
        "output_tag_positions": [position for position, _ in given],
        "output_tag_ids": [tag_id for _, tag_id in given],
    }


def _positions_and_tags(
    mountpoints: Iterable[frozenset[Tag]], tag_ids: Mapping[Tag, int]
) -> Iterable[tuple[int, int]]:
    for position, tags in enumerate(mountpoints):
        for tag in tags:
            yield position, tag_ids[tag]
