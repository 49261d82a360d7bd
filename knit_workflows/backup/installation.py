"""What a backup asks of the installation that it is of, or a restore of the one it fills."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from knit_workflows.backup.frames import Frame
from knit_workflows.backup.volumes import Wanted


@dataclass(frozen=True)
class Found:
    """What an installation is before it is filled.

    `revision`: that of its tables, None without any. `used`: what it has already, by kind.
    `restored`: the set that was restored into it.
    """

    revision: str | None
    used: dict[str, int]
    restored: str | None


class Installation(Protocol):
    """A knit: its database and its volumes. All methods raise BackupProblem."""

    shown: str
    """Which it is, for people."""

    def database(self) -> Iterator[Frame]:
        """Gives the database at one instant, as `store.snapshot.reading` says."""

    def still_there(self, knit_ids: Sequence[str]) -> set[str]:
        """Gives those of these Data that are neither deleted nor purged."""

    def volumes(self, wanted: Sequence[Wanted]) -> Iterator[Frame]:
        """Gives volumes, as `backup.volumes.read_volumes` says."""

    def look(self) -> Found:
        """Says what it is, before it is filled."""

    def make_volumes(self, frames: Iterable[Frame]) -> Iterator[dict[str, Any]]:
        """Makes volumes, as `backup.volumes.write_volumes` says."""

    def load(self, frames: Iterable[Frame]) -> dict[str, int]:
        """Fills the database, as `store.snapshot.loading` says."""
