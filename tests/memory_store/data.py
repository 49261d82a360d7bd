"""`DataStore` in memory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from knit_workflows import names
from knit_workflows.domain.cursors import parse_cursor
from knit_workflows.domain.data import DataDetail, DataQuery, Purge, TagChange
from knit_workflows.domain.errors import IllegalMove, InvalidRequest, InvalidTag
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.runs.run import USER
from knit_workflows.domain.tags import Tag
from knit_workflows.store.not_found import missing_data
from tests.memory_store.details import all_tags, data_detail
from tests.memory_store.matching import project_data
from tests.memory_store.memory import START, DataRow, Memory, Part, as_shown
from tests.memory_store.moves import move
from tests.memory_store.transfers import end_readers, serves_nobody

_Place = tuple[bool, datetime, str]


class MemoryData(Part):
    """Data by id."""

    async def find(
        self, query: DataQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[DataDetail]:
        return [data_detail(self.rows, one) for one in self._found(query, after)[:limit]]

    async def find_ids(
        self,
        query: DataQuery,
        *,
        after: str | None = None,
        among: frozenset[Tag] = frozenset(),
    ) -> Sequence[str]:
        found = self._found(query, after)
        return [one.knit_id for one in found if not among or among & one.tags]

    def _found(self, query: DataQuery, after: str | None) -> list[DataRow]:
        rows = self.rows
        rows.asked.append(query)
        wanted = {as_shown(tag) for tag in query.tags}
        begin = None if after is None else _position(rows, after)
        return [
            one
            for one in sorted(rows.data.values(), key=_place)
            if wanted <= set(all_tags(rows, one))
            and _in_window(rows, one, query)
            and (begin is None or _place(one) > begin)
        ]

    async def get_each(self, knit_ids: Sequence[str]) -> Sequence[DataDetail]:
        rows = self.rows
        found = (rows.data.get(KnitId(knit_id)) for knit_id in knit_ids)
        return [data_detail(rows, one) for one in found if one is not None]

    async def get(self, knit_id: KnitId) -> DataDetail:
        rows = self.rows
        if knit_id not in rows.data:
            raise missing_data(knit_id)
        return data_detail(rows, rows.data[knit_id])

    async def change_tags(
        self, knit_id: KnitId, change: TagChange, *, keeping: frozenset[Tag] = frozenset()
    ) -> DataDetail:
        rows = self.rows
        if knit_id not in rows.data:
            raise missing_data(knit_id)
        one = rows.data[knit_id]
        rows.statuses_at_tagging.append(rows.runs[one.run_id].status)
        kept = {tag for tag in one.tags - change.remove if tag.key not in change.remove_keys}
        if keeping and not keeping & (kept | change.add):
            listed = ", ".join(sorted(map(str, keeping)))
            raise InvalidTag("none of your projects", advice=f"leave one of {listed}")
        one.tags = kept | change.add
        rows.tags |= change.add
        project_data(rows, one)
        return data_detail(rows, one)

    async def purge(self, knit_id: KnitId, *, actor: str = USER, dry_run: bool = False) -> Purge:
        rows = self.rows
        if knit_id not in rows.data:
            raise missing_data(knit_id)
        one = rows.data[knit_id]
        if one.purged:
            return Purge(data_detail(rows, one), False, None)
        run = rows.runs[one.run_id]
        readers = [rows.runs[user] for user in one.users if not rows.runs[user].status.is_final]
        for busy in [*([] if run.status.is_final else [run]), *readers]:
            reason = f"the Data {knit_id} is in use by the Run {busy.run_id}"
            raise IllegalMove(reason, advice="wait, or stop it", see=busy.run_id)
        if not dry_run:
            end_readers(rows, [knit_id])
        if any(
            open_.knit_id == knit_id and not serves_nobody(rows, open_.transfer_id)
            for open_ in rows.transfers.values()
        ):
            raise IllegalMove(f"the Data {knit_id} is being transferred", see=knit_id)
        if not dry_run:
            one.purged = True
            move(rows, run, run.status, cause=f"{knit_id} purged", touch=False, actor=actor)
        volume = None if one.adopted_volume else names.volume(knit_id)
        return Purge(data_detail(rows, one), True, volume)


def _in_window(memory: Memory, one: DataRow, query: DataQuery) -> bool:
    at = one.timestamp or memory.runs[one.run_id].updated_at
    return (query.since is None or query.since <= at) and (query.until is None or at < query.until)


def _place(one: DataRow) -> _Place:
    return one.timestamp is None, one.timestamp or START, one.knit_id


def _position(memory: Memory, after: str) -> _Place:
    cursor = parse_cursor(after)
    if cursor.known:
        return cursor.instant is None, cursor.instant or START, cursor.id
    if cursor.id not in memory.data:
        raise InvalidRequest(f"the cursor {cursor} is no Data's id", advice="start again")
    return _place(memory.data[cursor.id])
