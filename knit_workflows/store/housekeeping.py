"""What garbage collection and reconciliation ask of the database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.plans.model import IMPORTED
from knit_workflows.domain.ports import (
    Discarded,
    RunKey,
    StartableRun,
    TransferRecord,
    UnfinishedImport,
)
from knit_workflows.domain.runs.run import KNIT, RunStatus
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database
from knit_workflows.store.plans.activation import finish_activations
from knit_workflows.store.runs.admission import RUNS_TO_START, startable_run

_SQL: Final = named_sql.beside(__file__, runs_to_start=RUNS_TO_START)


class PostgresHousekeepingStore:
    """Implements `ports.HousekeepingStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def discarded(self, *, older_than: timedelta, limit: int) -> Sequence[Discarded]:
        """See the port."""
        rows = await self._db.rows(_SQL["discarded"], {"older_than": older_than, "limit": limit})
        return [Discarded(KnitId(row.knit_id), row.volume) for row in rows]

    async def collected(self, knit_ids: Sequence[KnitId]) -> None:
        """See the port."""
        await self._db.do(_SQL["collected"], {"knit_ids": list(knit_ids)})

    async def postponed(self, knit_id: KnitId) -> None:
        """See the port."""
        await self._db.do(_SQL["postponed"], {"knit_id": knit_id})

    async def under_way(
        self, *, older_than: timedelta, after: RunId | None, limit: int
    ) -> Sequence[StartableRun]:
        """See the port."""
        rows = await self._db.rows(
            _SQL["under_way"], {"older_than": older_than, "after": after, "limit": limit}
        )
        return [startable_run(row) for row in rows]

    async def over(self, keys: Sequence[RunKey], *, older_than: timedelta) -> frozenset[RunKey]:
        """See the port."""
        rows = await self._db.rows(
            _SQL["over"],
            {
                "run_ids": [key.run_id for key in keys],
                "generations": [key.generation for key in keys],
                "older_than": older_than,
            },
        )
        return frozenset(RunKey(RunId(row.run_id), row.generation) for row in rows)

    async def finish_activations(self) -> int:
        """See the port."""
        return await finish_activations(self._db, actor=KNIT)

    async def unfinished_imports(
        self, *, window: timedelta, older_than: timedelta, limit: int
    ) -> Sequence[UnfinishedImport]:
        """See the port."""
        rows = await self._db.rows(
            _SQL["unfinished_imports"],
            {"plan": IMPORTED, "window": window, "older_than": older_than, "limit": limit},
        )
        return [
            UnfinishedImport(RunKey(RunId(row.run_id), row.generation), RunStatus(row.status))
            for row in rows
        ]

    async def stale_transfers(self, *, older_than: timedelta) -> Sequence[TransferRecord]:
        """See the port."""
        rows = await self._db.rows(_SQL["stale_transfers"], {"older_than": older_than})
        return [TransferRecord(**row._asdict()) for row in rows]
