"""Removes old sets, and the pieces that no set needs any more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from knit_workflows.backup.blobs import FOLDER, Reader, digest_in
from knit_workflows.backup.destinations import Destination
from knit_workflows.backup.destinations.base import Lock
from knit_workflows.backup.problems import Damaged
from knit_workflows.backup.sets import BackupSet, load_set, set_ids, set_name


def prune(destination: Destination, lock: Lock, keep: int) -> Iterator[str]:
    """Removes all but the newest `keep` sets, and gives their ids.

    The newest set whose images are whole stays besides, if none of those has such: a set without
    images does not replace it, and one that lacks a rotten blob may leave it the last copy.

    A set goes before its pieces, so that there is never one without; pieces that a killed backup
    has left go, too. A second call goes on from there.

    Raises:
        BackupProblem: a set that stays cannot be read, so nobody knows what it needs.
    """
    ids = set_ids(destination)
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
