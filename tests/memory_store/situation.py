"""`SituationStore` in memory."""

from __future__ import annotations

from itertools import groupby

from knit_workflows.domain.ports.situation import (
    COUNTED,
    LATELY,
    Backlog,
    Failure,
    Situation,
    StatusCount,
)
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.store.migrations import REVISION
from tests.memory_store.memory import Part, RunRow

_ORDER = tuple(RunStatus)


class MemorySituation(Part):
    """All Runs at once; nothing is held up here."""

    async def look(self, *, plan_ids: frozenset[str] | None = None) -> Situation:
        rows = self.rows
        now = rows.now()
        runs = sorted(
            (one for one in rows.runs.values() if plan_ids is None or one.plan_id in plan_ids),
            key=lambda one: (_ORDER.index(one.status), one.updated_at, one.run_id),
        )
        counts = []
        for status, group in groupby(runs, key=lambda one: one.status):
            of_status = list(group)
            first = of_status[0]
            if not status.is_final:
                counts.append(StatusCount(status, len(of_status), first.updated_at, first.run_id))
        lately = [one for one in runs if one.updated_at > now - LATELY]
        failed = [one for one in lately if one.status is RunStatus.FAILED]
        return Situation(
            at=now,
            counts=counts,
            held_up=[],
            done=min(COUNTED, sum(one.status is RunStatus.DONE for one in lately)),
            failed=len(failed),
            failures=[self._failure(one) for one in reversed(failed)],
            backlog=Backlog(transfers=len(rows.transfers)),
            revision=REVISION,
        )

    def _failure(self, run: RunRow) -> Failure:
        plan = self.rows.plans[run.plan_id]
        return Failure(run.run_id, run.updated_at, plan.name or str(plan.spec.image), run.exit)
