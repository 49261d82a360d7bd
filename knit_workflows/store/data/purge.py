"""Purge: the content of a Data goes, the rest of it stays.

The lock on its row keeps new readers out; earlier ones are visible behind it.
"""

from __future__ import annotations

from typing import Final

from knit_workflows.domain.errors import IllegalMove
from knit_workflows.domain.ids import KnitId, is_id
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Session
from knit_workflows.store.not_found import missing_data
from knit_workflows.store.runs.retry_delete import (
    SERVES_NOBODY,
    SERVES_NOBODY_SINCE,
    end_readers,
)

_SQL: Final = named_sql.beside(__file__, serves_nobody=SERVES_NOBODY)


async def purge(
    db: Database, knit_id: KnitId, actor: str, *, dry_run: bool
) -> tuple[bool, str | None]:
    """Implements `ports.DataStore.purge`; gives `Purge.is_new` and `Purge.volume`."""
    if not is_id(knit_id):
        raise missing_data(knit_id)

    async def step(session: Session) -> tuple[bool, str | None]:
        row = await session.row(_SQL["lock"], {"knit_id": knit_id})
        if row is None:
            raise missing_data(knit_id)
        if row.purged_at is not None:
            return False, None
        if not RunStatus(row.status).is_final:
            raise IllegalMove(
                f"the Data {knit_id} is still being made: its Run {row.run_id} is {row.status}",
                advice="wait until the Run has ended, or stop it",
                see=row.run_id,
            )
        if not dry_run:
            await end_readers(session, [knit_id])
        await _refuse_if_read(session, knit_id, dry_run=dry_run)
        if not dry_run:
            await session.do(_SQL["purge"], {"knit_id": knit_id, "actor": actor})
        return True, row.volume if row.owned else None

    return await db.freeing(step)


async def _refuse_if_read(session: Session, knit_id: KnitId, *, dry_run: bool) -> None:
    where = {"knit_id": knit_id, "dry_run": dry_run, **SERVES_NOBODY_SINCE}
    reader = await session.row(_SQL["readers"], where)
    if reader is None:
        return
    if reader.run_id is None:
        raise IllegalMove(
            f"the Data {knit_id} is being transferred ({reader.doing})",
            advice="wait until the transfer has ended",
            see=knit_id,
        )
    raise IllegalMove(
        f"the Data {knit_id} is read by the Run {reader.run_id}, which is {reader.doing}",
        advice="wait until the Run has ended, or stop it",
        see=reader.run_id,
    )
