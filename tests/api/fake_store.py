"""The part of the store port that the API uses, in memory; as little cleverness as possible."""

from __future__ import annotations

import dataclasses
import uuid
from datetime import UTC, datetime

from knit_workflows.domain.completions import Completion, Noun
from knit_workflows.domain.data import DataDetail, DataQuery, TagChange, Upstream
from knit_workflows.domain.errors import (
    DataNotFound,
    EquivalentPlan,
    IllegalMove,
    NotFound,
    PlanNotFound,
    RunNotFound,
    TooManyRuns,
)
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.plans.model import (
    UPLOADED,
    LinkedMountpoint,
    Mountpoint,
    PlanDetail,
    PlanQuery,
    PlanSpec,
    PlanSummary,
)
from knit_workflows.domain.plans.rules import plan_document, requirement_tags
from knit_workflows.domain.ports import TransferRecord
from knit_workflows.domain.runs import (
    ABORTED_BY_USER,
    STOPPED_BY_USER,
    Assignment,
    LogAssignment,
    RunDetail,
    RunEvent,
    RunQuery,
    RunStatus,
    RunSummary,
    may_move,
)
from knit_workflows.domain.tags import Tag

NOW = datetime(2026, 1, 2, 3, 4, 5, 678900, UTC)
UNKNOWN = "00000000-0000-4000-8000-000000000000"
"""An id, but of nothing."""
UPLOAD_PLAN = PlanSummary(PlanId(str(uuid.uuid4())), None, UPLOADED)


def new_id() -> str:
    return str(uuid.uuid4())


