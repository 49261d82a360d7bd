"""Ids as the database takes them, and many of them as it gives them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, overload
from uuid import UUID

from knit_workflows.domain.ids import is_id
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Params, Session

_SQL: Final = named_sql.beside(__file__)
_BYTES: Final = 16
"""How many bytes an id has."""


def only_ids(texts: Iterable[str]) -> list[str]:
    """Selects the texts that have the form of an id, sorted."""
    return sorted(text for text in texts if is_id(text))


def id_array(ids: Iterable[str]) -> str:
    """Formats ids from the database as a parameter for `%(…)s::uuid[]`.

    A list would be slower: psycopg inspects each element for its type, 30 ms for ten thousand.
    """
    return "{" + ",".join(ids) + "}"


class PackedIds(Sequence[str]):
    """Very many ids, 16 bytes each: as texts in a list they would take six times as much."""

    def __init__(self, packed: bytes = b"") -> None:
        self._packed = packed

    def __len__(self) -> int:
        """Gives how many there are."""
        return len(self._packed) // _BYTES

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        """Gives one, or those of a slice, as texts."""
        places = range(len(self))[place]
        return self._at(places) if isinstance(places, int) else [self._at(one) for one in places]

    def __add__(self, other: PackedIds) -> PackedIds:
        """Gives these, then those."""
        return PackedIds(self._packed + other._packed)

    def _at(self, place: int) -> str:
        return str(UUID(bytes=self._packed[place * _BYTES : (place + 1) * _BYTES]))


async def packed_ids(session: Session, statement: str, params: Params) -> PackedIds:
    """Gives all ids that a statement gives in its only column, in its order."""
    row = await session.row(named_sql.filled(_SQL["packed"], ids=statement), params)
    return PackedIds(row.ids)
