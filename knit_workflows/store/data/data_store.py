"""Looks Data up and changes their tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from knit_workflows import names
from knit_workflows.domain.cursors import Cursor, parse_cursor
from knit_workflows.domain.data import DataDetail, DataQuery, Purge, TagChange
from knit_workflows.domain.errors import InvalidRequest, InvalidTag
from knit_workflows.domain.ids import KnitId, is_id
from knit_workflows.domain.runs.run import USER
from knit_workflows.domain.tags import Tag
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Session
from knit_workflows.store.data import tags
from knit_workflows.store.data.purge import purge
from knit_workflows.store.data.search import DataSearch
from knit_workflows.store.ids import PackedIds
from knit_workflows.store.not_found import missing_data
from knit_workflows.store.runs.details import data_details

_SQL: Final = named_sql.beside(__file__)


class PostgresDataStore:
    """Implements `ports.DataStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def find(
        self, query: DataQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[DataDetail]:
        """See the port."""
        tag_ids = await self._numbers(query)

        async def read(session: Session) -> list[DataDetail]:
            cursor = None if after is None else await _located(session, parse_cursor(after))
            found = await DataSearch(query, tag_ids).page(session, cursor, limit)
            return await data_details(session, found)

        return await self._db.reading(read)

    async def find_ids(
        self,
        query: DataQuery,
        *,
        after: str | None = None,
        among: frozenset[Tag] = frozenset(),
    ) -> Sequence[str]:
        """See the port."""
        tag_ids = await self._numbers(query)
        some = sorted((await tags.find(self._db, among)).values()) if among else None

        async def read(session: Session) -> PackedIds:
            cursor = None if after is None else await _located(session, parse_cursor(after))
            return await DataSearch(query, tag_ids, some).all(session, cursor)

        return await self._db.reading(read)

    async def _numbers(self, query: DataQuery) -> list[int] | None:
        """Gives the numbers of the user tags; None: there is one that no Data has."""
        users = [tag for tag in query.tags if not tag.is_system]
        known = await tags.find(self._db, users)
        return sorted(known.values()) if all(tag in known for tag in users) else None

    async def get_each(self, knit_ids: Sequence[str]) -> Sequence[DataDetail]:
        """See the port."""
        return await self._db.reading(lambda session: data_details(session, knit_ids))

    async def get(self, knit_id: KnitId) -> DataDetail:
        """See the port."""
        found: Sequence[DataDetail] = []
        if is_id(knit_id):
            found = await self._db.reading(lambda session: data_details(session, [knit_id]))
        if not found:
            raise missing_data(knit_id)
        return found[0]

    async def change_tags(
        self, knit_id: KnitId, change: TagChange, *, keeping: frozenset[Tag] = frozenset()
    ) -> DataDetail:
        """See the port."""
        if not is_id(knit_id):
            raise missing_data(knit_id)
        add = await tags.intern(self._db, change.add)

        async def step(session: Session) -> None:
            if await session.row(_SQL["lock_data"], {"knit_id": knit_id}) is None:
                raise missing_data(knit_id)
            if change.remove or change.remove_keys:
                await session.do(
                    _SQL["remove_tags"],
                    {
                        "knit_id": knit_id,
                        "digests": [tags.digest(tag) for tag in change.remove],
                        "keys": sorted(change.remove_keys),
                    },
                )
            if add:
                await session.do(
                    _SQL["add_tags"],
                    {
                        "knit_id": knit_id,
                        "tag_ids": sorted(add.values()),
                        "outbox_channel": names.OUTBOX_CHANNEL,
                    },
                )
            if keeping and not await tags.carriers(session, [knit_id], keeping):
                listed = ", ".join(sorted(map(str, keeping)))
                raise InvalidTag(
                    "the Data would belong to none of your projects any more",
                    advice=f"leave it one of the tags {listed}",
                )

        await self._db.transaction(step)
        return await self.get(knit_id)

    async def purge(self, knit_id: KnitId, *, actor: str = USER, dry_run: bool = False) -> Purge:
        """See the port."""
        gone, volume = await purge(self._db, knit_id, actor, dry_run=dry_run)
        return Purge(await self.get(knit_id), gone, volume)


async def _located(session: Session, cursor: Cursor) -> Cursor:
    """Completes a cursor that is an id alone with the present instant of its Data."""
    if cursor.known:
        return cursor
    row = await session.row(_SQL["data_place"], {"knit_id": cursor.id})
    if row is None:
        raise InvalidRequest(
            f"the cursor {cursor} is not the id of a Data", advice="start again without a cursor"
        )
    return Cursor(cursor.id, row.timestamp)
