"""Uploads and downloads: the pseudo-Run of an upload, and a row for every open transfer."""

from __future__ import annotations

import secrets
from typing import Any, Final

from psycopg.errors import UniqueViolation

from knit_workflows import names
from knit_workflows.domain.errors import DataExists, NotFound
from knit_workflows.domain.ids import KnitId, RunId, is_id
from knit_workflows.domain.plans.model import UPLOADED
from knit_workflows.domain.ports import TransferRecord
from knit_workflows.domain.runs import USER
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Session
from knit_workflows.store.not_found import missing_data, purged_data

_SQL: Final = named_sql.beside(__file__)
_TOKEN_BYTES: Final = 32


class PostgresTransferStore:
    """Implements `ports.TransferStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def announce(self) -> None:
        """See the port."""
        await self._db.do(_SQL["announce"], {"channel": names.THROTTLE_CHANNEL})

    async def begin_upload(
        self, transfer_id: str, run_id: RunId, knit_id: KnitId, *, actor: str = USER
    ) -> TransferRecord:
        """See the port."""
        params = {
            "transfer_id": transfer_id,
            "run_id": run_id,
            "knit_id": knit_id,
            "actor": actor,
            "plan": UPLOADED,
            "volume": names.volume(knit_id),
            "token": secrets.token_urlsafe(_TOKEN_BYTES),
        }

        async def begin(session: Session) -> TransferRecord:
            await session.do(_SQL["begin_upload"], params)
            return _record(
                transfer_id, await session.row(_SQL["transfer"], {"transfer_id": transfer_id})
            )

        try:
            return await self._db.transaction(begin)
        except UniqueViolation as cause:
            raise DataExists(
                f"the Data {knit_id} is written by another transfer",
                advice="begin the upload again with a new id",
                see=knit_id,
            ) from cause

    async def begin_download(self, transfer_id: str, knit_id: KnitId) -> TransferRecord:
        """See the port."""
        if not is_id(knit_id):
            raise missing_data(knit_id)
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        params = {"transfer_id": transfer_id, "knit_id": knit_id, "token": token}

        async def begin(session: Session) -> TransferRecord:
            await session.do(_SQL["begin_download"], params)
            row = await session.row(_SQL["transfer"], {"transfer_id": transfer_id})
            if row is None:
                purged = await session.row(_SQL["purged"], {"knit_id": knit_id})
                raise (
                    missing_data(knit_id)
                    if purged is None
                    else purged_data(knit_id, purged.purged_at)
                )
            return _record(transfer_id, row)

        return await self._db.transaction(begin)

    async def get(self, transfer_id: str) -> TransferRecord:
        """See the port."""
        return _record(
            transfer_id, await self._db.row(_SQL["transfer"], {"transfer_id": transfer_id})
        )

    async def opened(self, transfer_id: str, endpoint: str) -> None:
        """See the port."""
        await self._db.do(_SQL["opened"], {"transfer_id": transfer_id, "endpoint": endpoint})

    async def closed(self, transfer_id: str) -> None:
        """See the port."""
        await self._db.do(_SQL["closed"], {"transfer_id": transfer_id})


def _record(transfer_id: str, row: Any) -> TransferRecord:
    if row is None:
        raise NotFound(f"there is no transfer {transfer_id}", see=transfer_id)
    return TransferRecord(**row._asdict())
