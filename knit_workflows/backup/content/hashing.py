"""Hashes of the files of volumes, which are the same on any storage.

A hash is over each entry's path, kind, link target and size, and for files who may execute them and
their content, holes being zeros. So neither times nor the packing of an archive count.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from knit_workflows.archive import ArchiveRefused
from knit_workflows.backup.blobs import PIECE, Piece
from knit_workflows.backup.comparing import entries
from knit_workflows.backup.volumes import VolumeAbsent, Volumes, VolumeUnreadable, Wanted
from knit_workflows.domain.volumes import Volume

_FORM: Final = b"knit-files-1\n"
"""Whatever changes how entries are written below has to change this too."""


@dataclass
class Meter:
    """Passes an archive on, and knows its size; its pieces too, as a backup cuts them."""

    with_pieces: bool
    size: int = 0

    def __post_init__(self) -> None:
        self.pieces: list[Piece] = []
        self._digest = hashlib.sha256()
        self._in_piece = 0

    def passed(self, archive: Iterable[bytes]) -> Iterator[bytes]:
        """Gives the same chunks."""
        for chunk in archive:
            self.size += len(chunk)
            if self.with_pieces:
                self._add(memoryview(chunk))
            yield chunk
        if self._in_piece:
            self._cut()

    def _add(self, chunk: memoryview) -> None:
        while chunk:
            part = chunk[: PIECE - self._in_piece]
            self._digest.update(part)
            self._in_piece += len(part)
            chunk = chunk[len(part) :]
            if self._in_piece == PIECE:
                self._cut()

    def _cut(self) -> None:
        self.pieces.append(Piece(self._digest.hexdigest(), self._in_piece))
        self._digest, self._in_piece = hashlib.sha256(), 0


def hash_files(archive: Iterator[bytes]) -> str:
    """Gives the hash of an archive's files; raises ArchiveRefused if it is none."""
    digest = hashlib.sha256(_FORM)
    for name, about in entries(archive):
        for value in (name, *about):
            part = value if isinstance(value, bytes) else str(value).encode()
            digest.update(b"%d:%b" % (len(part), part))
        digest.update(b"\n")
    return digest.hexdigest()


def hash_volumes(
    volumes: Volumes,
    wanted: Sequence[Wanted],
    *,
    with_pieces: bool = False,
    seconds: float | None = None,
) -> Iterator[dict[str, Any]]:
    """Gives for each volume `{"hashed": its Data, "sha256", "size"}`, or as `read_volumes`, failed.

    `with_pieces`: with `"pieces"` too. None is begun after so many seconds. A second call reads all
    of them again.
    """
    named = [Volume(one.volume, one.knit_id) for one in wanted]
    volumes.expect(named, to_write=False)
    began = time.monotonic()
    for volume in named:
        if seconds is not None and time.monotonic() - began > seconds:
            return
        yield _hashed(volumes, volume, with_pieces)


def _hashed(volumes: Volumes, volume: Volume, with_pieces: bool) -> dict[str, Any]:
    meter = Meter(with_pieces)
    try:
        sha256 = hash_files(meter.passed(volumes.read(volume)))
    except VolumeAbsent as absent:
        return {"failed": volume.knit_id, "why": str(absent), "absent": True}
    except VolumeUnreadable as failed:
        return {"failed": volume.knit_id, "why": str(failed), "absent": False}
    except ArchiveRefused as refused:
        return {"failed": volume.knit_id, "why": f"it was cut: {refused}", "absent": False}
    told: dict[str, Any] = {"hashed": volume.knit_id, "sha256": sha256, "size": meter.size}
    return told | ({"pieces": meter.pieces} if with_pieces else {})
