"""What the API asks of Data, and changes of their tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from knit_workflows import names
from knit_workflows.domain.data import DataDetail, DataQuery, TagChange
from knit_workflows.domain.errors import DataNotFound, InvalidRequest
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.runs import PROCESSING, RunStatus
from knit_workflows.domain.tags import (
    KEY_ID,
    KEY_TIMESTAMP,
    KEY_TRANSIENT,
    TRANSIENT_FAILED,
    TRANSIENT_PROCESSING,
    parse_instant,
)
from knit_workflows.store import queries, tags
from knit_workflows.store.connection import Database, Session
from knit_workflows.store.ids import is_id
from knit_workflows.store.times import floor_ms
from knit_workflows.store.views import data_details

_SQL: Final = queries.load("catalogue")

_TRANSIENT: Final = {
    TRANSIENT_PROCESSING: sorted(status.value for status in PROCESSING),
    TRANSIENT_FAILED: [RunStatus.FAILED.value, RunStatus.INVALIDATED.value],
}
_Conditions = tuple[list[str], dict[str, Any]]


class DataCatalogue:
    """The part of the store that Data are looked up and tagged with."""

    _db: Database

    async def find_data(
        self, query: DataQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[DataDetail]:
        """By timestamp (none last), then id; after the cursor (an id), at most `limit`.

        Raises InvalidRequest when there is no Data of the cursor's id.
        """
        wanted = await _conditions(self._db, query)
        if wanted is None:
            return []
        conditions, parameters = wanted

        async def read(session: Session) -> list[DataDetail]:
            found = await _page(session, conditions, parameters, after, limit)
            return await data_details(session, found)

        return await self._db.reading(read)

    async def data(self, knit_id: KnitId) -> DataDetail:
        """Raises DataNotFound."""
        found: Sequence[DataDetail] = []
        if is_id(knit_id):
            found = await self._db.reading(lambda session: data_details(session, [knit_id]))
        if not found:
            raise missing_data(knit_id)
        return found[0]

    async def change_tags(self, knit_id: KnitId, change: TagChange) -> DataDetail:
        """Removals first, then additions; idempotent; re-evaluates the Data if it is done."""
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

        await self._db.transaction(step)
        return await self.data(knit_id)


def missing_data(knit_id: str) -> DataNotFound:
    """Make the error that says so."""
    return DataNotFound(
        f"there is no Data {knit_id}", advice="look for it with: knit data find", see=knit_id
    )


async def _conditions(db: Database, query: DataQuery) -> _Conditions | None:
    """Give what the rows must satisfy; None: nothing can."""
    users = [tag for tag in query.tags if not tag.is_system]
    known = await tags.find(db, users)
    conditions: list[str] = []
    parameters: dict[str, Any] = {"since": query.since, "until": query.until}
    for turn, tag in enumerate(users):
        if tag not in known:
            return None
        conditions.append(
            f"d.knit_id IN (SELECT knit_id FROM data_tag WHERE tag_id = %(tag_{turn})s)"
        )
        parameters[f"tag_{turn}"] = known[tag]
    if not _add_system(query, conditions, parameters):
        return None
    if query.since is not None:
        conditions.append("COALESCE(d.timestamp, r.updated_at) >= %(since)s")
    if query.until is not None:
        conditions.append("COALESCE(d.timestamp, r.updated_at) < %(until)s")
    return conditions, parameters


def _add_system(query: DataQuery, conditions: list[str], parameters: dict[str, Any]) -> bool:
    """Add what the system tags ask for; False: they contradict each other, or mean nothing."""
    wanted: dict[str, set[Any]] = {}
    for tag in query.tags:
        if not tag.is_system:
            continue
        value: Any = tag.value
        if tag.key == KEY_TIMESTAMP:
            value = floor_ms(parse_instant(tag.value))
        wanted.setdefault(tag.key, set()).add(value)
    if any(len(values) > 1 for values in wanted.values()):
        return False
    for key, (value,) in wanted.items():
        if key == KEY_ID and is_id(value):
            conditions.append("d.knit_id = %(knit_id)s")
            parameters["knit_id"] = value
        elif key == KEY_TIMESTAMP:
            conditions.append("d.timestamp = %(timestamp)s")
            parameters["timestamp"] = value
        elif key == KEY_TRANSIENT and value in _TRANSIENT:
            conditions.append("r.status = ANY (%(statuses)s::text[])")
            parameters["statuses"] = _TRANSIENT[value]
        else:
            return False
    return True


async def _page(
    session: Session,
    conditions: Sequence[str],
    parameters: dict[str, Any],
    after: str | None,
    limit: int | None,
) -> list[str]:
    """Give the ids behind the cursor.

    Those without a timestamp come last, in a statement of their own, so that each of the two is
    one range of the index on (timestamp, id).
    """
    if after is None:
        return await _ids(session, conditions, {**parameters, "limit": limit})
    row = None
    if is_id(after):
        row = await session.row(_SQL["data_place"], {"knit_id": after})
    if row is None:
        raise InvalidRequest(
            f"the cursor {after} is no Data's id", advice="start again without a cursor"
        )
    found: list[str] = []
    parameters = {**parameters, "after": after, "place": row.timestamp}
    if row.timestamp is not None:
        behind = [*conditions, "(d.timestamp, d.knit_id) > (%(place)s, %(after)s::uuid)"]
        found = await _ids(session, behind, {**parameters, "limit": limit})
    if limit is None or len(found) < limit:
        rest = None if limit is None else limit - len(found)
        behind = [*conditions, "d.timestamp IS NULL"]
        if row.timestamp is None:
            behind.append("d.knit_id > %(after)s::uuid")
        found += await _ids(session, behind, {**parameters, "limit": rest})
    return found


async def _ids(
    session: Session, conditions: Sequence[str], parameters: dict[str, Any]
) -> list[str]:
    where = " AND ".join(conditions) or "true"
    statement = _SQL["find_data"].replace("/*where*/ true", where)
    return [row.knit_id for row in await session.rows(statement, parameters)]
