"""Takes a backup: the database at one instant, then the volumes that were final by then.

Data never change once they are final, so their volumes can be read afterwards, while Runs go on.
What is read is recorded as it goes; whoever is killed, the next one goes on from there.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from knit_workflows import names
from knit_workflows.backup.blobs import (
    FOLDER,
    Piece,
    Reader,
    Writer,
    digest_in,
    pieces_of,
)
from knit_workflows.backup.destinations import Destination
from knit_workflows.backup.destinations.base import Lock
from knit_workflows.backup.frames import Frame, content_until
from knit_workflows.backup.images import Registry, Stored, TakenImages, take_images
from knit_workflows.backup.installation import Installation
from knit_workflows.backup.problems import BackupProblem, Damaged
from knit_workflows.backup.retention import prune
from knit_workflows.backup.sets import (
    BackupSet,
    TableEntry,
    VolumeEntry,
    load_set,
    next_id,
    read_partial,
    set_ids,
    set_name,
    write_partial,
)
from knit_workflows.backup.volumes import Wanted
from knit_workflows.backup.watching import Watcher
from knit_workflows.domain.instants import format_instant

_RECORD_SECONDS: Final = 15.0
_RECORD_VOLUMES: Final = 500
"""A record of what is finished is written after so long, or so many."""
_NO_IMAGES: Final = TakenImages()


@dataclass(frozen=True)
class Taken:
    """What a backup has made.

    `read`: the volumes that were read, the others were known; `blobs_read` likewise of images.
    `stored_bytes`: what was written, compressed. `pruned`: the sets that were removed; `unpruned`:
    why no more of them could be. `damaged`: earlier sets that are not whole, and why; nothing was
    taken over from them.
    """

    set: BackupSet
    read: int
    read_bytes: int
    stored_bytes: int
    seconds: float
    blobs_read: int = 0
    pruned: tuple[str, ...] = ()
    damaged: dict[str, str] = field(default_factory=dict)
    unpruned: str = ""


def take_backup(
    source: Installation,
    destination: Destination,
    watcher: Watcher,
    *,
    keep: int | None = None,
    registry: Registry | None = None,
) -> Taken:
    """Takes a set; afterwards removes all but the newest `keep` sets, and what only those had.

    With a `registry`, its images are part of the set. If the new set is without Data or images that
    could not be read, none is removed: an older one may have the last copy of them. A set that is
    there is a success, whatever comes of the old ones: who would repeat the call would only take
    one more.

    Raises:
        BackupProblem: there is no new set; a second call goes on from there.
    """
    began = time.monotonic()
    pruned: list[str] = []
    unpruned = ""
    with destination.locked() as lock:
        known = _Known.load(destination, with_images=registry is not None)
        with Writer(destination, known.present) as writer:
            taking = _Taking(source, destination, watcher, lock, writer, known, registry)
            taken = taking.run()
        try:
            lock.require()
            for record in known.records:
                destination.remove(record)
            if keep is not None and not taken.unreadable and not taken.image_unreadable:
                # Also what goes before it fails.
                pruned.extend(prune(destination, lock, keep, taken.id))
        except BackupProblem as problem:
            unpruned = problem.words
    return Taken(
        taken,
        taking.read,
        taking.read_bytes,
        writer.stored_bytes,
        time.monotonic() - began,
        taking.images.read,
        tuple(pruned),
        known.damaged,
        unpruned,
    )


@dataclass
class _Known:
    """What a destination has: its newest set, and the digests of all pieces.

    `entries`: the volumes of the newest set that is whole, and those of records. `damaged`: newer
    ones that are not, and why. `blobs`: those of the newest set that has images.
    """

    newest: str | None
    present: set[str]
    entries: dict[str, VolumeEntry]
    records: list[str]
    damaged: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, Stored] = field(default_factory=dict)

    @classmethod
    def load(cls, destination: Destination, *, with_images: bool) -> _Known:
        present = {digest_in(name) for name in destination.names(FOLDER)}
        records = read_partial(destination)
        ids = set_ids(destination)
        known = cls(ids[-1] if ids else None, present, {}, list(records))
        with Reader(destination) as reader:
            for set_id in reversed(ids):
                if known.take(destination, reader, set_id):
                    break
            if with_images:
                known.take_blobs(destination, reader, reversed(ids))
        for finished in records.values():
            known.entries |= {one.knit_id: one for one in finished}
        return known

    def take(self, destination: Destination, reader: Reader, set_id: str) -> bool:
        """Takes over the volumes of a set; False: it is damaged.

        Pieces of its index that are damaged are written again if they are needed.
        """
        try:
            found = load_set(destination, set_id)
        except Damaged as damaged:
            self.damaged[set_id] = damaged.summary
            return False
        try:
            self.entries |= {one.knit_id: one for one in found.entries(reader)}
        except Damaged as damaged:
            self.damaged[set_id] = damaged.summary
            for piece in found.index:
                try:
                    reader.read(piece)
                except Damaged:
                    self.present.discard(piece.sha256)
            return False
        return True

    def take_blobs(self, destination: Destination, reader: Reader, ids: Iterable[str]) -> None:
        """Takes over the blobs of the newest set that has images that can be read."""
        for set_id in ids:
            with suppress(BackupProblem):
                stored = load_set(destination, set_id).images(reader)
                self.blobs = {one.digest: one for one in stored if self._has(one.pieces)}
                if self.blobs:
                    return

    def _has(self, pieces: Iterable[Piece]) -> bool:
        return all(one.sha256 in self.present for one in pieces)

    def entry(self, wanted: Wanted) -> VolumeEntry | None:
        """Gives the entry of a volume that need not be read again.

        Content is final in its volume only: a Run that a restore had go again makes the same Data
        with another one.
        """
        found = self.entries.get(wanted.knit_id)
        if found is None or found.adopted or not wanted.owned:
            return None
        if (found.volume or names.volume(wanted.knit_id)) != wanted.volume:
            return None
        return found if self._has(found.pieces) else None


@dataclass
class _Database:
    """The database in pieces, and what it says."""

    at: str
    revision: str
    under_way: int
    tables: list[TableEntry] = field(default_factory=list)
    sequences: dict[str, int] = field(default_factory=dict)
    wanted: list[Wanted] = field(default_factory=list)


@dataclass
class _Taking:
    source: Installation
    destination: Destination
    watcher: Watcher
    lock: Lock
    writer: Writer
    known: _Known
    registry: Registry | None
    images: TakenImages = _NO_IMAGES
    read: int = 0
    read_bytes: int = 0
    gone: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)

    def run(self) -> BackupSet:
        database = self._read_database()
        entries: list[VolumeEntry] = []
        missing: list[Wanted] = []
        for one in database.wanted:
            if (entry := self.known.entry(one)) is not None:
                entries.append(entry)
            else:
                missing.append(one)
        if self.registry is not None:  # before the volumes, the last of which have no record
            self.images = take_images(self.registry, self.writer, self.known.blobs, self.watcher)
        self.watcher.begins("backup", len(database.wanted), len(entries))
        for batch in self._read_volumes(missing):
            entries += batch
        return self._seal(database, entries)

    # --- the database ---------------------------------------------------------------------------

    def _read_database(self) -> _Database:
        frames = self.source.database()
        about = next(frames)
        assert isinstance(about, dict)
        database = _Database(about["at"], about["revision"], about["under_way"])
        for frame in frames:
            assert isinstance(frame, dict)
            if "table" in frame:
                database.tables.append(self._table(frame, frames))
            elif "sequences" in frame:
                database.sequences = frame["sequences"]
            elif "volumes" in frame:
                lines = b"".join(content_until(frames, "end")).splitlines()
                database.wanted = [Wanted(**json.loads(line)) for line in lines]
        return database

    def _table(self, head: dict[str, Any], frames: Iterator[Frame]) -> TableEntry:
        rows = 0

        def content() -> Iterator[bytes]:
            nonlocal rows
            for frame in frames:
                if isinstance(frame, bytes):
                    yield frame
                else:
                    rows = frame["rows"]
                    return

        pieces = self._stored(content())
        return TableEntry(head["table"], tuple(head["columns"]), rows, pieces)

    def _stored(self, content: Iterator[bytes]) -> tuple[Piece, ...]:
        futures = [self.writer.put(piece) for piece in pieces_of(content)]
        return tuple(one.result() for one in futures)

    # --- volumes --------------------------------------------------------------------------------

    def _read_volumes(self, missing: Sequence[Wanted]) -> Iterator[list[VolumeEntry]]:
        """Reads volumes, and gives those that are complete: all but the last are recorded."""
        if not missing:
            return
        by_id = {one.knit_id: one for one in missing}
        frames = self.source.volumes(missing)
        pending: deque[_Reading] = deque()
        finished: list[VolumeEntry] = []
        last = time.monotonic()
        for frame in frames:
            assert isinstance(frame, dict)
            reading = self._read_one(by_id[frame["volume"]], frames)
            if reading is not None:
                pending.append(reading)
            while pending and pending[0].is_stored:
                finished.append(pending.popleft().entry())
            late = time.monotonic() - last > _RECORD_SECONDS
            if finished and (late or len(finished) >= _RECORD_VOLUMES):
                yield self._recorded(finished)
                finished, last = [], time.monotonic()
        finished += [one.entry() for one in pending]
        if finished:  # the set follows at once, so these need no record
            yield self._there(finished)

    def _read_one(self, wanted: Wanted, frames: Iterator[Frame]) -> _Reading | None:
        """Reads a volume and stores its pieces; None if it cannot be read."""
        last: dict[str, Any] = {}

        def content() -> Iterator[bytes]:
            for frame in frames:
                if isinstance(frame, dict):
                    last.update(frame)
                    return
                self.watcher.moved(len(frame))
                self.read_bytes += len(frame)
                yield frame

        futures = [self.writer.put(piece) for piece in pieces_of(content())]
        if "read" in last:
            return _Reading(wanted, futures, last["capacity"])
        for one in futures:
            one.result()
        if last.get("failed") != wanted.knit_id:
            raise BackupProblem("what came from the installation is out of order")
        # What a failed Run never had is not missing.
        if wanted.must_be_there or not last["absent"]:
            self.unreadable[wanted.knit_id] = last["why"]
        return None

    def _recorded(self, finished: Sequence[VolumeEntry]) -> list[VolumeEntry]:
        """Records what is finished, for the next one if this is killed."""
        kept = self._there(finished)
        if kept:
            self.destination.settle()  # a record is never there before what it is about
            self.known.records.append(write_partial(self.destination, kept))
        return kept

    def _there(self, finished: Sequence[VolumeEntry]) -> list[VolumeEntry]:
        """Gives what is finished, without Data that were deleted while they were read."""
        self.lock.require()
        there = self.source.still_there([one.knit_id for one in finished])
        kept = [one for one in finished if one.knit_id in there]
        self.gone += [one.knit_id for one in finished if one.knit_id not in there]
        self.read += len(kept)
        self.watcher.finished(len(finished))
        return kept

    # --- the end --------------------------------------------------------------------------------

    def _seal(self, database: _Database, entries: Sequence[VolumeEntry]) -> BackupSet:
        """Writes the manifest, once all that it names is there to stay."""
        if self.unreadable:
            there = self.source.still_there(list(self.unreadable))
            self.gone += [one for one in self.unreadable if one not in there]
            self.unreadable = {k: why for k, why in self.unreadable.items() if k in there}
        index = self._stored(one.line() for one in entries)
        moment = datetime.now(UTC)
        taken = BackupSet(
            id=next_id(self.known.newest, moment),
            at=database.at,
            ended=format_instant(moment),
            revision=database.revision,
            knit=names.VERSION,
            tables=tuple(database.tables),
            sequences=database.sequences,
            index=index,
            volumes=len(entries),
            volume_bytes=sum(one.size for one in entries),
            under_way=database.under_way,
            gone=tuple(self.gone),
            unreadable=self.unreadable,
            image_index=self._stored(one.line() for one in self.images.all),
            image_blobs=self.images.blobs,
            image_bytes=sum(one.size for one in self.images.all),
            image_unreadable=self.images.unreadable,
        )
        self.destination.settle()
        self.lock.require()
        self.destination.write(set_name(taken.id), taken.document())
        self.destination.settle()
        return taken


@dataclass(frozen=True)
class _Reading:
    """A volume that was read, and whose pieces are being stored."""

    wanted: Wanted
    futures: list[Future[Piece]]
    capacity: int | None

    @property
    def is_stored(self) -> bool:
        return all(one.done() for one in self.futures)

    def entry(self) -> VolumeEntry:
        pieces = tuple(one.result() for one in self.futures)
        one = self.wanted
        return VolumeEntry(one.knit_id, pieces, self.capacity, not one.owned, one.volume)
