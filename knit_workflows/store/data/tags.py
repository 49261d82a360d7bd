"""Interned tags: each pair is stored once and known by a number.

Tags are never removed. They are interned before the transaction that needs them begins: one too
many does no harm, and no transaction holds a tag while it waits for something else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Final

from knit_workflows.domain.errors import InvalidTag
from knit_workflows.domain.tags import Tag
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Session

_SQL: Final = named_sql.beside(__file__)


def digest(tag: Tag) -> bytes:
    """Gives 32 bytes that stand for a tag; keys and values hold no NUL."""
    pair = f"{tag.key}\0{tag.value}"
    try:
        return hashlib.sha256(pair.encode()).digest()
    except UnicodeEncodeError as cause:
        raise InvalidTag(f"the tag with the key {tag.key[:40]!a} is not valid Unicode") from cause


async def find(db: Database, tags: Collection[Tag]) -> Mapping[Tag, int]:
    """Gives the numbers of those tags that were ever used."""
    if not tags:
        return {}
    by_digest = {digest(tag): tag for tag in tags}
    rows = await db.rows(_SQL["find"], {"digests": list(by_digest)})
    return {by_digest[row.digest]: row.tag_id for row in rows}


async def carriers(session: Session, knit_ids: Collection[str], tags: Collection[Tag]) -> set[str]:
    """Gives those of these Data that have one of the tags."""
    wanted = {"knit_ids": list(knit_ids), "digests": [digest(tag) for tag in tags]}
    return {row.knit_id for row in await session.rows(_SQL["carriers"], wanted)}


async def intern(db: Database, tags: Collection[Tag]) -> Mapping[Tag, int]:
    """Gives the numbers of all these tags, storing those that are new."""
    known = await find(db, tags)
    missing = sorted(set(tags) - known.keys())
    if not missing:
        return known
    await db.do(
        _SQL["intern"],
        {
            "digests": [digest(tag) for tag in missing],
            "keys": [tag.key for tag in missing],
            "values": [tag.value for tag in missing],
        },
    )
    return {**known, **await find(db, missing)}
