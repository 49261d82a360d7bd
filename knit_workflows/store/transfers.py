"""Uploads and downloads: the pseudo-Run of an upload, and a row for every open transfer."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta
from itertools import groupby
from typing import Any, Final

from psycopg.errors import UniqueViolation

from knit_workflows import names
from knit_workflows.domain.errors import DataExists, NotFound
from knit_workflows.domain.ids import KnitId, RunId, is_id
from knit_workflows.domain.plans.model import UPLOADED
from knit_workflows.domain.ports import TransferRecord
from knit_workflows.domain.readers import (
    CLOSING,
    IDLE,
    Leaving,
    Left,
    Reader,
    door_of,
    door_token,
    leaving,
    may_join,
)
from knit_workflows.domain.runs.run import USER
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

        async def begin(session: Session) -> TransferRecord:
            data = {"knit_id": knit_id}
            if await session.row(_SQL["lock_readable"], data) is None:
                purged = await session.row(_SQL["purged"], data)
                raise (
                    missing_data(knit_id)
                    if purged is None
                    else purged_data(knit_id, purged.purged_at)
                )
            at_doors = await session.rows(_SQL["readers"], data)
            token = _joinable(at_doors) or door_token(
                transfer_id, secrets.token_urlsafe(_TOKEN_BYTES)
            )
            params = data | {"transfer_id": transfer_id, "token": token}
            await session.do(_SQL["begin_download"], params)
            row = await session.row(_SQL["transfer"], {"transfer_id": transfer_id})
            return _record(transfer_id, row)

        return await self._db.transaction(begin)

    async def present(self, transfer_id: str) -> None:
        """See the port."""
        await self._db.do(_SQL["present"], {"transfer_id": transfer_id})

    async def leave(
        self, transfer_id: str, knit_id: KnitId, door: str, *, linger: timedelta
    ) -> Left:
        """See the port."""

        async def leave(session: Session) -> Left:
            await session.row(_SQL["lock_data"], {"knit_id": knit_id})
            rows = await session.rows(_SQL["readers"], {"knit_id": knit_id})
            there = [row for row in rows if door_of(row.token) == door]
            own = next((_reader(row) for row in there if row.transfer_id == transfer_id), None)
            others = [_reader(row) for row in there if row.transfer_id != transfer_id]
            if not there:
                return Left(door, closes=True)
            what, stays = leaving(own, others, linger, there[0].now)
            await _left(session, own, others, what, linger)
            return Left(door, closes=what is Leaving.CLOSES, stays=stays)

        return await self._db.transaction(leave)

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


def _joinable(at_doors: Sequence[Any]) -> str:
    """Gives the token of the oldest door that may be joined; empty if there is none."""
    for token, rows in groupby(at_doors, key=lambda row: str(row.token)):
        there = list(rows)
        if may_join([_reader(row) for row in there], there[0].now):
            return token
    return ""


async def _left(
    session: Session,
    own: Reader | None,
    others: Sequence[Reader],
    what: Leaving,
    linger: timedelta,
) -> None:
    """Writes what was decided about a transfer that leaves."""
    if own is None:
        return
    params = {"transfer_id": own.transfer_id}
    match what:
        case Leaving.GOES:
            keepers = [one.transfer_id for one in others if one.is_idle]
            if linger and keepers and not own.is_idle:
                await session.do(_SQL["keep"], {"transfer_id": keepers[0], "idle": IDLE})
            await session.do(_SQL["closed"], params)
        case Leaving.STAYS if not own.is_idle:
            await session.do(_SQL["keep"], params | {"idle": IDLE})
        case Leaving.CLOSES:
            await session.do(_SQL["opened"], params | {"endpoint": CLOSING})


def _reader(row: Any) -> Reader:
    return Reader(row.transfer_id, row.endpoint, row.since)


def _record(transfer_id: str, row: Any) -> TransferRecord:
    if row is None:
        raise NotFound(f"there is no transfer {transfer_id}", see=transfer_id)
    return TransferRecord(**row._asdict())
