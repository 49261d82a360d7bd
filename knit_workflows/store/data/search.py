"""Finds Data by a query: every page is a range of an index, however large the store.

```
no user tag   the Data by (timestamp, id)
one           the Data of the tag by (timestamp, id)
several       the Data of the rarest tag; the others are probed one by one
one of some   the Data of these, each once, sorted; all others are probed
```
Data without a timestamp come last, from a second statement on the same snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from knit_workflows.domain.cursors import Cursor
from knit_workflows.domain.data import DataQuery
from knit_workflows.domain.ids import is_id
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.domain.tags import (
    KEY_ID,
    KEY_TIMESTAMP,
    KEY_TRANSIENT,
    TRANSIENT_FAILED,
    TRANSIENT_PROCESSING,
    TRANSIENT_PURGED,
    Tag,
    parse_timestamp,
)
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Session
from knit_workflows.store.ids import PackedIds, packed_ids

_SQL: Final = named_sql.beside(__file__)

_TRANSIENT: Final = {
    TRANSIENT_PROCESSING: sorted(one.value for one in RunStatus if not one.is_final),
    TRANSIENT_FAILED: [RunStatus.FAILED.value, RunStatus.INVALIDATED.value],
}


@dataclass(slots=True)
class DataSearch:
    """What the rows must satisfy: SQL and its parameters.

    `d` is the Data as far as the index has it, `own` all of it, and `r` its Run.

    `tag_ids` are the numbers of the user tags; None: there is one that no Data has. `among` are
    those of which a Data has one at least; None: it need not.
    """

    query: DataQuery
    tag_ids: list[int] | None
    among: list[int] | None = None
    conditions: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)

    async def page(self, session: Session, after: Cursor | None, limit: int | None) -> list[str]:
        """Gives at most `limit` ids behind the cursor, which must have its instant."""
        if self.tag_ids is None or not self._add_system_tags():
            return []
        source = await self._source(session)
        found: list[str] = []
        for part in self._parts(after):
            remainder = None if limit is None else limit - len(found)
            if remainder != 0:
                statement, parameters = self._statement(source, part, after, remainder)
                found += [row.knit_id for row in await session.rows(statement, parameters)]
        return found

    async def all(self, session: Session, after: Cursor | None) -> PackedIds:
        """Gives all ids behind the cursor, which must have its instant."""
        found = PackedIds()
        if self.tag_ids is None or not self._add_system_tags():
            return found
        source = await self._source(session)
        for part in self._parts(after):
            statement, parameters = self._statement(source, part, after, None)
            found += await packed_ids(session, statement, parameters)
        return found

    def _parts(self, after: Cursor | None) -> Iterator[list[str]]:
        """Gives the conditions of one statement, or of two, the first one first."""
        if (after is None or after.instant is not None) and not self._unfinished():
            yield self._dated(after)
        yield self._undated(after)

    def _unfinished(self) -> bool:
        """Says whether only Data of unfinished Runs are wanted; none of them has a timestamp."""
        return Tag(KEY_TRANSIENT, TRANSIENT_PROCESSING) in self.query.tags

    async def _source(self, session: Session) -> str:
        """Gives the table to scan; all tags but the one it is scanned by become conditions."""
        tag_ids = self.tag_ids or []
        if self.among is not None:
            self._probe(tag_ids)
            self.parameters["among"] = self.among
            return _SQL["of_some_tag"]
        if not tag_ids:
            return "data d"
        if len(tag_ids) > 1:
            rows = await session.rows(_SQL["rarest_first"], {"tag_ids": tag_ids})
            tag_ids = [row.tag_id for row in rows]
        self._require("d.tag_id = %(scanned)s", scanned=tag_ids[0])
        self._probe(tag_ids[1:])
        return "data_tag d"

    def _probe(self, tag_ids: Sequence[int]) -> None:
        for turn, tag_id in enumerate(tag_ids):
            name = f"tag_{turn}"
            self._require(named_sql.filled(_SQL["has_tag"], tag=name), **{name: tag_id})

    def _add_system_tags(self) -> bool:
        """Adds conditions for the system tags; False: no Data can have all of them."""
        wanted: dict[str, set[Any]] = {}
        for tag in self.query.tags:
            if tag.is_system:
                wanted.setdefault(tag.key, set()).add(_system_value(tag))
        return all(
            len(values) == 1 and self._add_system_tag(key, *values)
            for key, values in wanted.items()
        )

    def _add_system_tag(self, key: str, value: Any) -> bool:
        if key == KEY_ID and is_id(value):
            self._require("d.knit_id = %(knit_id)s", knit_id=value)
        elif key == KEY_TIMESTAMP:
            self._require("d.timestamp = %(timestamp)s", timestamp=value)
        elif key == KEY_TRANSIENT and value == TRANSIENT_PURGED:
            self._require("own.purged_at IS NOT NULL")
        elif key == KEY_TRANSIENT and value in _TRANSIENT:
            self._require("own.purged_at IS NULL")
            self._require("r.status = ANY (%(statuses)s::text[])", statuses=_TRANSIENT[value])
        else:
            return False
        return True

    def _require(self, condition: str, **parameters: Any) -> None:
        self.conditions.append(condition)
        self.parameters.update(parameters)

    def _dated(self, after: Cursor | None) -> list[str]:
        behind = "(d.timestamp, d.knit_id) > (%(instant)s, %(after)s::uuid)"
        where = ["d.timestamp IS NOT NULL" if after is None else behind]
        return where + self._window("d.timestamp")

    def _undated(self, after: Cursor | None) -> list[str]:
        where = ["d.timestamp IS NULL"]
        if after is not None and after.instant is None:
            where.append("d.knit_id > %(after)s::uuid")
        return where + self._window("r.updated_at")

    def _window(self, instant: str) -> list[str]:
        bounds = []
        if self.query.since is not None:
            bounds.append(f"{instant} >= %(since)s")
        if self.query.until is not None:
            bounds.append(f"{instant} < %(until)s")
        return bounds

    def _statement(
        self, source: str, more: Sequence[str], after: Cursor | None, limit: int | None
    ) -> tuple[str, dict[str, Any]]:
        where = " AND ".join([*self.conditions, *more])
        if " r." in f" {where}" or "own." in where:
            source += "\n" + _SQL["run_of_data"]
        return named_sql.filled(_SQL["data"], source=source, where=where), {
            **self.parameters,
            "since": self.query.since,
            "until": self.query.until,
            "after": None if after is None else after.id,
            "instant": None if after is None else after.instant,
            "limit": limit,
        }


def _system_value(tag: Tag) -> Any:
    return parse_timestamp(tag.value) if tag.key == KEY_TIMESTAMP else tag.value
