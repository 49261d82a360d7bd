"""What the API asks of Plans, and changes in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from psycopg.errors import UniqueViolation

from knit_workflows import names
from knit_workflows.domain.errors import EquivalentPlan, PlanNotFound, TooManyRuns
from knit_workflows.domain.ids import PlanId
from knit_workflows.domain.matching import count
from knit_workflows.domain.plans import PlanDetail, PlanQuery, PlanSpec
from knit_workflows.domain.runs import RunStatus
from knit_workflows.domain.tags import KEY_ID, KEY_TIMESTAMP, Tag, parse_instant
from knit_workflows.store import queries, tags
from knit_workflows.store.candidates import candidates_of
from knit_workflows.store.connection import Database, Session, violated
from knit_workflows.store.creation import notify_projector
from knit_workflows.store.ids import is_id
from knit_workflows.store.plan_views import plan_details
from knit_workflows.store.registration import (
    IDENTITY_CONSTRAINT,
    Registration,
    insert_plan,
    lock_registrations,
    refuse_cycle,
    refuse_equivalent,
    tags_of,
)
from knit_workflows.store.times import floor_ms

_SQL: Final = queries.load("plans")


class _RolledBackError(Exception):
    """Carries an answer out of a transaction that must leave nothing behind."""

    def __init__(self, answer: int) -> None:
        super().__init__()
        self.answer = answer


class PlanCatalogue:
    """The part of the store that Plans are registered and looked up with."""

    _db: Database

    async def register_plan(self, spec: PlanSpec, *, new_runs_limit: int | None) -> PlanDetail:
        """Register a Plan; raises EquivalentPlan (`see`: its id), CyclicPlans, TooManyRuns."""
        registration = Registration.of(spec, await tags.intern(self._db, tags_of(spec)))

        async def step(session: Session) -> None:
            await lock_registrations(session)
            await refuse_equivalent(session, registration.identity)
            await insert_plan(session, registration)
            await refuse_cycle(session, registration)
            if new_runs_limit is not None:
                await _refuse_flood(session, registration.plan_id, new_runs_limit)
            await session.do(_SQL["announce"], {"plan_id": registration.plan_id})
            await notify_projector(session)

        try:
            await self._db.transaction(step)
        except UniqueViolation as cause:
            if violated(cause) != IDENTITY_CONSTRAINT:
                raise
            await self._db.reading(lambda one: refuse_equivalent(one, registration.identity))
            raise EquivalentPlan from cause
        return await self.plan(registration.plan_id)

    async def runs_if_registered(self, spec: PlanSpec) -> int:
        """Say how many Runs the Plan would create now; none when an equivalent one is registered.

        It is inserted and rolled back: what is counted is what would be created.
        """
        registration = Registration.of(spec, await tags.intern(self._db, tags_of(spec)))

        async def step(session: Session) -> None:
            await insert_plan(session, registration)
            found = count(await candidates_of(session, registration.plan_id), None)
            raise _RolledBackError(found)

        try:
            await self._db.transaction(step)
        except _RolledBackError as answer:
            return answer.answer
        except UniqueViolation as cause:
            if violated(cause) != IDENTITY_CONSTRAINT:
                raise
        return 0

    async def find_plans(
        self, query: PlanQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[PlanDetail]:
        """By id; built-in Plans included."""
        wanted = await _conditions(self._db, query)
        if wanted is None:
            return []
        conditions, parameters = wanted
        if after is not None:
            conditions.append("p.plan_id::text > %(after)s")
        where = " AND ".join(conditions) or "true"
        statement = _SQL["find"].replace("/*where*/ true", where)

        async def read(session: Session) -> list[PlanDetail]:
            rows = await session.rows(statement, {**parameters, "after": after, "limit": limit})
            return await plan_details(session, [row.plan_id for row in rows])

        return await self._db.reading(read)

    async def plan(self, plan_id: PlanId) -> PlanDetail:
        """Raises PlanNotFound."""
        found: Sequence[PlanDetail] = []
        if is_id(plan_id):
            found = await self._db.reading(lambda session: plan_details(session, [plan_id]))
        if not found:
            raise missing_plan(plan_id)
        return found[0]

    async def set_active(self, plan_id: PlanId, active: bool) -> PlanDetail:
        """Move all its Runs waiting ⇄ deactivated; raises PlanNotFound for built-in Plans too."""
        if not is_id(plan_id):
            raise missing_plan(plan_id)
        ends = (RunStatus.DEACTIVATED.value, RunStatus.WAITING.value)
        source, target = ends if active else reversed(ends)

        async def step(session: Session) -> None:
            parameters = {"plan_id": plan_id, "active": active}
            if await session.row(_SQL["set_active"], parameters) is None:
                raise missing_plan(plan_id)
            await session.do(
                _SQL["move_runs"],
                {
                    "plan_id": plan_id,
                    "source": source,
                    "target": target,
                    "cause": "Plan activated" if active else "Plan deactivated",
                    "run_channel": names.RUN_CHANNEL,
                },
            )
            await notify_projector(session)

        await self._db.transaction(step)
        return await self.plan(plan_id)


async def _conditions(db: Database, query: PlanQuery) -> tuple[list[str], dict[str, Any]] | None:
    """Give what the rows must satisfy; None: nothing can."""
    conditions: list[str] = []
    parameters: dict[str, Any] = {
        "active": query.active,
        "repository": query.repository,
        "image_tag": query.image_tag,
    }
    conditions += [
        f"p.{column} = %({column})s"
        for column in ("active", "repository", "image_tag")
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
            pins[KEY_TIMESTAMP].add(floor_ms(parse_instant(tag.value)))
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
    """Give the numbers of user tags; None when one was never used, or is a system tag."""
    numbers = {known.get(tag) for tag in wanted}
    return None if None in numbers else sorted(one for one in numbers if one is not None)


async def _refuse_flood(session: Session, plan_id: str, limit: int) -> None:
    found = count(await candidates_of(session, plan_id), None)
    if found > limit:
        raise TooManyRuns(
            f"the Plan would at once create {found} Runs, more than the limit of {limit}",
            advice="make its inputs more specific, or register it again with a confirmation",
        )


def missing_plan(plan_id: str) -> PlanNotFound:
    """Make the error that says so; built-in Plans are not there for their users."""
    return PlanNotFound(
        f"there is no Plan {plan_id} of yours",
        advice="look for it with: knit plan find",
        see=plan_id,
    )
