"""The volumes of an installation: read as archives, and made from them.

Both directions are streams of frames, so that they are the same in this process and through a pipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, Protocol

from knit_workflows import names
from knit_workflows.backup.blobs import PIECE, Piece, pieces_of
from knit_workflows.backup.comparing import have_same_files
from knit_workflows.backup.frames import Frame, content_until
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.streams import AtOnce
from knit_workflows.domain.volumes import Volume, VolumeOptions

_MARGIN: Final = 4
"""A quarter of an archive is added for what the file system takes where no capacity is known."""
_LEAST_MARGIN: Final = 64 << 20


class VolumeAbsent(Exception):
    """There is no such volume."""


class VolumeUnreadable(Exception):
    """A volume cannot be read or written; the message says why."""


class VolumeOccupied(Exception):
    """A volume has content already."""


@dataclass(frozen=True)
class Wanted:
    """The volume of a Data, to be read."""

    knit_id: str
    volume: str
    owned: bool = True
    must_be_there: bool = True


@dataclass(frozen=True)
class Restored:
    """The volume of a Data, to be made: the pieces of its archive, and its capacity if known.

    Without pieces the archive was packed by another program than knit.
    """

    knit_id: str
    pieces: tuple[Piece, ...]
    capacity: int | None = None


class Volumes(Protocol):
    """Where volumes are."""

    at_once: int
    """How many volumes may be written at the same time, each by a thread of its own."""

    def read(self, volume: Volume) -> Iterator[bytes]:
        """Gives the archive of a volume; raises VolumeAbsent, VolumeUnreadable."""

    def capacity(self, volume: Volume) -> int | None:
        """Gives the bytes that are set aside for a volume, where there is such a thing."""

    def room_for(self, size: int) -> str | None:
        """Gives what to ask for where so many bytes shall fit; None: what is usual is enough."""

    def write(self, volume: Volume, archive: Iterator[bytes]) -> None:
        """Makes a volume of the size in its options from an archive: all of it, or nothing.

        Raises:
            VolumeOccupied: it has content; nothing of the archive need have been read.
            VolumeUnreadable: it cannot be made.
        """

    def settle(self) -> None:
        """Returns once all that was made survives a loss of power; raises VolumeUnreadable."""

    def expect(self, volumes: Sequence[Volume], *, to_write: bool) -> None:
        """Hears which volumes come next, in this order."""


def read_volumes(volumes: Volumes, wanted: Sequence[Wanted]) -> Iterator[Frame]:
    """Gives volumes one after another.

    Of each `{"volume": its Data}`, content, `{"read", "capacity"}`; or instead of the last,
    perhaps after some content, `{"failed": its Data, "why", "absent"}`.
    """
    named = [Volume(one.volume, one.knit_id) for one in wanted]
    volumes.expect(named, to_write=False)
    for volume in named:
        yield {"volume": volume.knit_id}
        try:
            yield from volumes.read(volume)
            yield {"read": volume.knit_id, "capacity": volumes.capacity(volume)}
        except VolumeAbsent as absent:
            yield {"failed": volume.knit_id, "why": str(absent), "absent": True}
        except VolumeUnreadable as failed:
            yield {"failed": volume.knit_id, "why": str(failed), "absent": False}


def with_margin(content: int) -> int:
    """Gives the bytes of a file system on which the files of an archive of that size fit."""
    return content + content // _MARGIN + _LEAST_MARGIN


def announce(entries: Sequence[Restored]) -> dict[str, Any]:
    """Gives the message before volumes that are to be made."""
    return {"coming": [asdict(one) for one in entries]}


def write_volumes(volumes: Volumes, frames: Iterable[Frame]) -> Iterator[dict[str, Any]]:
    """Makes volumes: of each `{"volume": its Data}`, content, `{"end"}`; after `announce`.

    Gives `{"made": its Data}` for each, in their order. One that is there already is read: it must
    be equal, and is `{"equal": …}` then; `{"failed": its Data, "why"}` if not, or if it cannot be
    made.
    """
    coming: dict[str, Restored] = {}
    stream = iter(frames)
    with AtOnce[dict[str, Any]](volumes.at_once) as writing:
        for frame in stream:
            assert isinstance(frame, dict)
            if "coming" in frame:
                ahead = [_restored(one) for one in frame["coming"]]
                coming |= {one.knit_id: one for one in ahead}
                volumes.expect([_own(volumes, one) for one in ahead], to_write=True)
                continue
            one = partial(_write_one, volumes, coming.pop(frame["volume"]))
            yield from writing.do(one, content_until(stream, "end"))
        yield from writing.rest()
    try:
        volumes.settle()
    except VolumeUnreadable as failed:
        raise BackupProblem(
            "the volumes cannot be brought to the disk", reason=str(failed)
        ) from failed


class _Content:
    """The content of a volume, and whether some of it was read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.begun = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.begun = True
        return next(self._chunks)


def _write_one(volumes: Volumes, entry: Restored, chunks: Iterator[bytes]) -> dict[str, Any]:
    volume = _own(volumes, entry)
    content = _Content(chunks)
    try:
        try:
            volumes.write(volume, content)
            return {"made": entry.knit_id}
        except VolumeOccupied:
            # Reading takes a pod on a cluster: not twice if it is of another program. No archive
            # of knit is without pieces: also an empty folder has one.
            if entry.pieces and _is_equal(volumes.read(volume), entry.pieces):
                return {"equal": entry.knit_id}
            # Other storage may pack the same files into other bytes.
            is_foreign = not entry.pieces
            there = volumes.read(volume)
            if not content.begun and have_same_files(there, content, is_foreign=is_foreign):
                return {"equal": entry.knit_id}
            why = f"the volume {volume.name} is there, with other content"
            return {"failed": entry.knit_id, "why": why}
    except (VolumeUnreadable, VolumeAbsent) as failed:
        return {"failed": entry.knit_id, "why": str(failed)}
    finally:
        for _ in content:  # what comes next is another volume's
            pass


def _is_equal(archive: Iterator[bytes], pieces: Sequence[Piece]) -> bool:
    found = (Piece.of(one) for one in pieces_of(archive, PIECE))
    left = iter(pieces)
    equal = all(one == next(left, None) for one in found)
    with suppress(StopIteration):
        next(left)
        return False
    return equal


def _own(volumes: Volumes, entry: Restored) -> Volume:
    if entry.capacity is not None:
        size: str | None = str(entry.capacity)
    else:
        content = sum(one.size for one in entry.pieces)
        size = volumes.room_for(with_margin(content))
    return Volume(names.volume(entry.knit_id), entry.knit_id, VolumeOptions(size=size))


def _restored(value: dict[str, Any]) -> Restored:
    pieces = tuple(Piece(sha256, size) for sha256, size in value["pieces"])
    return Restored(value["knit_id"], pieces, value["capacity"])
