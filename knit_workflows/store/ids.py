"""Ids as the database takes them."""

from __future__ import annotations

from collections.abc import Iterable

from knit_workflows.domain.ids import is_id


def only_ids(texts: Iterable[str]) -> list[str]:
    """Selects the texts that have the form of an id, sorted."""
    return sorted(text for text in texts if is_id(text))


def id_array(ids: Iterable[str]) -> str:
    """Formats ids from the database as a parameter for `%(…)s::uuid[]`.

    A list would be slower: psycopg inspects each element for its type, 30 ms for ten thousand.
    """
    return "{" + ",".join(ids) + "}"
