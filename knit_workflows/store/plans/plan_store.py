"""Registers Plans, looks them up and changes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import prod
from typing import Any, Final

from psycopg.errors import UniqueViolation
from psycopg.types.json import Jsonb

from knit_workflows.domain.errors import TooManyRuns
from knit_workflows.domain.ids import KnitId, PlanId, is_id
from knit_workflows.domain.matching import page
from knit_workflows.domain.plans.model import (
    Annotation,
    AnnotationChange,
    PlanDetail,
    PlanPreview,
    PlanQuery,
    PlanSpec,
    ResourceChange,
)
from knit_workflows.domain.plans.options import PlanOptions, options_document
from knit_workflows.domain.plans.rules import DEFAULT_RESOURCES
from knit_workflows.domain.quantities import canonical_quantity
from knit_workflows.domain.runs.run import USER
from knit_workflows.domain.tags import KEY_ID, KEY_TIMESTAMP, Tag, parse_timestamp
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Session, violated
from knit_workflows.store.data import tags
from knit_workflows.store.ids import id_array, only_ids
from knit_workflows.store.not_found import missing_plan
from knit_workflows.store.plans.activation import activate
from knit_workflows.store.plans.details import plan_details
from knit_workflows.store.plans.registration import (
    IDENTITY_CONSTRAINT,
    Registration,
    insert_plan,
    lock_registrations,
    refuse_cycle,
    refuse_equivalent,
    tags_of,
)
from knit_workflows.store.projection.candidates import Counted, Window, count_candidates
from knit_workflows.store.projection.creation import notify_projector

_SQL: Final = named_sql.beside(__file__)
_PAGE: Final = 5_000
"""How many waiting Runs get a new priority in one transaction."""


class _RolledBackError(Exception):
    """Carries a result out of a transaction that is to be rolled back."""

    def __init__(self, answer: PlanPreview) -> None:
        super().__init__()
        self.answer = answer


class PostgresPlanStore:
    """Implements `ports.PlanStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def register(self, spec: PlanSpec, *, new_runs_limit: int | None) -> PlanDetail:
        """See the port."""
        registration = Registration.of(spec, await tags.intern(self._db, tags_of(spec)))

        async def step(session: Session) -> None:
            await lock_registrations(session)
            await refuse_equivalent(session, registration.identity)
            await insert_plan(session, registration)
            await refuse_cycle(session, registration)
            if new_runs_limit is not None:
                await _refuse_too_many_runs(session, registration.plan_id, new_runs_limit)
            await session.do(_SQL["announce"], {"plan_id": registration.plan_id})
            await notify_projector(session)

        await self._transaction_of(registration, step)
        return await self.get(registration.plan_id)

    async def preview(self, spec: PlanSpec, *, limit: int) -> PlanPreview:
        """See the port.

        The Plan is inserted and rolled back, so what is counted is what would be created. Other
        registrations need not wait for it.
        """
        registration = Registration.of(spec, await tags.intern(self._db, tags_of(spec)))

        async def step(session: Session) -> None:
            await refuse_equivalent(session, registration.identity)
            await insert_plan(session, registration)
            await refuse_cycle(session, registration)
            shown = Window(limit, None).limit
            found = await count_candidates(session, registration.plan_id, shown=shown)
            raise _RolledBackError(_preview(spec, found, limit))

        try:
            await self._transaction_of(registration, step)
        except _RolledBackError as answer:
            return answer.answer
        raise AssertionError("the transaction always ends by an exception")

    async def _transaction_of(
        self, registration: Registration, step: Callable[[Session], Awaitable[None]]
    ) -> None:
        """Runs a transaction that inserts the Plan; raises EquivalentPlan if another was faster."""
        try:
            await self._db.transaction(step)
        except UniqueViolation as cause:
            if violated(cause) != IDENTITY_CONSTRAINT:
                raise
            # The other one is committed, or this would not have failed; Plans are never deleted.
            await self._db.reading(lambda one: refuse_equivalent(one, registration.identity))
            raise

    async def find(
        self, query: PlanQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[PlanDetail]:
        """See the port."""
        wanted = await _conditions(self._db, query)
        if wanted is None:
            return []
        conditions, parameters = wanted
        if after is not None:
            conditions.append("p.plan_id::text > %(after)s")
        statement = named_sql.filled(_SQL["find"], where=" AND ".join(conditions) or "true")

        async def read(session: Session) -> list[PlanDetail]:
            rows = await session.rows(statement, {**parameters, "after": after, "limit": limit})
            return await plan_details(session, [row.plan_id for row in rows])

        return await self._db.reading(read)

    async def within(self, projects: frozenset[Tag]) -> frozenset[PlanId]:
        """See the port."""
        known = await tags.find(self._db, projects)
        rows = await self._db.rows(_SQL["within"], {"tag_ids": sorted(known.values())})
        return frozenset(PlanId(row.plan_id) for row in rows)

    async def get(self, plan_id: PlanId) -> PlanDetail:
        """See the port."""
        found: Sequence[PlanDetail] = []
        if is_id(plan_id):
            found = await self._db.reading(lambda session: plan_details(session, [plan_id]))
        if not found:
            raise missing_plan(plan_id)
        return found[0]

    async def set_active(self, plan_id: PlanId, active: bool, *, actor: str = USER) -> PlanDetail:
        """See the port."""
        if not is_id(plan_id):
            raise missing_plan(plan_id)
        await activate(self._db, plan_id, active, actor=actor)
        return await self.get(plan_id)

    async def change_resources(self, plan_id: PlanId, change: ResourceChange) -> PlanDetail:
        """See the port."""
        parameters = {
            "plan_id": plan_id,
            "defaults": Jsonb(dict(DEFAULT_RESOURCES)),
            "unset": sorted(change.unset),
            "set": Jsonb({name: canonical_quantity(text) for name, text in change.set.items()}),
        }
        return await self._changed(
            plan_id, lambda session: _set(session, "change_resources", parameters)
        )

    async def change_annotations(self, plan_id: PlanId, change: AnnotationChange) -> PlanDetail:
        """See the port."""

        async def step(session: Session) -> None:
            row = await session.row(_SQL["lock_annotations"], {"plan_id": plan_id})
            if row is None:
                raise missing_plan(plan_id)
            notes = {Annotation(key, value) for key, value in row.annotations} - change.remove
            notes = {note for note in notes if note.key not in change.remove_keys} | change.add
            pairs = Jsonb([[note.key, note.value] for note in sorted(notes)])
            await session.do(_SQL["set_annotations"], {"plan_id": plan_id, "annotations": pairs})

        return await self._changed(plan_id, step)

    async def set_service_account(self, plan_id: PlanId, name: str | None) -> PlanDetail:
        """See the port."""
        parameters = {"plan_id": plan_id, "service_account": name}
        return await self._changed(
            plan_id, lambda session: _set(session, "set_service_account", parameters)
        )

    async def set_options(self, plan_id: PlanId, options: PlanOptions) -> PlanDetail:
        """See the port."""
        parameters = {"plan_id": plan_id, "options": Jsonb(options_document(options))}
        return await self._changed(
            plan_id, lambda session: _set(session, "set_options", parameters)
        )

    async def set_priority(self, plan_id: PlanId, priority: int) -> PlanDetail:
        """See the port.

        Waiting Runs are changed page by page, so that a long queue locks nobody out.
        """
        parameters = {"plan_id": plan_id, "priority": priority}
        await self._changed(plan_id, lambda session: _set(session, "set_priority", parameters))
        while await self._db.do(_SQL["move_in_queue"], {"plan_id": plan_id, "most": _PAGE}):
            pass
        return await self.get(plan_id)

    async def _changed(
        self, plan_id: PlanId, step: Callable[[Session], Awaitable[None]]
    ) -> PlanDetail:
        """Changes a Plan in a transaction, and reads it again."""
        if not is_id(plan_id):
            raise missing_plan(plan_id)
        await self._db.transaction(step)
        return await self.get(plan_id)


async def _set(session: Session, statement: str, parameters: Mapping[str, Any]) -> None:
    """Runs an UPDATE … RETURNING on a user's Plan; raises PlanNotFound if it matches none."""
    if await session.row(_SQL[statement], parameters) is None:
        raise missing_plan(parameters["plan_id"])


def _preview(spec: PlanSpec, found: Sequence[Counted], limit: int) -> PlanPreview:
    paths = [one.path for one in spec.inputs]
    first = page([one.first for one in found], None, None, limit)
    return PlanPreview(
        runs=prod(one.found for one in found),
        candidates={path: one.found for path, one in zip(paths, found, strict=True)},
        assignments=tuple(dict(zip(paths, map(KnitId, one), strict=True)) for one in first.items),
    )


async def _conditions(db: Database, query: PlanQuery) -> tuple[list[str], dict[str, Any]] | None:
    """Gives the conditions of a search; None: nothing can satisfy them."""
    conditions: list[str] = []
    parameters: dict[str, Any] = {
        "active": query.active,
        "repository": query.repository,
        "image_tag": query.image_tag,
        "image_digest": query.image_digest,
    }
    if query.plan_ids is not None:
        conditions.append("p.plan_id = ANY (%(plan_ids)s::uuid[])")
        parameters["plan_ids"] = id_array(only_ids(query.plan_ids))
    conditions += [
        f"p.{column} = %({column})s"
        for column in ("active", "repository", "image_tag", "image_digest")
        if parameters[column] is not None
    ]
    known = await tags.find(db, {*query.input_tags, *query.output_tags})
    if query.input_tags:
        wanted = _input_conditions(query.input_tags, known)
        if wanted is None:
            return None
        conditions.append(wanted[0])
        parameters.update(wanted[1])
    if query.output_tags:
        numbers = _numbers(query.output_tags, known)
        if numbers is None:
            return None
        conditions.append(_SQL["some_output"])
        parameters["output_tag_ids"] = numbers
    return conditions, parameters


def _input_conditions(
    wanted: Sequence[Tag], known: Mapping[Tag, int]
) -> tuple[str, dict[str, Any]] | None:
    pins: dict[str, set[Any]] = {KEY_ID: set(), KEY_TIMESTAMP: set()}
    users = []
    for tag in wanted:
        if not tag.is_system:
            users.append(tag)
        elif tag.key == KEY_ID:
            pins[KEY_ID].add(tag.value)
        elif tag.key == KEY_TIMESTAMP:
            pins[KEY_TIMESTAMP].add(parse_timestamp(tag.value))
        else:
            return None
    numbers = _numbers(users, known)
    if numbers is None or any(len(values) > 1 for values in pins.values()):
        return None
    return _SQL["some_input"], {
        "input_tag_ids": numbers,
        "pinned_knit_id": next(iter(pins[KEY_ID]), None),
        "pinned_timestamp": next(iter(pins[KEY_TIMESTAMP]), None),
    }


def _numbers(wanted: Sequence[Tag], known: Mapping[Tag, int]) -> list[int] | None:
    """Gives the numbers of user tags; None if one was never used or is a system tag."""
    numbers = {known.get(tag) for tag in wanted}
    return None if None in numbers else sorted(one for one in numbers if one is not None)


async def _refuse_too_many_runs(session: Session, plan_id: str, limit: int) -> None:
    found = prod(one.found for one in await count_candidates(session, plan_id))
    if found > limit:
        raise TooManyRuns(
            f"the Plan would at once create {found} Runs, more than the limit of {limit}",
            advice="make its inputs more specific, or register it again with a confirmation",
        )
