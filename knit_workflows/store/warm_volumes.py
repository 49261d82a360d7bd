"""Volumes that wait for uploads; `begin_upload` of the transfers takes them."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from knit_workflows import names
from knit_workflows.domain.ports import WarmVolume
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Session

_SQL: Final = named_sql.beside(__file__)
_TOKEN_BYTES: Final = 32
_HELD: Final = timedelta(minutes=1)
_LOOKED_AFTER_EVERY: Final = timedelta(seconds=30)
"""Clearly shorter than an agent waits for a sign of use."""


class PostgresWarmVolumeStore:
    """Implements `ports.WarmVolumeStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def hold(self, keeper: str, kind: str, count: int) -> Sequence[WarmVolume]:
        """See the port."""

        async def held(session: Session) -> list[WarmVolume]:
            await session.do(_SQL["one_at_a_time"])
            await session.do(_SQL["superfluous"], {"kind": kind, "count": count})
            there = await session.row(_SQL["count"])
            for _ in range(count - there.count):
                knit_id = str(uuid.uuid4())
                await session.do(
                    _SQL["add"],
                    {
                        "volume": names.volume(knit_id),
                        "knit_id": knit_id,
                        "kind": kind,
                        "token": secrets.token_urlsafe(_TOKEN_BYTES),
                        "keeper": keeper,
                    },
                )
            rows = await session.rows(_SQL["hold"], {"keeper": keeper, "held": _HELD})
            return [WarmVolume(**row._asdict()) for row in rows]

        return await self._db.transaction(held)

    async def ready(self, keeper: str, volume: str) -> bool:
        """See the port."""
        params = {"keeper": keeper, "volume": volume, "every": _LOOKED_AFTER_EVERY}
        return await self._db.row(_SQL["ready"], params) is not None

    async def end(self, keeper: str, volume: str) -> bool:
        """See the port."""
        params = {"keeper": keeper, "volume": volume, "held": _HELD}
        return await self._db.row(_SQL["end"], params) is not None

    async def discard(self, keeper: str, volume: str) -> None:
        """See the port."""
        await self._db.do(_SQL["discard"], {"keeper": keeper, "volume": volume})
