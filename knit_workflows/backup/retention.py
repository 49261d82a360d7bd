"""Removes old sets, and the pieces that no set needs any more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from knit_workflows.backup.blobs import FOLDER, Reader, digest_in
from knit_workflows.backup.destinations import Destination
from knit_workflows.backup.destinations.base import Lock
from knit_workflows.backup.problems import BackupProblem, Damaged
from knit_workflows.backup.sets import BackupSet, load_set, set_ids, set_name


def prune(destination: Destination, lock: Lock, keep: int, written: str) -> Iterator[str]:
    """Removes all but the newest `keep` sets, and gives their ids.

    The newest set whose images are whole stays besides, if none of those has such: a set without
    images does not replace it, and one that lacks a rotten blob may leave it the last copy.

    A set goes before its pieces, so that there is never one without; pieces that a killed backup
    has left go, too. A second call goes on from there. `written`: a set that is there for sure.

    Raises:
        BackupProblem: a set that stays cannot be read, or is not listed, so nobody knows what it
            needs.
    """
    ids = set_ids(destination)
    if written not in ids:
        raise BackupProblem(
            f"the sets in {destination.shown} cannot be listed",
            reason=f"{written} was just written, and is not among them",
            advice="see that it is sound, and that nobody else changes it",
        )
    staying = _staying(destination, ids, keep)
    old = [one for one in ids if one not in staying]
    needed: set[str] = set()
    with Reader(destination) as reader:
        for kept in staying.values():
            needed |= {piece.sha256 for piece in kept.index}
            needed |= {piece.sha256 for table in kept.tables for piece in table.pieces}
            needed |= {piece.sha256 for piece in kept.image_index}
            needed |= {piece.sha256 for entry in kept.entries(reader) for piece in entry.pieces}
            needed |= {piece.sha256 for stored in kept.images(reader) for piece in stored.pieces}
    for one in old:
        lock.require()
        destination.remove(set_name(one))
        yield one
    destination.settle()
    for name in list(destination.names(FOLDER)):
        if digest_in(name) not in needed:
            lock.require()
            destination.remove(name)


def _staying(destination: Destination, ids: Sequence[str], keep: int) -> dict[str, BackupSet]:
    staying = {one: load_set(destination, one) for one in ids[-keep:]}
    if not any(one.has_all_images for one in staying.values()):
        for one in reversed(ids[:-keep]):
            with suppress(Damaged):  # it had to go anyway
                older = load_set(destination, one)
                if older.has_all_images:
                    staying[one] = older
                    break
    return staying
