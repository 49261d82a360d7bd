"""`ImportStore` in memory; its keys have the age that the test gives them."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

from knit_workflows import names
from knit_workflows.domain.errors import ImportOver
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.imports import Import, ImportTimes, SigningKey
from knit_workflows.domain.plans.model import IMPORTED
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import USER, RunStatus
from tests.memory_store.matching import add_run
from tests.memory_store.memory import DataRow, Part, RunRow
from tests.memory_store.moves import move
from tests.memory_store.runs import MemoryExecution


class MemoryImports(Part):
    """Imports, and keys by name."""

    async def begin(self, *, actor: str = USER) -> Import:
        rows = self.rows
        plan = next(one for one in rows.plans.values() if one.name == IMPORTED)
        (output,) = plan.spec.outputs
        run_id, knit_id = RunId(str(uuid4())), KnitId(str(uuid4()))
        at = rows.now()
        run = RunRow(run_id, plan.plan_id, RunStatus.RUNNING, at, at)
        run.outputs[output.path] = knit_id
        add_run(rows, run, cause="import begins")
        run.events[0] = replace(run.events[0], actor=actor)
        rows.data[knit_id] = DataRow(knit_id, run_id, output.path, set())
        return Import(run_id, knit_id, names.volume(knit_id))

    async def require_open(self, begun: Import, *, window: timedelta) -> None:
        self._open(begun, window)

    async def end(self, begun: Import, *, window: timedelta, actor: str = USER) -> None:
        run = self._open(begun, window)
        move(self.rows, run, RunStatus.COMPLETING, cause="import ends", actor=actor)

    async def finish(self, begun: Import) -> None:
        execution = MemoryExecution(self._memory)
        await execution.finalize(RunKey(begun.run_id, 1), cause="import ended")

    async def signing_key(self, times: ImportTimes) -> SigningKey:
        keys = self.rows.keys
        for key in keys.values():
            if key.age < times.signs_until:
                return key
        for old in [one for one in keys.values() if one.age > times.forgotten_at]:
            del keys[old.kid]
        key = SigningKey(str(uuid4()), secrets.token_bytes(256), timedelta())
        keys[key.kid] = key
        return key

    async def find_key(self, kid: str) -> SigningKey | None:
        return self.rows.keys.get(kid)

    def _open(self, begun: Import, window: timedelta) -> RunRow:
        run = self.rows.runs.get(begun.run_id)
        if run is None or begun.knit_id not in run.outputs.values():
            raise ImportOver(see=begun.run_id)
        over = self.rows.now() - run.created_at > window
        if run.status is not RunStatus.RUNNING or over:
            raise ImportOver(see=begun.run_id)
        return run
