"""The parts put together, and what tests put in by a short cut."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import uuid4

from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.plans.graph import identity_hash
from knit_workflows.domain.plans.model import (
    Image,
    PlanInput,
    PlanOutput,
    PlanSpec,
    Requirement,
)
from knit_workflows.domain.ports import Projection
from knit_workflows.domain.runs.run import SUCCEEDED, Exit, RunDetail, RunStatus
from knit_workflows.domain.tags import Tag, parse_tag
from tests.memory_store.accounts import MemoryAudit, MemoryTokens
from tests.memory_store.adoptions import MemoryAdoptions
from tests.memory_store.completions import MemoryCompletions
from tests.memory_store.data import MemoryData
from tests.memory_store.details import run_detail
from tests.memory_store.hooks import MemoryHooks
from tests.memory_store.imports import MemoryImports
from tests.memory_store.lineage import MemoryLineage
from tests.memory_store.matching import new_run
from tests.memory_store.memory import START, Memory, Part, add_built_in_plans
from tests.memory_store.moves import finish, move
from tests.memory_store.plans import MemoryPlans, insert_plan
from tests.memory_store.runs import MemoryExecution, MemoryRuns
from tests.memory_store.transfers import MemoryTransfers


def new_id() -> str:
    return str(uuid4())


class MemoryProjection(Part):
    """Nothing to do: Runs are made with the change that means them."""

    async def project(self, *, page_size: int) -> Projection | None:
        return None


class MemoryStore:
    """Everything knit remembers; implements `ports.ApiStore`.

    Tests look at the rows in `memory`, whose clock begins at `start`.
    """

    def __init__(self, start: datetime = START) -> None:
        self.memory = memory = Memory(start)
        add_built_in_plans(memory)
        self.data = MemoryData(memory)
        self.adoptions = MemoryAdoptions(memory)
        self.imports = MemoryImports(memory)
        self.plans = MemoryPlans(memory)
        self.runs = MemoryRuns(memory)
        self.lineage = MemoryLineage(memory)
        self.completions = MemoryCompletions(memory)
        self.transfers = MemoryTransfers(memory)
        self.hooks = MemoryHooks(memory)
        self.tokens = MemoryTokens(memory)
        self.audit = MemoryAudit(memory)
        self.execution = MemoryExecution(memory)
        self.projection = MemoryProjection(memory)

    async def open(self) -> None:
        """Is open, and as new as its tests."""

    async def ping(self) -> None:
        if self.memory.broken is not None:
            raise self.memory.broken

    async def aclose(self) -> None:
        """Holds nothing that would have to be closed."""

    # --- short cuts of tests ---

    def add_run(
        self,
        status: RunStatus = RunStatus.DONE,
        *,
        inputs: Mapping[str, KnitId] | None = None,
        outputs: Mapping[str, str] | None = None,
        log: bool = False,
        image: str = "example/work:v1",
        **more: Any,
    ) -> RunDetail:
        """A Run in that status, of a Plan that asks for exactly these Data (path → Data).

        `outputs` maps paths to a tag or "", `/out` unless given; the log has the tag `type:log`.
        `more` belongs to the Plan.
        """
        memory, assigned = self.memory, inputs or {}
        repository, _, tag = image.partition(":")
        spec = PlanSpec(
            image=Image(repository, tag),
            inputs=tuple(
                PlanInput(path, Requirement(frozenset(), knit_id))
                for path, knit_id in sorted(assigned.items())
            ),
            outputs=tuple(
                PlanOutput(path, _tags(text))
                for path, text in sorted(({"/out": ""} if outputs is None else outputs).items())
            ),
            log=_tags("type:log") if log else None,
            **more,
        )
        known = memory.identities.get(identity_hash(spec))
        plan = insert_plan(memory, spec) if known is None else memory.plans[known]
        run = new_run(memory, plan, assigned)
        if run.status is not status:
            self.set_status(run.run_id, status, SUCCEEDED if status is RunStatus.DONE else None)
        return run_detail(memory, run)

    def set_status(self, run_id: str, status: RunStatus, exit: Exit | None = None) -> None:
        """Moves a Run, be that legal or not."""
        run = self.memory.runs[run_id]
        move(self.memory, run, status, cause="a test", exit=exit)
        if status in (RunStatus.DONE, RunStatus.FAILED):
            finish(self.memory, run)


def _tags(text: str) -> frozenset[Tag]:
    return frozenset({parse_tag(text)}) if text else frozenset()
