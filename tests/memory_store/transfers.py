"""`TransferStore` in memory."""

from __future__ import annotations

import secrets
from dataclasses import replace

from knit_workflows import names
from knit_workflows.domain.errors import DataExists, NotFound
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.plans.model import UPLOADED
from knit_workflows.domain.ports import TransferRecord
from knit_workflows.domain.runs import USER, RunStatus
from knit_workflows.store.not_found import missing_data, purged_data
from tests.memory_store.matching import add_run
from tests.memory_store.memory import DataRow, Memory, Part, RunRow


class MemoryTransfers(Part):
    """Open transfers by id."""

    announced = 0

    async def announce(self) -> None:
        assert self.rows
        self.announced += 1

    async def begin_upload(
        self, transfer_id: str, run_id: RunId, knit_id: KnitId, *, actor: str = USER
    ) -> TransferRecord:
        rows = self.rows
        if run_id not in rows.runs:
            if knit_id in rows.data:
                raise DataExists(f"the Data {knit_id} is written by another", see=knit_id)
            _begin(rows, run_id, knit_id, actor)
            self._open(transfer_id, knit_id, "write")
        return await self.get(transfer_id)

    async def begin_download(self, transfer_id: str, knit_id: KnitId) -> TransferRecord:
        if knit_id not in self.rows.data:
            raise missing_data(knit_id)
        if self.rows.data[knit_id].purged:
            raise purged_data(knit_id, self.rows.now())
        if transfer_id not in self.rows.transfers:
            self._open(transfer_id, knit_id, "read")
        return await self.get(transfer_id)

    async def get(self, transfer_id: str) -> TransferRecord:
        found = self.rows.transfers.get(transfer_id)
        if found is None:
            raise NotFound(f"there is no transfer {transfer_id}", see=transfer_id)
        return found

    async def opened(self, transfer_id: str, endpoint: str) -> None:
        found = self.rows.transfers.get(transfer_id)
        if found is not None:
            self.rows.transfers[transfer_id] = replace(found, endpoint=endpoint)

    async def closed(self, transfer_id: str) -> None:
        self.rows.transfers.pop(transfer_id, None)

    def _open(self, transfer_id: str, knit_id: KnitId, mode: str) -> None:
        self.rows.transfers[transfer_id] = TransferRecord(
            transfer_id=transfer_id,
            knit_id=knit_id,
            run_id=self.rows.data[knit_id].run_id,
            volume=self.rows.data[knit_id].adopted_volume or names.volume(knit_id),
            mode=mode,
            token=secrets.token_urlsafe(32),
            endpoint="",
        )


def _begin(memory: Memory, run_id: RunId, knit_id: KnitId, actor: str) -> None:
    """Adds the Run of an upload, and the Data that it makes."""
    plan = next(one for one in memory.plans.values() if one.name == UPLOADED)
    (output,) = plan.spec.outputs
    at = memory.now()
    run = RunRow(run_id, plan.plan_id, RunStatus.RUNNING, at, at)
    run.outputs[output.path] = knit_id
    add_run(memory, run, cause="upload begins")
    run.events[0] = replace(run.events[0], actor=actor)
    memory.data[knit_id] = DataRow(knit_id, run_id, output.path, set())
