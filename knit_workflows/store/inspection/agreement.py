"""What the store contributes to the comparison of all parts: `ports.AgreementStore`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from knit_workflows import names
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.ports.agreement import KeptData, LostOutput, RunEdges
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database
from knit_workflows.store.ids import id_array, only_ids

_SQL: Final = named_sql.beside(__file__)
_PREFIX: Final = names.volume("")


class PostgresAgreementStore:
    """Implements `ports.AgreementStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def now(self) -> datetime:
        """See the port."""
        at: datetime = (await self._db.row(_SQL["now"])).at
        return at

    async def edges(self, *, after: RunId | None, limit: int) -> Sequence[RunEdges]:
        """See the port."""
        rows = await self._db.rows(_SQL["edges"], {"after": after, "limit": limit})
        return [RunEdges(row.run_id, row.digest, tuple(row.inputs or ())) for row in rows]

    async def lost_outputs(self, *, limit: int) -> Sequence[LostOutput]:
        """See the port."""
        rows = await self._db.rows(_SQL["lost_outputs"], {"limit": limit})
        return [LostOutput(row.run_id, row.path) for row in rows]

    async def kept_data(
        self, *, before: datetime, after: KnitId | None, limit: int
    ) -> Sequence[KeptData]:
        """See the port."""
        params = {"before": before, "after": after, "limit": limit}
        rows = await self._db.rows(_SQL["kept_data"], params)
        return [
            KeptData(row.knit_id, row.run_id, row.volume, row.owned, row.was_made) for row in rows
        ]

    async def known_volumes(self, volumes: Sequence[str]) -> frozenset[str]:
        """See the port."""
        knit_ids = only_ids(one.removeprefix(_PREFIX) for one in volumes)
        params = {"knit_ids": id_array(knit_ids), "volumes": list(volumes)}
        known = {row.volume for row in await self._db.rows(_SQL["known_by_id"], params)}
        others = [one for one in volumes if one not in known]
        if others:
            found = await self._db.rows(_SQL["known_by_name"], {"volumes": others})
            known |= {row.volume for row in found}
        return frozenset(known)

    async def present(self, run_ids: Sequence[RunId]) -> frozenset[RunId]:
        """See the port."""
        params = {"run_ids": id_array(only_ids(run_ids))}
        rows = await self._db.rows(_SQL["present"], params)
        return frozenset(row.run_id for row in rows)

    async def unstarted(self, *, older_than: timedelta, limit: int) -> Sequence[RunKey]:
        """See the port."""
        params = {"older_than": older_than, "limit": limit}
        rows = await self._db.rows(_SQL["unstarted"], params)
        return [RunKey(row.run_id, row.generation) for row in rows]
