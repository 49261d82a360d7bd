"""Compares what is in volumes with what it was when it was first read, or with a backup's set.

Nothing is locked, and no transaction is open, while volumes are read. What was compared is recorded
as it goes; whoever is killed, the next call begins with what was not tried for longest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from knit_workflows.archive import ArchiveRefused
from knit_workflows.backup.blobs import Piece, Reader
from knit_workflows.backup.content.hashing import hash_files
from knit_workflows.backup.problems import Damaged
from knit_workflows.backup.sets import VolumeEntry
from knit_workflows.backup.volumes import Wanted
from knit_workflows.backup.watching import Watcher
from knit_workflows.store.inspection.hashes import KnownContent, SeenContent

_RECORD_SECONDS: Final = 15.0
_RECORD_VOLUMES: Final = 500
"""What was compared is recorded after so long, or so many."""
BY_VERIFY: Final = "verify"


class Contents(Protocol):
    """What a comparison asks of an installation. All methods raise BackupProblem."""

    def known_contents(
        self, knit_ids: Sequence[str] | None, older_than: float
    ) -> list[KnownContent]:
        """Gives all final Data (or these) that were not compared for so many seconds."""

    def hash_volumes(
        self, wanted: Sequence[Wanted], *, with_pieces: bool, seconds: float | None
    ) -> Iterator[dict[str, Any]]:
        """Reads volumes, as `content.hashing.hash_volumes` says."""

    def record_contents(self, seen: Sequence[SeenContent], *, by: str, replaces: bool) -> None:
        """Records what was read, as `store.inspection.hashes.record_contents` says."""

    def still_there(self, knit_ids: Sequence[str]) -> set[str]:
        """Gives those of these Data that are neither deleted nor purged."""


@dataclass(frozen=True)
class Choice:
    """Which Data are compared, and with what.

    `knit_ids`: these; None: all. `older_than`: seconds since they were compared last. `seconds`:
    none is begun after so many. `accepted_by`: who declares what is there to be right.
    """

    knit_ids: Sequence[str] | None = None
    older_than: float = 0.0
    seconds: float | None = None
    accepted_by: str | None = None


@dataclass(frozen=True)
class Change:
    """A Data whose content is not what it was, or cannot be read: `message` says which."""

    knit_id: str
    message: str
    cure: str


class InSet:
    """The contents of the volumes in a backup's set."""

    def __init__(self, set_id: str, entries: Mapping[str, VolumeEntry], reader: Reader) -> None:
        self.set_id = set_id
        self._entries = entries
        self._reader = reader

    def has(self, knit_id: str) -> bool:
        """Says whether a Data is in it."""
        return knit_id in self._entries

    def is_equal(self, knit_id: str, pieces: Sequence[Piece], sha256: str) -> bool:
        """Says whether a volume has the files that are in the set; raises Damaged.

        Only where archives differ, as on other storage, its pieces are read.
        """
        entry = self._entries[knit_id]
        if entry.pieces == tuple(pieces):
            return True
        try:
            return hash_files(self._reader.stream(entry.pieces)) == sha256
        except ArchiveRefused as cause:
            raise Damaged(f"the set {self.set_id} has no archive of Data {knit_id}") from cause


