"""The part `data/` of a backup: claims, each with its description and its content."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from knit_workflows import archive
from knit_workflows.archive import ArchiveRefused
from knit_workflows.backup.knitfab.dump import gunzipped
from knit_workflows.backup.problems import BackupProblem, Damaged
from knit_workflows.backup.streams import Stream
from knit_workflows.backup.volumes import with_margin
from knit_workflows.domain.errors import InvalidQuantity
from knit_workflows.domain.quantities import parse_quantity

DESCRIPTION: Final = "pvc.json"
CONTENT: Final = "data.tar.gz"
_LARGEST_DESCRIPTION: Final = 1 << 20
_ISIZE_BYTES: Final = 4
"""A file of gzip ends with the size of its content, modulo 2³² (RFC 1952, 2.3.1)."""
_GROWTH: Final = 1000
"""What cannot be compressed grows by less than one part in so many,"""
_LARGEST_HEAD: Final = 1024
"""and by a head and an end."""

_ROOM: Final = 8
"""What leaves one part in so many free has fitted, and fits again."""


@dataclass(frozen=True)
class Claim:
    """A claim in a backup. `capacity`: bytes that its volume needs at least."""

    name: str
    content: Path
    capacity: int

    def archive(self) -> Iterator[bytes]:
        """Gives its archive, unpacked; raises Damaged, BackupProblem."""
        yield from gunzipped(self.content)

    def check(self) -> int:
        """Reads all of it as a restore does, and gives its bytes; raises Damaged."""
        try:
            return archive.check(Stream(self.archive())).bytes
        except ArchiveRefused as refused:
            raise self.refused(str(refused)) from refused

    def refused(self, reason: str) -> Damaged:
        """Gives what to raise if the archive is not what it should be."""
        return Damaged(
            f"{self.content} is refused",
            reason=reason,
            advice="take that part of the backup again, or take its folder away and give "
            "--allow-missing: the Data is then known, without its content",
        )


def find_claims(folder: Path) -> dict[str, Claim]:
    """Gives the claims in `data/` by name; folders without both files are skipped, as Knitfab does.

    Raises:
        Damaged: a description is none.
        BackupProblem: the folder cannot be read.
    """
    try:
        parts = sorted(one for one in folder.iterdir() if one.is_dir())
    except FileNotFoundError:
        return {}
    except OSError as cause:
        raise BackupProblem(f"{folder} cannot be read", reason=str(cause.strerror)) from cause
    found = (
        _claim(part)
        for part in parts
        if (part / DESCRIPTION).is_file() and (part / CONTENT).is_file()
    )
    return {one.name: one for one in found}


def _claim(part: Path) -> Claim:
    described = part / DESCRIPTION
    try:
        with described.open("rb") as file:
            value: Any = json.loads(file.read(_LARGEST_DESCRIPTION))
        requested = str(value["spec"]["resources"]["requests"]["storage"])
        name = str(value["metadata"]["name"])
        asked = int(parse_quantity(requested))
        content = part / CONTENT
        capacity = _capacity(asked, _unpacked_size(content))
    except OSError as cause:
        raise BackupProblem(f"{part} cannot be read", reason=str(cause.strerror)) from cause
    except (ValueError, KeyError, TypeError, RecursionError, InvalidQuantity) as cause:
        raise Damaged(
            f"{described} is no PersistentVolumeClaim",
            reason=f"{type(cause).__name__}: {cause}"[:200],
            advice="take that part of the backup again",
        ) from cause
    if name != part.name:
        raise Damaged(
            f"{described} is of the claim {name[:300]!r}", advice="call its folder after its claim"
        )
    return Claim(name, content, capacity)


def _capacity(asked: int, unpacked: int) -> int:
    """Gives what to ask for: storage that holds to it must also have room for a file system.

    Storage as Knitfab's, which is NFS, does not hold anybody to what was asked for.
    """
    if unpacked <= asked - asked // _ROOM:
        return asked
    return max(asked, with_margin(unpacked))


def _unpacked_size(content: Path) -> int:
    """Gives how much it is at least, unpacked: what was asked for may have been outgrown."""
    packed = content.stat().st_size
    with content.open("rb") as file:
        file.seek(max(0, packed - _ISIZE_BYTES))
        size = int.from_bytes(file.read(_ISIZE_BYTES), "little")
    whole = 1 << 32
    least = packed - packed // _GROWTH - _LARGEST_HEAD
    return size if size >= least else size + whole * -(-(least - size) // whole)
