"""`HookStore` in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from knit_workflows.domain.cursors import parse_cursor
from knit_workflows.domain.errors import (
    DeliveryNotFound,
    IllegalMove,
    InvalidRequest,
    Superseded,
)
from knit_workflows.domain.hooks import (
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
from knit_workflows.domain.runs.run import RunEvent
from knit_workflows.store.not_found import missing_run
from tests.memory_store.memory import Part

_D = DeliveryState
_OVER = (_D.SUCCEEDED, _D.SKIPPED)


class MemoryHooks(Part):
    """Hooks in force, and deliveries by id."""

    async def hooks(self) -> Hooks:
        return self.rows.hooks.hooks

    async def configure(self, hooks: Hooks, source: HooksSource | None = None) -> bool:
        rows = self.rows
        before = rows.hooks
        is_other = before.hooks != hooks
        at = rows.now() if is_other else before.changed_at
        digests = [one and one.digest for one in (before.source, source)]
        if is_other or digests[0] != digests[1]:
            rows.hooks = replace(before, hooks=hooks, changed_at=at, source=source)
        return is_other

    async def follow(self, source: HooksSource, problem: str = "") -> None:
        rows = self.rows
        now = rows.now()
        others = {one.source.worker: one for one in rows.hooks.followers}
        known = others.pop(source.worker, None)
        is_same = known is not None and (known.source, known.problem) == (source, problem)
        since = known.since if known is not None and is_same else now
        others[source.worker] = HooksFollower(source, problem, since, now)
        self._set(others)

    async def leave(self, worker: str) -> None:
        others = {one.source.worker: one for one in self.rows.hooks.followers}
        others.pop(worker, None)
        self._set(others)

    async def in_force(self) -> HooksInForce:
        return self.rows.hooks

    def _set(self, followers: Mapping[str, HooksFollower]) -> None:
        ordered = tuple(followers[worker] for worker in sorted(followers))
        self.rows.hooks = replace(self.rows.hooks, followers=ordered)

    async def begin(self, transition: Transition, phase: HookPhase, url: str) -> int | None:
        rows = self.rows
        run = rows.runs.get(transition.run_id)
        if run is None:
            raise missing_run(transition.run_id)
        if run.generation != transition.generation:
            raise Superseded(see=run.run_id)
        now, key = rows.now(), transition.delivery_id(phase, url)
        known = rows.deliveries.get(key)
        if known is None:
            known = HookDelivery(key, transition, phase, url, 0, _D.CALLING, now, now)
        elif phase is HookPhase.AFTER or known.state is _D.SKIPPED:
            return None
        rows.deliveries[key] = replace(
            known, attempts=known.attempts + 1, state=_D.CALLING, called_at=now, next_at=None
        )
        return known.attempts + 1

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
        rows, key = self.rows, transition.delivery_id(phase, url)
        known = rows.deliveries.get(key)
        if known and known.state is not _D.SKIPPED and known.attempts == attempt:
            rows.deliveries[key] = replace(
                known,
                state=_D.SUCCEEDED if answer.succeeded else _D.FAILED,
                status_code=answer.status_code,
                answer=answer.text,
                duration=answer.duration,
                next_at=None if next_in is None else rows.now() + next_in,
            )

    async def keep_environment(
        self, transition: Transition, environment: Mapping[str, str]
    ) -> None:
        run = self.rows.runs.get(transition.run_id)
        if run and (run.generation, run.status) == (transition.generation, transition.source):
            run.environment = dict(environment)

    async def find(
        self, query: DeliveryQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[HookDelivery]:
        rows = self.rows
        rows.asked.append(query)
        if query.run_id is not None and query.run_id not in rows.runs:
            raise missing_run(query.run_id)
        place = None if after is None else parse_cursor(after)
        if place is not None and place.instant is None:
            raise InvalidRequest(f"{after!r} is not a cursor of this list", advice="start again")
        found = [
            one
            for one in rows.deliveries.values()
            if query.run_id in (None, one.transition.run_id)
            and not (query.failed and one.state in _OVER)
            and (query.since is None or one.called_at >= query.since)
            and (
                place is None
                or place.instant is None
                or (one.called_at, one.delivery_id) < (place.instant, place.id)
            )
        ]
        found.sort(key=lambda one: (one.called_at, one.delivery_id), reverse=True)
        return found[:limit]

    async def skip(self, delivery_id: str, *, actor: str, reason: str) -> HookDelivery:
        rows = self.rows
        one = rows.deliveries.get(delivery_id)
        if one is None:
            raise DeliveryNotFound(f"there is no delivery {delivery_id}", see=delivery_id)
        if one.state is _D.SKIPPED:
            return one
        if one.phase is HookPhase.AFTER:
            raise IllegalMove("only a Before hook can be skipped", see=delivery_id)
        run = rows.runs[one.transition.run_id]
        source, target = one.transition.source, one.transition.target
        is_open = (run.generation, run.status) == (one.transition.generation, source)
        if one.state in _OVER or not is_open:
            raise IllegalMove("nothing waits for this hook any more", see=delivery_id)
        cause = f"hook {one.url} before → {target} skipped: {reason}"
        run.events.append(RunEvent(rows.now(), run.generation, source, source, cause, None, actor))
        rows.deliveries[delivery_id] = replace(
            one, state=_D.SKIPPED, skipped_by=actor, skip_reason=reason, next_at=None
        )
        return rows.deliveries[delivery_id]
