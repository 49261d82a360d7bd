"""`TransferStore` in memory."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta

from knit_workflows import names
from knit_workflows.domain.errors import DataExists, NotFound
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.plans.model import UPLOADED
from knit_workflows.domain.ports import TransferRecord
from knit_workflows.domain.readers import (
    Leaving,
    Left,
    Reader,
    TransferState,
    endpoint_token,
    leaving,
    may_join,
)
from knit_workflows.domain.runs.run import USER, RunStatus
from knit_workflows.store.not_found import missing_data, purged_data
from tests.memory_store.matching import add_run
from tests.memory_store.memory import DataRow, Memory, Part, RunRow

_NOT_LEFT = (TransferState.OPENING, TransferState.OPEN)


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
            self._open(transfer_id, knit_id, "read", self._token(transfer_id, knit_id))
        return await self.get(transfer_id)

    def _token(self, transfer_id: str, knit_id: KnitId) -> str:
        records = [one for one in self.rows.transfers.values() if one.knit_id == knit_id]
        for token in dict.fromkeys(one.token for one in records if one.endpoint_id):
            if may_join(
                [self._reader(one) for one in records if one.token == token], self.rows.now()
            ):
                return token
        return endpoint_token(transfer_id, secrets.token_urlsafe(32))

    def _reader(self, record: TransferRecord) -> Reader:
        return Reader(
            record.transfer_id,
            self.rows.transfer_states[record.transfer_id],
            self.rows.transfers_since[record.transfer_id],
        )

    async def present(self, transfer_id: str) -> None:
        if self.rows.transfer_states.get(transfer_id) is TransferState.OPEN:
            self.rows.transfers_since[transfer_id] = self.rows.now()

    async def leave(
        self, transfer_id: str, knit_id: KnitId, endpoint_id: str, *, linger: timedelta
    ) -> Left:
        there = {
            one.transfer_id: self._reader(one)
            for one in self.rows.transfers.values()
            if one.knit_id == knit_id and one.endpoint_id == endpoint_id
        }
        own = there.pop(transfer_id, None)
        what, stays = leaving(own, list(there.values()), linger, self.rows.now())
        if own is not None:
            if what is Leaving.GOES:
                for one in there.values():
                    if one.is_idle and linger and not own.is_idle:
                        self._keep(one.transfer_id)
                await self.closed(transfer_id)
            elif what is Leaving.CLOSES:
                self.rows.transfer_states[transfer_id] = TransferState.CLOSING
            elif not own.is_idle:
                self._keep(transfer_id)
        return Left(endpoint_id, closes=what is Leaving.CLOSES, stays=stays)

    def _keep(self, transfer_id: str) -> None:
        self.rows.transfer_states[transfer_id] = TransferState.IDLE
        self.rows.transfers_since[transfer_id] = self.rows.now()

    async def get(self, transfer_id: str) -> TransferRecord:
        found = self.rows.transfers.get(transfer_id)
        if found is None:
            raise NotFound(f"there is no transfer {transfer_id}", see=transfer_id)
        return found

    async def opened(self, transfer_id: str, endpoint: str) -> None:
        found = self.rows.transfers.get(transfer_id)
        if found is not None and self.rows.transfer_states[transfer_id] in _NOT_LEFT:
            self.rows.transfers[transfer_id] = replace(found, endpoint=endpoint)
            self.rows.transfer_states[transfer_id] = TransferState.OPEN

    async def closed(self, transfer_id: str) -> None:
        self.rows.transfers.pop(transfer_id, None)
        self.rows.transfer_states.pop(transfer_id, None)

    def _open(self, transfer_id: str, knit_id: KnitId, mode: str, token: str = "") -> None:
        self.rows.transfers_since[transfer_id] = self.rows.now()
        self.rows.transfer_states[transfer_id] = TransferState.OPENING
        self.rows.transfers[transfer_id] = TransferRecord(
            transfer_id=transfer_id,
            knit_id=knit_id,
            run_id=self.rows.data[knit_id].run_id,
            volume=self.rows.data[knit_id].adopted_volume or names.volume(knit_id),
            mode=mode,
            token=token or secrets.token_urlsafe(32),
            endpoint="",
        )


def end_readers(memory: Memory, knit_ids: Collection[str]) -> None:
    """Ends transfers that only keep an endpoint."""
    for one in list(memory.transfers.values()):
        if one.knit_id in knit_ids and serves_nobody(memory, one.transfer_id):
            del memory.transfers[one.transfer_id]


def serves_nobody(memory: Memory, transfer_id: str) -> bool:
    """Says whether a transfer only keeps an endpoint."""
    return memory.transfer_states[transfer_id] not in _NOT_LEFT


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
