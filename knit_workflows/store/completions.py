"""What the shell completes: a short range of an index, however much there is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from knit_workflows.domain.completions import Completion, Noun
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database

_SQL: Final = named_sql.beside(__file__)

_SHOWN: Final = sorted(status.value for status in RunStatus if status is not RunStatus.INVALIDATED)
_TAGS_LOOKED_AT: Final = 100_000
_ID_FORM: Final = "00000000-0000-0000-0000-000000000000"
_HEX: Final = re.compile(r"[0-9a-f-]*")


class PostgresCompletionStore:
    """Implements `ports.CompletionStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def find(self, noun: Noun, prefix: str, *, limit: int) -> Sequence[Completion]:
        """See the port."""
        if noun in (Noun.TAGS, Noun.KEYS):
            asked = {"prefix": prefix, "limit": limit, "looked_at": _TAGS_LOOKED_AT}
            return await self._completed(noun.value, asked)
        bounds = _bounds(prefix.lower())
        if bounds is None:
            return []
        first, last = bounds
        asked = {"first": first, "last": last, "limit": limit}
        if prefix or noun is Noun.PLANS:
            return await self._completed(noun.value, asked)
        if noun is Noun.RUNS:
            return await self._completed("recent_runs", {"statuses": _SHOWN, "limit": limit})
        return await self._completed("recent_data", {"limit": limit})

    async def _completed(self, statement: str, asked: dict[str, object]) -> Sequence[Completion]:
        rows = await self._db.rows(_SQL[statement], asked)
        return [Completion(row.value, row.words) for row in rows]


def _bounds(prefix: str) -> tuple[str, str] | None:
    """Gives the least and the greatest id that begins like this; None: no id does."""
    full = prefix + _ID_FORM[len(prefix) :]
    dashes = [place for place, char in enumerate(full) if char == "-"]
    if not _HEX.fullmatch(full) or len(full) != len(_ID_FORM) or dashes != [8, 13, 18, 23]:
        return None
    return full, prefix + _ID_FORM[len(prefix) :].replace("0", "f")
