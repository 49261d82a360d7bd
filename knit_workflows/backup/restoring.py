"""Fills an empty installation from a set: first its volumes, at last its database, in one step.

Every piece is checked as it is read. Until the database is there the installation knows of nothing
that was made, so whoever is killed has switched nothing on; the next one goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol

from knit_workflows.backup.blobs import Piece, Reader
from knit_workflows.backup.destinations import Destination
from knit_workflows.backup.frames import Frame
from knit_workflows.backup.images import Registry, check_images, write_images
from knit_workflows.backup.installation import Installation
from knit_workflows.backup.problems import BackupProblem, Damaged
from knit_workflows.backup.sets import BackupSet, VolumeEntry, load_set, set_ids
from knit_workflows.backup.volumes import Restored, announce
from knit_workflows.backup.watching import Watcher

_AHEAD: Final = 64
"""So many volumes are announced before their content comes."""
_AHEAD_PIECES: Final = 100_000
"""But not more than that have so many pieces: the message has to stay small."""


@dataclass(frozen=True)
class Restoration:
    """What a restore has done. `made`: volumes; `equal`: those that were there already.

    `already`: nothing, since this very set was restored before. `blobs`: those of images that were
    written.
    """

    set: BackupSet
    made: int
    equal: int
    seconds: float
    already: bool = False
    blobs: int = 0


def choose_set(source: Destination, set_id: str | None) -> BackupSet:
    """Gives the set of that id, or the newest; raises BackupProblem if there is none."""
    if set_id is None:
        ids = set_ids(source)
        if not ids:
            raise BackupProblem(
                f"there is no set in {source.shown}",
                reason="a backup that was cut has none until it is repeated",
                advice="name the destination of `knit admin backup`",
            )
        set_id = ids[-1]
    return load_set(source, set_id)


def check_set(source: Destination, chosen: BackupSet, watcher: Watcher) -> int:
    """Reads everything that a set needs, and gives the bytes of it; raises Damaged."""
    total = 0
    with Reader(source) as reader:
        for content in reader.stream(_of_tables(chosen)):
            total += len(content)
        watcher.begins("check", chosen.volumes, 0)
        for some in _batches(chosen.entries(reader)):
            for content in _contents(reader, some):
                total += len(content)
                watcher.moved(len(content))
            watcher.finished(len(some))
        total += check_images(reader, chosen.images(reader), watcher)
    return total


class Restorable(Protocol):
    """What an installation is to be filled with: which it is, and for which tables."""

    @property
    def id(self) -> str:
        """That of the set."""

    @property
    def revision(self) -> str:
        """That of the tables."""

    @property
    def other_revision(self) -> str:
        """What to do where the tables are of another revision."""


def find_obstacles(chosen: Restorable, target: Installation) -> str | None:
    """Raises BackupProblem if an installation cannot take a set; gives the set that it has had."""
    found = target.look()
    if found.restored == chosen.id:
        return found.restored
    used = [f"{count:,} {kind}" for kind, count in found.used.items() if count]
    if used:
        raise BackupProblem(
            f"{target.shown} is not empty",
            reason=f"it has {', '.join(used)}",
            advice="restore into a new installation: another namespace, another --state",
        )
    if found.revision != chosen.revision:
        has = "no tables of knit" if found.revision is None else f"revision {found.revision}"
        raise BackupProblem(
            f"{target.shown} has {has}, and {chosen.revision} is needed",
            advice=chosen.other_revision,
        )
    return None


def require_images(chosen: BackupSet) -> None:
    """Raises BackupProblem if a set was taken without images."""
    if not chosen.image_index:
        raise BackupProblem(
            f"the set {chosen.id} has no images",
            reason="it was taken without --images",
            advice="leave --images out, or name a set that has them (--list --json says which)",
        )


def restore(
    source: Destination,
    chosen: BackupSet,
    target: Installation,
    watcher: Watcher,
    *,
    by: str,
    registry: Registry | None = None,
) -> Restoration:
    """Fills an installation; `by` is who does it, for its audit log.

    Images go first, into `registry`: what is switched on may need them at once. Where this very set
    was restored before, they are written too, but tags that are there stay as they are.

    Raises:
        BackupProblem: it cannot be filled; nothing of the set is switched on.
        Damaged: the set is not whole; likewise.
    """
    began = time.monotonic()
    already = find_obstacles(chosen, target) is not None
    blobs = 0
    if registry is not None:
        require_images(chosen)
        with Reader(source) as reader:
            images = chosen.images(reader)
            blobs = write_images(registry, reader, images, watcher, replaces=not already)
    if already:
        return Restoration(chosen, 0, 0, time.monotonic() - began, already=True, blobs=blobs)
    with Reader(source) as reader:
        for _ in reader.stream(_of_tables(chosen)):  # before anything is made
            pass
        frames = _volumes(reader, chosen.entries(reader), watcher)
        made, equal = make_volumes(target, frames, chosen.volumes, watcher)
        if made + equal != chosen.volumes:
            raise Damaged(f"the index of the set {chosen.id} has {made + equal:,} volumes, "
                          f"not {chosen.volumes:,}")  # fmt: skip
        target.load(_database(reader, chosen, by))
    return Restoration(chosen, made, equal, time.monotonic() - began, blobs=blobs)


def _of_tables(chosen: BackupSet) -> Iterator[Piece]:
    return (piece for table in chosen.tables for piece in table.pieces)


def make_volumes(
    target: Installation, frames: Iterable[Frame], count: int, watcher: Watcher
) -> tuple[int, int]:
    """Makes volumes of frames, and gives how many were made, and how many were there already.

    Raises BackupProblem if one could not be made, after all others were.
    """
    watcher.begins("restore", count, 0)
    made = equal = 0
    failed: dict[str, str] = {}
    for told in target.make_volumes(frames):
        watcher.finished(1)
        made += "made" in told
        equal += "equal" in told
        if "failed" in told:
            failed[told["failed"]] = told["why"]
    if failed:
        which, why = next(iter(failed.items()))
        raise BackupProblem(
            f"{len(failed):,} of {count:,} volumes could not be made",
            reason=f"Data {which}: {why}",
            advice="mend that, then repeat the command: it goes on from here",
        )
    return made, equal


def _volumes(reader: Reader, entries: Iterable[VolumeEntry], watcher: Watcher) -> Iterator[Frame]:
    for some in _batches(entries):
        yield announce([Restored(one.knit_id, one.pieces, one.capacity) for one in some])
        contents = _contents(reader, some)
        for entry in some:
            yield {"volume": entry.knit_id}
            for content in islice(contents, len(entry.pieces)):
                watcher.moved(len(content))
                yield content
            yield {"end": True}


def _contents(reader: Reader, some: Sequence[VolumeEntry]) -> Iterator[bytes]:
    """Gives the contents of all pieces of these volumes, read ahead also where one ends."""
    return reader.stream(piece for entry in some for piece in entry.pieces)


def _batches(entries: Iterable[VolumeEntry]) -> Iterator[Sequence[VolumeEntry]]:
    some: list[VolumeEntry] = []
    pieces = 0
    for entry in entries:
        pieces += len(entry.pieces)
        if some and (len(some) == _AHEAD or pieces > _AHEAD_PIECES):
            yield some
            some, pieces = [], len(entry.pieces)
        some.append(entry)
    if some:
        yield some


def _database(reader: Reader, chosen: BackupSet, by: str) -> Iterator[Frame]:
    about: dict[str, Any] = {"set": chosen.id, "at": chosen.at, "revision": chosen.revision}
    yield about | {"by": by, "gone": [*chosen.gone, *chosen.unreadable]}
    for table in chosen.tables:
        yield {"table": table.table, "columns": table.columns}
        yield from reader.stream(table.pieces)
        yield {"rows": table.rows}
    yield {"sequences": chosen.sequences}
