"""Whether two archives have the same files, whatever their bytes.

Holes are zeros here, since only some storage knows them. Times are left out, and of permissions all
but who may execute a file: storage, and whoever mounts it, may change them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any, Final

from knit_workflows.archive import ArchiveRefused, TarReader, sparse, tar
from knit_workflows.backup.streams import Stream

_BLOCK: Final = 1 << 16
_ZEROS: Final = bytes(_BLOCK)
_EXECUTE: Final = 0o111


def have_same_files(one: Iterator[bytes], other: Iterator[bytes]) -> bool:
    """Says whether both have the same entries: paths, kinds, targets of links, and contents.

    They are read side by side, up to the first difference; one that is no archive is like no other.
    """
    try:
        return all(a == b for a, b in zip_longest(entries(one), entries(other)))
    except ArchiveRefused:
        return False


def entries(archive: Iterator[bytes]) -> Iterator[tuple[Any, ...]]:
    """Gives of each entry its path, kind, link target and size; of files mode and digest too."""
    reader = TarReader(Stream(archive))
    for member in reader.members():
        if member.kind == tar.NOTE:
            continue
        about = (member.name.rstrip(b"/"), member.kind, member.link, member.size)
        if member.kind != tar.FILE:
            yield about
            continue
        segments = member.segments
        places = [(0, member.size)] if segments is None else sparse.pairs(segments)
        yield *about, member.mode & _EXECUTE, _digest(_placed(reader.content(), places))


def _placed(
    content: Iterator[memoryview], places: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, memoryview]]:
    """Gives the parts of a file that its archive has, none across a border of blocks."""
    chunk = memoryview(b"")
    for at, length in places:
        end = at + length
        while at < end:
            chunk = chunk or next(content)
            part = chunk[: min(end - at, _BLOCK - at % _BLOCK)]
            yield at, part
            chunk = chunk[len(part) :]
            at += len(part)


def _digest(parts: Iterable[tuple[int, memoryview]]) -> bytes:
    """Gives the digest of all blocks that are not zeros, with their places."""
    digest = hashlib.sha256()
    block, number = bytearray(_BLOCK), 0

    def add() -> None:
        if block != _ZEROS:
            digest.update(number.to_bytes(8))
            digest.update(block)

    for at, part in parts:
        if at // _BLOCK != number:
            add()
            block, number = bytearray(_BLOCK), at // _BLOCK
        start = at % _BLOCK
        block[start : start + len(part)] = part
    add()
    return digest.digest()
