"""Sets: their manifests, and what a backup that has not ended has finished."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

from knit_workflows.backup.blobs import Piece, Reader
from knit_workflows.backup.destinations import Destination
from knit_workflows.backup.images import Stored
from knit_workflows.backup.problems import BackupProblem, Damaged

FORMAT: Final = "knit-backup"
VERSION: Final = 1
_FOLDER: Final = "sets/"
_PARTIAL: Final = "partial/"
_NAME: Final = re.compile(r"sets/([0-9]{8}T[0-9]{12}Z-[0-9a-f]{8})\.json")
_MOMENT: Final = "%Y%m%dT%H%M%S%fZ"


@dataclass(frozen=True)
class VolumeEntry:
    """The volume of a Data in a set: an archive in pieces.

    `capacity`: bytes that were set aside for it, where that is known. `adopted`: it was another's,
    which may change it, so it is read anew each time. `volume`: the name of what was read; None in
    earlier sets, which may have had it under the name of the Data only.
    """

    knit_id: str
    pieces: tuple[Piece, ...]
    capacity: int | None = None
    adopted: bool = False
    volume: str | None = None

    @property
    def size(self) -> int:
        """Bytes of the archive."""
        return sum(piece.size for piece in self.pieces)

    def line(self) -> bytes:
        """Gives it as a line of JSON."""
        value = {
            "knit_id": self.knit_id,
            "pieces": self.pieces,
            "capacity": self.capacity,
            "adopted": self.adopted,
            "volume": self.volume,
        }
        return json.dumps(value, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Self:
        """Reads such a line."""
        value = json.loads(line)
        pieces = _pieces(value["pieces"])
        volume = value.get("volume")
        return cls(value["knit_id"], pieces, value["capacity"], value["adopted"], volume)


@dataclass(frozen=True)
class TableEntry:
    """The rows of a table in a set, as PostgreSQL's COPY writes them."""

    table: str
    columns: tuple[str, ...]
    rows: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class BackupSet:
    """A set.

    `at`: the instant of the database. `revision`: that of its tables. `index`: the pieces of the
    lines of all volumes. `gone`: Data that were there at `at` and deleted before they were read.
    `unreadable`: Data that could not be read, and why. `under_way`: Runs that had not ended.
    `image_index`: the pieces of the lines of all images; none where only Data were asked for.
    `image_bytes`: of all blobs and links. `image_unreadable`: blobs that were rotten, and how.
    """

    id: str
    at: str
    ended: str
    revision: str
    knit: str
    tables: tuple[TableEntry, ...]
    sequences: dict[str, int]
    index: tuple[Piece, ...]
    volumes: int
    volume_bytes: int
    under_way: int
    gone: tuple[str, ...] = ()
    unreadable: dict[str, str] = field(default_factory=dict)
    image_index: tuple[Piece, ...] = ()
    image_blobs: int = 0
    image_bytes: int = 0
    image_unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def has_all_images(self) -> bool:
        """Whether images were asked for, and none was rotten."""
        return bool(self.image_index) and not self.image_unreadable

    @property
    def other_revision(self) -> str:
        """What to do where the tables are of another revision."""
        return f"install knit {self.knit}, restore, and upgrade it then"

    def document(self) -> bytes:
        """Gives its manifest, whose last line is the digest of all before it."""
        value: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        value |= {name: getattr(self, name) for name in self.__dataclass_fields__}
        value["tables"] = [
            {"table": one.table, "columns": one.columns, "rows": one.rows, "pieces": one.pieces}
            for one in self.tables
        ]
        body = json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"
        return body + _seal(body)

    @classmethod
    def read(cls, name: str, document: bytes) -> Self:
        """Reads a manifest; raises Damaged, or BackupProblem if a newer knit has written it."""
        body, end, seal = document[:-1].rpartition(b"\n")
        body += end
        if document[-1:] != b"\n" or seal + b"\n" != _seal(body):
            raise Damaged(
                f"the manifest {name} is damaged",
                reason="its content has another digest",
                advice="restore another set (--set), or another copy of the destination",
            )
        value = json.loads(body)
        if value.pop("format") != FORMAT or value.pop("version") != VERSION:
            raise BackupProblem(
                f"the manifest {name} is of another version",
                advice="use the knit that has written it, or a newer one",
            )
        value["tables"] = tuple(
            TableEntry(one["table"], tuple(one["columns"]), one["rows"], _pieces(one["pieces"]))
            for one in value["tables"]
        )
        value["index"] = _pieces(value["index"])
        value["image_index"] = _pieces(value.get("image_index", ()))
        value["gone"] = tuple(value["gone"])
        return cls(**value)

    def entries(self, reader: Reader) -> Iterator[VolumeEntry]:
        """Gives its volumes; raises Damaged."""
        return map(VolumeEntry.read, self._lines(reader, self.index))

    def images(self, reader: Reader) -> list[Stored]:
        """Gives blobs and links of its images, none if it has no images; raises Damaged."""
        return list(map(Stored.read, self._lines(reader, self.image_index)))

    def _lines(self, reader: Reader, index: Iterable[Piece]) -> Iterator[bytes]:
        rest = b""
        for content in reader.stream(index):
            *lines, rest = (rest + content).split(b"\n")
            yield from lines
        if rest:
            raise Damaged(f"the index of the set {self.id} has no end")


def set_name(set_id: str) -> str:
    """Gives the object of a set's manifest."""
    return f"{_FOLDER}{set_id}.json"


def set_ids(destination: Destination) -> list[str]:
    """Gives the ids of all sets, the oldest first."""
    found = (_NAME.fullmatch(name) for name in destination.names(_FOLDER))
    return sorted(one[1] for one in found if one is not None)


def next_id(newest: str | None, now: datetime) -> str:
    """Gives the id of a new set, which comes after the newest even if the clock was set back."""
    if newest is not None:
        last = datetime.strptime(newest.partition("-")[0], _MOMENT).replace(tzinfo=UTC)
        now = max(now, last + timedelta(microseconds=1))
    return f"{now:{_MOMENT}}-{uuid.uuid4().hex[:8]}"


def load_set(destination: Destination, set_id: str) -> BackupSet:
    """Gives a set; raises BackupProblem if there is none of that id."""
    name = set_name(set_id)
    document = destination.read(name)
    if document is None:
        raise BackupProblem(
            f"there is no set {set_id} in {destination.shown}",
            advice="`knit admin restore SRC --list` shows which there are",
        )
    return BackupSet.read(name, document)


def write_partial(destination: Destination, entries: Sequence[VolumeEntry]) -> str:
    """Records what is finished, and gives the name of the record."""
    lines = b"".join(one.line() for one in entries)
    name = f"{_PARTIAL}{hashlib.sha256(lines).hexdigest()}.jsonl"
    destination.write(name, lines)
    return name


def read_partial(destination: Destination) -> dict[str, list[VolumeEntry]]:
    """Gives what backups that have not ended had finished, by record; broken ones have nothing."""
    found: dict[str, list[VolumeEntry]] = {}
    for name in list(destination.names(_PARTIAL)):
        lines = destination.read(name) or b""
        is_whole = name == f"{_PARTIAL}{hashlib.sha256(lines).hexdigest()}.jsonl"
        found[name] = [VolumeEntry.read(one) for one in lines.splitlines()] if is_whole else []
    return found


def _pieces(values: Iterable[Sequence[Any]]) -> tuple[Piece, ...]:
    return tuple(Piece(sha256, size) for sha256, size in values)


def _seal(body: bytes) -> bytes:
    return b"sha256 " + hashlib.sha256(body).hexdigest().encode() + b"\n"
