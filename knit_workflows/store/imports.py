"""Imports: the pseudo-Run of each, and the keys that sign its token."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from knit_workflows import names
from knit_workflows.domain.errors import ImportOver
from knit_workflows.domain.ids import KnitId, RunId
from knit_workflows.domain.imports import Import, ImportTimes, SigningKey
from knit_workflows.domain.plans.model import IMPORTED
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import USER, RunStatus
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Session
from knit_workflows.store.locks import AdvisoryLock
from knit_workflows.store.runs.execution import PostgresRunExecutionStore

_SQL: Final = named_sql.beside(__file__)

_SECRET_BYTES: Final = 256


class PostgresImportStore:
    """Implements `ports.ImportStore`."""

    def __init__(self, db: Database, execution: PostgresRunExecutionStore) -> None:
        self._db = db
        self._execution = execution

    async def begin(self, *, actor: str = USER) -> Import:
        """See the port."""
        knit_id = KnitId(str(uuid4()))
        begun = Import(RunId(str(uuid4())), knit_id, names.volume(knit_id))
        await self._db.do(
            _SQL["begin"],
            {
                "run_id": begun.run_id,
                "knit_id": begun.knit_id,
                "volume": begun.volume,
                "plan": IMPORTED,
                "actor": actor,
            },
        )
        return begun

    async def require_open(self, begun: Import, *, window: timedelta) -> None:
        """See the port."""
        await self._db.transaction(lambda session: _lock(session, begun, window))

    async def end(self, begun: Import, *, window: timedelta, actor: str = USER) -> None:
        """See the port."""

        async def step(session: Session) -> None:
            await _lock(session, begun, window)
            await session.do(
                _SQL["end"],
                {"run_id": begun.run_id, "actor": actor, "run_channel": names.RUN_CHANNEL},
            )

        await self._db.transaction(step)

    async def finish(self, begun: Import) -> None:
        """See the port."""
        await self._execution.finish(RunKey(begun.run_id, 1), cause="import ended")

    async def signing_key(self, times: ImportTimes) -> SigningKey:
        """See the port."""
        young = {"signs_until": times.signs_until}
        row = await self._db.row(_SQL["newest_key"], young)
        if row is not None:
            return _key(row)

        async def rotate(session: Session) -> SigningKey:
            await session.do(_SQL["serialize"], {"lock": AdvisoryLock.IMPORT_KEYS})
            found = await session.row(_SQL["newest_key"], young)
            if found is None:
                new = {"kid": str(uuid4()), "secret": secrets.token_bytes(_SECRET_BYTES)}
                found = await session.row(
                    _SQL["rotate"], {**new, "forgotten_at": times.forgotten_at}
                )
            return _key(found)

        return await self._db.transaction(rotate)

    async def find_key(self, kid: str) -> SigningKey | None:
        """See the port."""
        if not kid.isprintable():  # what PostgreSQL does not take as text is among these
            return None
        row = await self._db.row(_SQL["key"], {"kid": kid})
        return None if row is None else _key(row)


async def _lock(session: Session, begun: Import, window: timedelta) -> None:
    """Locks the Run of an import; raises ImportOver unless it may be ended."""
    row = await session.row(
        _SQL["lock"],
        {
            "run_id": begun.run_id,
            "knit_id": begun.knit_id,
            "plan": IMPORTED,
            "window": window,
        },
    )
    if row is None:
        raise ImportOver(f"the import {begun.run_id} is gone: it was deleted", see=begun.run_id)
    if row.status != RunStatus.RUNNING:
        raise ImportOver(
            f"the import {begun.run_id} cannot be ended: it is {row.status}", see=begun.run_id
        )
    if row.is_over:
        raise ImportOver(
            f"the import {begun.run_id} cannot be ended: it has taken longer than {window}",
            see=begun.run_id,
        )


def _key(row: Any) -> SigningKey:
    return SigningKey(row.kid, bytes(row.secret), row.age)
