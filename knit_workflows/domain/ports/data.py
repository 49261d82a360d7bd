"""Data: looked up, tagged, purged, adopted and imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from knit_workflows.domain.data import Adopted, Adoption, DataDetail, DataQuery, Purge, TagChange
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.imports import Import, ImportTimes, SigningKey
from knit_workflows.domain.runs.run import USER
from knit_workflows.domain.tags import Tag


class DataStore(Protocol):
    """Looks Data up and changes their tags."""

    async def find(
        self, query: DataQuery, *, limit: int | None = None, after: str | None = None
    ) -> Sequence[DataDetail]:
        """Lists Data by timestamp (those without one last), then id.

        At most `limit`, after the cursor (or id) `after`.

        Raises:
            InvalidRequest: `after` is not a cursor, or there is no Data of that id.
        """

    async def find_ids(
        self,
        query: DataQuery,
        *,
        after: str | None = None,
        among: frozenset[Tag] = frozenset(),
    ) -> Sequence[str]:
        """Gives the ids of what `find` would list at this instant, in its order; raises as it does.

        However many there are, they take little. `among`: only Data with one of these tags.
        """

    async def get_each(self, knit_ids: Sequence[str]) -> Sequence[DataDetail]:
        """Looks these Data up as they are now, in this order; those that are gone are left out."""

    async def get(self, knit_id: KnitId) -> DataDetail:
        """Looks one Data up; raises DataNotFound."""

    async def change_tags(
        self, knit_id: KnitId, change: TagChange, *, keeping: frozenset[Tag] = frozenset()
    ) -> DataDetail:
        """Removes tags, then adds tags; if the Data is done, Runs that this makes possible follow.

        Idempotent. `keeping`: one of these has to be left, whoever else changes tags just now.

        Raises:
            DataNotFound: there is no such Data.
            InvalidTag: none of `keeping` would be left, the caller's projects; nothing is changed.
        """

    async def purge(self, knit_id: KnitId, *, actor: str = USER, dry_run: bool = False) -> Purge:
        """Discards the content of a Data; its tags, its history and lineage stay.

        It is never used for new Runs again. A second call changes nothing. `dry_run` changes
        nothing either, and raises the same.

        Raises:
            DataNotFound: there is no such Data.
            IllegalMove: it is being made, or read by a Run that has not ended or by a transfer.
        """


class AdoptionStore(Protocol):
    """Makes Data of volumes that knit did not create and will never change or delete."""

    async def known(self, volumes: Sequence[str]) -> Mapping[str, KnitId]:
        """Gives those of these volumes that are Data already; a purged Data counts no more."""

    async def adopt(
        self,
        adoptions: Sequence[Adoption],
        *,
        among: frozenset[Tag] = frozenset(),
        actor: str = USER,
    ) -> Sequence[Adopted]:
        """Makes each volume a Data, with its tags, in one transaction; gives them in this order.

        The Run of each is of `knit#imported`, and done from the beginning; Runs that this makes
        possible follow. A volume that is a Data already stays that Data, and gets the tags that it
        lacks: a second call changes nothing.

        Raises:
            InvalidRequest: see `check_adoptions`.
            VolumeRefused: one of them is knit's own, or a Data already that has no tag of `among`,
                if that has any.
        """


class ImportStore(Protocol):
    """Records imports, and keeps the keys that sign their tokens.

    A key is never told to anybody but the processes that sign and verify.
    """

    async def begin(self, *, actor: str = USER) -> Import:
        """Makes the Run of an import (running), and its Data; a second call makes others."""

    async def require_open(self, begun: Import, *, window: timedelta) -> None:
        """Returns if an import can be ended now; raises ImportOver."""

    async def end(self, begun: Import, *, window: timedelta, actor: str = USER) -> None:
        """Makes the Run of an import completing: its volume is there.

        Raises:
            ImportOver: it has been ended before, began longer ago than `window`, or is gone.
        """

    async def finish(self, begun: Import) -> None:
        """Makes the Run of an ended import done, with lineage; a second call changes nothing.

        While hooks are in force a workflow does, once they agree.

        Raises:
            IllegalMove: it has not been ended.
            RunNotFound: it has been deleted.
        """

    async def signing_key(self, times: ImportTimes) -> SigningKey:
        """Gives the key that signs now, making one if there is none that is young enough.

        Processes that ask at once get the same.
        """

    async def find_key(self, kid: str) -> SigningKey | None:
        """Gives a key by its name, however old; None if it is not known (any more)."""