@dataclass
class ContentCheck:
    """One comparison; `counted` says how many there were of what."""

    source: Contents
    choice: Choice
    watcher: Watcher
    in_set: InSet | None = None
    counted: dict[str, int] = field(
        default_factory=lambda: {"contents compared": 0, "contents recorded": 0}
    )
    _due: dict[str, KnownContent] = field(default_factory=dict)
    _seen: list[SeenContent] = field(default_factory=list)
    _suspects: list[Change] = field(default_factory=list)

    def changes(self) -> Iterator[Change]:
        """Gives what has changed or cannot be read, as it is found; raises BackupProblem."""
        due = self.source.known_contents(self.choice.knit_ids, self.choice.older_than)
        self._due = {one.knit_id: one for one in due}
        yield from self._unknown()
        self.watcher.begins("hashes", len(due), 0)
        wanted = [Wanted(one.knit_id, one.volume, one.owned) for one in due]
        frames = self.source.hash_volumes(
            wanted, with_pieces=self.in_set is not None, seconds=self.choice.seconds
        )
        looked_at = 0
        last = time.monotonic()
        for frame in frames:
            looked_at += 1
            self._look(frame)
            late = time.monotonic() - last > _RECORD_SECONDS
            if late or len(self._seen) >= _RECORD_VOLUMES:
                yield from self._recorded()
                last = time.monotonic()
        yield from self._recorded()
        self.counted["contents left for later"] = len(due) - looked_at

    def _unknown(self) -> Iterator[Change]:
        for knit_id in self.choice.knit_ids or ():
            if knit_id not in self._due:
                message = "there is no such Data whose content is final and kept"
                cure = f"see what it is: knit data find --tag knit#id:{knit_id}"
                yield Change(knit_id, message, cure)

    def _look(self, frame: dict[str, Any]) -> None:
        """Compares a volume; what seems wrong is a suspect until it is known to be still there."""
        if "failed" in frame:
            one = self._due[frame["failed"]]
            self._seen.append(SeenContent(one.knit_id, None, None))
            if one.must_be_there or not frame["absent"]:
                message = f"its volume {one.volume} cannot be read: {frame['why']}"
                self._suspects.append(Change(one.knit_id, message, _unreadable_cure(one)))
            return
        one = self._due[frame["hashed"]]
        self.watcher.moved(frame["size"])
        seen = SeenContent(one.knit_id, frame["sha256"], frame["size"])
        if problem := self._difference(one, frame):
            self._suspects.append(Change(one.knit_id, problem, _changed_cure(one)))
            seen = SeenContent(one.knit_id, None, None)
        self._seen.append(seen)

    def _difference(self, one: KnownContent, frame: dict[str, Any]) -> str | None:
        sha256, size = frame["sha256"], frame["size"]
        if self.in_set is not None and self.in_set.has(one.knit_id):
            self.counted["contents compared with the set"] = (
                self.counted.get("contents compared with the set", 0) + 1
            )
            pieces = [Piece(*piece) for piece in frame["pieces"]]
            if not self.in_set.is_equal(one.knit_id, pieces, sha256):
                return f"its content is not that of the set {self.in_set.set_id}"
        if one.sha256 is None:
            self.counted["contents recorded"] += 1
        elif self.choice.accepted_by is None:
            self.counted["contents compared"] += 1
            if one.sha256 != sha256:
                return (
                    f"its content has changed since {one.recorded_at}: files of "
                    f"{one.sha256[:12]}… are now of {sha256[:12]}…, {size:,} bytes"
                )
        return None

    def _recorded(self) -> Iterator[Change]:
        """Gives what has changed of Data that nobody has deleted, and records what was read.

        In this order: whoever is cut in between is told again. What has changed is recorded as
        tried, else each turn would begin with it, and never get to others.
        """
        accepted_by = self.choice.accepted_by
        if self._suspects:
            there = self.source.still_there([one.knit_id for one in self._suspects])
            yield from (one for one in self._suspects if one.knit_id in there)
        if self._seen:
            self.source.record_contents(
                self._seen, by=accepted_by or BY_VERIFY, replaces=accepted_by is not None
            )
        self.watcher.finished(len(self._seen))
        self._seen, self._suspects = [], []


def _changed_cure(one: KnownContent) -> str:
    return (
        f"find who writes to the volume {one.volume}; bring it back from a backup that was "
        f"restored elsewhere, or {_again(one)}; if what is there now is right: "
        f"repeat the command with --data {one.knit_id} --accept"
    )


def _unreadable_cure(one: KnownContent) -> str:
    return (
        "see that its storage is up, then verify again; if it is lost: bring it back from a backup "
        f"that was restored elsewhere, or {_again(one)}, or keep the lineage alone: "
        f"knit data purge {one.knit_id}"
    )


def _again(one: KnownContent) -> str:
    return f"retry the Run {one.run_id}" if one.was_made else "push it again"
