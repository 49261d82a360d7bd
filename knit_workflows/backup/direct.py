"""An installation whose database and volumes this process reaches by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from knit_workflows.backup.content.hashing import hash_volumes
from knit_workflows.backup.frames import Frame
from knit_workflows.backup.installation import Found
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.volumes import Volumes, Wanted, read_volumes, write_volumes
from knit_workflows.domain.errors import KnitError
from knit_workflows.store.inspection.hashes import (
    KnownContent,
    SeenContent,
    known_contents,
    record_contents,
)
from knit_workflows.store.snapshot.loading import NotEmpty, load_database, look
from knit_workflows.store.snapshot.reading import read_database, still_there


class DirectInstallation:
    """A knit by the URL of its database, and its volumes.

    Implements `Installation`, and `content.checking.Contents`.

    Without `volumes` only what is about the database can be asked.
    """

    def __init__(self, url: str, volumes: Volumes | None = None, *, shown: str) -> None:
        self.shown = shown
        self._url = url
        self._volumes = volumes

    def database(self) -> Iterator[Frame]:
        """See `Installation`."""
        with _problems():
            yield from read_database(self._url)

    def still_there(self, knit_ids: Sequence[str]) -> set[str]:
        """See `Installation`."""
        with _problems():
            return still_there(self._url, knit_ids)

    def volumes(self, wanted: Sequence[Wanted]) -> Iterator[Frame]:
        """See `Installation`."""
        assert self._volumes is not None
        with _problems():
            yield from read_volumes(self._volumes, wanted)

    def look(self) -> Found:
        """See `Installation`."""
        with _problems():
            found = look(self._url)
        return Found(found.revision, found.found, found.restored)

    def make_volumes(self, frames: Iterable[Frame]) -> Iterator[dict[str, Any]]:
        """See `Installation`."""
        assert self._volumes is not None
        with _problems():
            yield from write_volumes(self._volumes, frames)

    def load(self, frames: Iterable[Frame]) -> dict[str, int]:
        """See `Installation`."""
        with _problems():
            try:
                return load_database(self._url, iter(frames))
            except NotEmpty as refused:
                raise BackupProblem(
                    "the database is in use, or of another revision",
                    reason=f"it has {refused.found.found}, in revision {refused.found.revision}",
                    advice="restore into a new installation",
                ) from refused

    def known_contents(
        self, knit_ids: Sequence[str] | None, older_than: float
    ) -> list[KnownContent]:
        """See `Contents`."""
        with _problems():
            age = timedelta(seconds=older_than)
            return known_contents(self._url, knit_ids=knit_ids, older_than=age)

    def hash_volumes(
        self, wanted: Sequence[Wanted], *, with_pieces: bool, seconds: float | None
    ) -> Iterator[dict[str, Any]]:
        """See `Contents`."""
        assert self._volumes is not None
        yield from hash_volumes(self._volumes, wanted, with_pieces=with_pieces, seconds=seconds)

    def record_contents(self, seen: Sequence[SeenContent], *, by: str, replaces: bool) -> None:
        """See `Contents`."""
        with _problems():
            record_contents(self._url, seen, by=by, replaces=replaces)


@contextmanager
def _problems() -> Iterator[None]:
    try:
        yield
    except KnitError as error:
        raise BackupProblem(error.reason, advice=error.advice) from error