class FakeStore:
    """Everything knit remembers; `broken` is raised by every call while it is set."""

    def __init__(self) -> None:
        self.things: dict[str, DataDetail] = {}
        self.plans: dict[str, PlanDetail] = {}
        self.specs: dict[str, object] = {}
        self.runs: dict[str, RunDetail] = {}
        self.transfers: dict[str, TransferRecord] = {}
        self.broken: Exception | None = None
        self.asked: list[object] = []
        self.attended = 0
        self.statuses_at_tagging: list[RunStatus] = []

    # --- what tests put in and look at ---

    def add_run(
        self,
        status: RunStatus = RunStatus.DONE,
        *,
        log: bool = False,
        plan: PlanSummary = UPLOAD_PLAN,
    ) -> RunDetail:
        """A Run with one output and, if wanted, a log; each with its Data."""
        run_id, knit_id = RunId(new_id()), KnitId(new_id())
        summary = RunSummary(run_id, status, NOW, None, plan)
        log_id = KnitId(new_id()) if log else None
        run = RunDetail(
            summary,
            1,
            (),
            (Assignment("/upload", (), knit_id),),
            LogAssignment((Tag("type", "log"),), log_id) if log else None,
        )
        self.runs[run_id] = run
        for one in filter(None, (knit_id, log_id)):
            path = None if one == log_id else "/upload"
            self.things[one] = DataDetail(
                one, (Tag("knit#id", one),), Upstream(path, (), summary), (), ()
            )
        return run

    def set_status(self, run_id: str, status: RunStatus, **changes: object) -> None:
        run = self.runs[run_id]
        summary = dataclasses.replace(run.summary, status=status, **changes)
        self.runs[run_id] = dataclasses.replace(run, summary=summary)
        for one in run.outputs:
            data = self.things[one.knit_id]
            self.things[one.knit_id] = dataclasses.replace(
                data, upstream=dataclasses.replace(data.upstream, run=summary)
            )

    # --- the port ---

    def _check(self) -> None:
        if self.broken is not None:
            raise self.broken

    async def ping(self) -> None:
        self._check()

    async def attend(self) -> None:
        self._check()
        self.attended += 1

    async def transfer(self, transfer_id: str) -> TransferRecord:
        self._check()
        if transfer_id not in self.transfers:
            raise NotFound
        return self.transfers[transfer_id]

    async def completions(self, noun: Noun, prefix: str, *, limit: int) -> list[Completion]:
        known = self.things if noun is Noun.DATA else {}
        return [Completion(one, "") for one in known if one.startswith(prefix)][:limit]

    async def find_data(self, query: DataQuery, **_: object) -> list[DataDetail]:
        self._check()
        self.asked.append(query)
        return [one for one in self.things.values() if set(query.tags) <= set(one.tags)]

    async def data(self, knit_id: KnitId) -> DataDetail:
        self._check()
        if knit_id not in self.things:
            raise DataNotFound(see=knit_id)
        return self.things[knit_id]

    async def change_tags(self, knit_id: KnitId, change: TagChange) -> DataDetail:
        one = await self.data(knit_id)
        self.statuses_at_tagging.append(one.upstream.run.status)
        kept = {
            tag
            for tag in one.tags
            if tag not in change.remove and tag.key not in change.remove_keys
        }
        tags = tuple(sorted(kept | change.add))
        self.things[knit_id] = dataclasses.replace(one, tags=tags)
        return self.things[knit_id]

    async def register_plan(self, spec: PlanSpec, *, new_runs_limit: int | None) -> PlanDetail:
        self._check()
        document = plan_document(spec)
        for plan_id, other in self.specs.items():
            if other == document:
                raise EquivalentPlan(see=plan_id)
        if new_runs_limit == 0:
            raise TooManyRuns(advice="confirm it")
        plan_id = PlanId(new_id())
        self.specs[plan_id] = document
        self.plans[plan_id] = _detail(plan_id, spec)
        return self.plans[plan_id]

    async def find_plans(self, query: PlanQuery, **_: object) -> list[PlanDetail]:
        self._check()
        self.asked.append(query)
        return list(self.plans.values())

    async def plan(self, plan_id: PlanId) -> PlanDetail:
        self._check()
        if plan_id not in self.plans:
            raise PlanNotFound(see=plan_id)
        return self.plans[plan_id]

    async def set_active(self, plan_id: PlanId, active: bool) -> PlanDetail:
        self.plans[plan_id] = dataclasses.replace(await self.plan(plan_id), active=active)
        return self.plans[plan_id]

    async def find_runs(self, query: RunQuery, **_: object) -> list[RunDetail]:
        self._check()
        self.asked.append(query)
        return list(self.runs.values())

    async def run(self, run_id: RunId) -> RunDetail:
        self._check()
        if run_id not in self.runs:
            raise RunNotFound(see=run_id)
        return self.runs[run_id]

    async def run_events(self, run_id: RunId) -> list[RunEvent]:
        run = await self.run(run_id)
        return [
            RunEvent(NOW, 1, None, RunStatus.RUNNING, "created", None),
            RunEvent(NOW, 1, RunStatus.RUNNING, run.summary.status, "ended", ABORTED_BY_USER),
        ]

    async def stop(self, run_id: RunId, *, fail: bool) -> RunDetail:
        run = await self.run(run_id)
        target = RunStatus.ABORTING if fail else RunStatus.COMPLETING
        if run.summary.status is not target:
            if not may_move(run.summary.status, target):
                raise IllegalMove(see=run_id)
            self.set_status(run_id, target, exit=ABORTED_BY_USER if fail else STOPPED_BY_USER)
        return self.runs[run_id]


def _detail(plan_id: PlanId, spec: PlanSpec) -> PlanDetail:
    summary = PlanSummary(plan_id, spec.image, None, spec.entrypoint, spec.args, spec.annotations)

    def point(path: str, tags: frozenset[Tag]) -> LinkedMountpoint:
        return LinkedMountpoint(Mountpoint(path, tuple(sorted(tags))), ())

    return PlanDetail(
        summary,
        tuple(point(one.path, requirement_tags(one.requirement)) for one in spec.inputs),
        tuple(point(one.path, one.tags) for one in spec.outputs),
        None if spec.log is None else point("/log", spec.log),
        spec.active,
        spec.on_node,
        spec.resources,
        spec.service_account,
    )
