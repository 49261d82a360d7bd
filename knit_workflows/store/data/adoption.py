"""Adoption: volumes of others become Data, each at most once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import uuid4

from knit_workflows import names
from knit_workflows.domain.data import Adopted, Adoption, check_adoptions
from knit_workflows.domain.errors import VolumeRefused
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.plans.model import IMPORTED
from knit_workflows.domain.runs.run import USER
from knit_workflows.domain.tags import Tag
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Session
from knit_workflows.store.data import tags
from knit_workflows.store.locks import AdvisoryLock
from knit_workflows.store.runs.details import data_details

_SQL: Final = named_sql.beside(__file__)


class PostgresAdoptionStore:
    """Implements `ports.AdoptionStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def known(self, volumes: Sequence[str]) -> Mapping[str, KnitId]:
        """See the port."""
        rows = await self._db.rows(_SQL["known"], {"volumes": list(volumes)})
        return {row.volume: KnitId(row.knit_id) for row in rows}

    async def adopt(
        self,
        adoptions: Sequence[Adoption],
        *,
        among: frozenset[Tag] = frozenset(),
        actor: str = USER,
    ) -> Sequence[Adopted]:
        """See the port."""
        check_adoptions(adoptions)
        _refuse_own(adoptions)
        tag_ids = await tags.intern(self._db, {tag for one in adoptions for tag in one.tags})

        async def step(session: Session) -> tuple[set[str], dict[str, str]]:
            await session.do(_SQL["serialize"], {"lock": AdvisoryLock.ADOPTION})
            volumes = [one.volume for one in adoptions]
            rows = await session.rows(_SQL["known_locked"], {"volumes": volumes})
            known = {row.volume: row.knit_id for row in rows}
            if among:
                await _refuse_others(session, known, among)
            new = {one.volume: str(uuid4()) for one in adoptions if one.volume not in known}
            if new:
                await session.do(
                    _SQL["adopt"],
                    {
                        "run_ids": [str(uuid4()) for _ in new],
                        "knit_ids": list(new.values()),
                        "volumes": list(new),
                        "plan": IMPORTED,
                        "actor": actor,
                        **_pairs(adoptions, new, tag_ids),
                    },
                )
            if known:
                await session.do(_SQL["tag"], _pairs(adoptions, known, tag_ids))
            return set(new), {**known, **new}

        new, knit_ids = await self._db.transaction(step)
        found = await self._db.reading(
            lambda session: data_details(session, list(knit_ids.values()))
        )
        details = {one.knit_id: one for one in found}
        return [
            Adopted(one.volume, details[KnitId(knit_ids[one.volume])], one.volume in new)
            for one in adoptions
            if knit_ids[one.volume] in details  # not deleted meanwhile
        ]


def _refuse_own(adoptions: Sequence[Adoption]) -> None:
    for one in adoptions:
        if names.is_own_volume(one.volume):
            raise VolumeRefused(
                f"the volume {one.volume} is knit's own: a Run may still write it",
                advice="use the Data that it belongs to",
                see=one.volume,
            )


async def _refuse_others(session: Session, known: Mapping[str, str], among: frozenset[Tag]) -> None:
    """Refuses volumes whose Data, which are locked, belong to none of the caller's projects."""
    theirs = await tags.carriers(session, list(known.values()), among)
    for volume, knit_id in known.items():
        if knit_id not in theirs:
            raise VolumeRefused(
                f"{volume} is a Data already, and of none of your projects",
                advice="ask whoever runs this knit for the tag of your project on it",
                see=volume,
            )


def _pairs(
    adoptions: Sequence[Adoption], knit_ids: Mapping[str, str], tag_ids: Mapping[Tag, int]
) -> dict[str, object]:
    """Gives the tags of those volumes that are among `knit_ids`, as parallel arrays."""
    pairs = [
        (knit_ids[one.volume], tag_ids[tag])
        for one in adoptions
        if one.volume in knit_ids
        for tag in sorted(one.tags)
    ]
    return {
        "tagged": [knit_id for knit_id, _ in pairs],
        "tag_ids": [tag_id for _, tag_id in pairs],
        "outbox_channel": names.OUTBOX_CHANNEL,
    }
