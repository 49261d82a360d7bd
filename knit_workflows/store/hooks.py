"""The hooks in force, and the record of their deliveries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from psycopg.types.json import Jsonb

from knit_workflows.domain.cursors import Cursor, parse_cursor
from knit_workflows.domain.errors import (
    DeliveryNotFound,
    IllegalMove,
    InvalidRequest,
    RunNotFound,
    Superseded,
)
from knit_workflows.domain.hooks import (
    FOLLOWS_FOR,
    DeliveryQuery,
    DeliveryState,
    HookAnswer,
    HookDelivery,
    HookPhase,
    Hooks,
    HooksFollower,
    HooksInForce,
    HooksSource,
    Transition,
)
from knit_workflows.domain.ids import RunId, is_id
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Session

_SQL: Final = named_sql.beside(__file__)
_OVER: Final = (DeliveryState.SUCCEEDED, DeliveryState.SKIPPED)


class PostgresHookStore:
    """Implements `ports.HookStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def hooks(self) -> Hooks:
        """See the port."""
        row = await self._db.row(_SQL["hooks"])
        return Hooks(tuple(row.before_urls), tuple(row.after_urls))

    async def configure(self, hooks: Hooks, source: HooksSource | None = None) -> bool:
        """See the port."""
        wanted = {
            "before": list(hooks.before),
            "after": list(hooks.after),
            "worker": source and source.worker,
            "file": source and source.file,
            "digest": source and source.digest,
        }
        row = await self._db.row(_SQL["configure"], wanted)
        return row is not None and row.is_other

    async def follow(self, source: HooksSource, problem: str = "") -> None:
        """See the port."""
        await self._db.do(
            _SQL["follow"],
            {
                "worker": source.worker,
                "file": source.file,
                "digest": source.digest,
                "problem": problem.replace("\0", " "),
            },
        )

    async def leave(self, worker: str) -> None:
        """See the port."""
        await self._db.do(_SQL["leave"], {"worker": worker})

    async def in_force(self) -> HooksInForce:
        """See the port."""

        async def work(session: Session) -> HooksInForce:
            row = await session.row(_SQL["in_force"])
            followers = await session.rows(_SQL["followers"], {"lately": FOLLOWS_FOR})
            return HooksInForce(
                Hooks(tuple(row.before_urls), tuple(row.after_urls)),
                row.changed_at,
                None if row.digest is None else _source(row),
                tuple(
                    HooksFollower(_source(one), one.problem, one.since, one.seen_at)
                    for one in followers
                ),
            )

        return await self._db.reading(work)

    async def begin(self, transition: Transition, phase: HookPhase, url: str) -> int | None:
        """See the port."""
        row = await self._db.row(
            _SQL["begin"],
            {
                "delivery_id": transition.delivery_id(phase, url),
                "run_id": transition.run_id,
                "generation": transition.generation,
                "source": transition.source.value,
                "target": transition.target.value,
                "phase": phase.value,
                "url": url,
            },
        )
        if row is None:
            raise RunNotFound(f"there is no Run {transition.run_id}", see=transition.run_id)
        if row.generation != transition.generation:
            raise Superseded(see=transition.run_id)
        attempts: int | None = row.attempts
        return attempts

    async def ended(
        self,
        transition: Transition,
        phase: HookPhase,
        url: str,
        answer: HookAnswer,
        *,
        attempt: int,
        next_in: timedelta | None = None,
    ) -> None:
        """See the port."""
        state = DeliveryState.SUCCEEDED if answer.succeeded else DeliveryState.FAILED
        await self._db.do(
            _SQL["ended"],
            {
                "delivery_id": transition.delivery_id(phase, url),
                "attempt": attempt,
                "state": state.value,
                "status_code": answer.status_code,
                "answer": answer.text,
                "duration_ms": round(answer.duration.total_seconds() * 1000),
                "next_in": None if next_in is None else next_in.total_seconds(),
            },
        )

    async def keep_environment(
        self, transition: Transition, environment: Mapping[str, str]
    ) -> None:
        """See the port."""
        await self._db.do(
            _SQL["keep_environment"],
            {
                "run_id": transition.run_id,
                "generation": transition.generation,
                "source": transition.source.value,
                "environment": Jsonb(dict(environment)),
            },
        )

    async def find(
        self, query: DeliveryQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[HookDelivery]:
        """See the port."""
        conditions = ["true"]
        asked: dict[str, Any] = {"limit": limit}
        if query.run_id is not None:
            await self._require_run(query.run_id)
            conditions.append("run_id = %(run_id)s")
            asked["run_id"] = query.run_id
        if query.failed:
            conditions.append("state NOT IN ('succeeded', 'skipped')")
        if query.since is not None:
            conditions.append("called_at >= %(since)s")
            asked["since"] = query.since
        if after is not None:
            place = _place(after)
            conditions.append("(called_at, delivery_id) < (%(instant)s, %(after)s::uuid)")
            asked |= {"instant": place.instant, "after": place.id}
        statement = named_sql.filled(_SQL["deliveries"], where=" AND ".join(conditions))
        return [_delivery(row) for row in await self._db.rows(statement, asked)]

    async def skip(self, delivery_id: str, *, actor: str, reason: str) -> HookDelivery:
        """See the port."""
        asked = {"delivery_id": delivery_id, "actor": actor, "reason": reason}

        async def work(session: Session) -> HookDelivery:
            row = await session.row(_SQL["lock_delivery"], asked) if is_id(delivery_id) else None
            if row is None:
                raise DeliveryNotFound(f"there is no delivery {delivery_id}", see=delivery_id)
            if row.skipped_by is None:
                _require_open(row)
                cause = f"hook {row.url} before → {row.to_status} skipped: {reason}"
                await session.do(_SQL["skip"], asked | {"cause": cause})
            one = named_sql.filled(_SQL["deliveries"], where="delivery_id = %(delivery_id)s")
            return _delivery(await session.row(one, asked | {"limit": 1}))

        return await self._db.transaction(work)

    async def _require_run(self, run_id: RunId) -> None:
        found = is_id(run_id) and await self._db.row(_SQL["run"], {"run_id": run_id})
        if not found:
            raise RunNotFound(f"there is no Run {run_id}", see=run_id)


def _require_open(row: Any) -> None:
    if row.phase != HookPhase.BEFORE:
        raise IllegalMove(
            "only a Before hook can be skipped: nothing waits for an After hook",
            see=row.delivery_id,
        )
    if row.state in _OVER or not row.is_open:
        raise IllegalMove(
            "nothing waits for this hook any more",
            advice="see `knit hook deliveries` for those that still fail",
            see=row.delivery_id,
        )


def _source(row: Any) -> HooksSource:
    return HooksSource(row.worker, row.file, row.digest)


def _place(after: str) -> Cursor:
    cursor = parse_cursor(after)
    if cursor.instant is None:
        raise InvalidRequest(
            f"bad request: {after!r} is not a cursor of this list",
            advice="take it from the header X-Next-Cursor, or start again without one",
        )
    return cursor


def _delivery(row: Any) -> HookDelivery:
    return HookDelivery(
        delivery_id=row.delivery_id,
        transition=Transition(
            RunId(row.run_id),
            row.generation,
            RunStatus(row.from_status),
            RunStatus(row.to_status),
        ),
        phase=HookPhase(row.phase),
        url=row.url,
        attempts=row.attempts,
        state=DeliveryState(row.state),
        created_at=row.created_at,
        called_at=row.called_at,
        status_code=row.status_code,
        answer=row.answer or "",
        duration=None if row.duration_ms is None else timedelta(milliseconds=row.duration_ms),
        next_at=row.next_at,
        skipped_by=row.skipped_by or "",
        skip_reason=row.skip_reason or "",
    )
