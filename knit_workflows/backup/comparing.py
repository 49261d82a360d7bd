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


def have_same_files(
    one: Iterator[bytes], other: Iterator[bytes], *, is_foreign: bool = False
) -> bool:
    """Says whether both have the same entries: paths, kinds, targets of links, and contents.

    They are read side by side, up to the first difference; what has no counterpart yet is kept in
    mind. One that is no archive is like no other. `is_foreign`: the other was not packed by knit,
    so a second name of a file may be a link to the first; the digests of all files are kept in
    mind for that.
    """
    mine: dict[bytes, Entry] = {}
    theirs: dict[bytes, Entry] = {}
    try:
        for a, b in zip_longest(entries(one), entries(other, {} if is_foreign else None)):
            if a == b:
                continue
            if not (_meets(a, mine, theirs) and _meets(b, theirs, mine)):
                return False
    except ArchiveRefused:
        return False
    return not mine and not theirs


Entry = tuple[Any, ...]


def _meets(
    found: tuple[bytes, Entry] | None, own: dict[bytes, Entry], others: dict[bytes, Entry]
) -> bool:
    """Says whether an entry is like its counterpart; one that has none yet waits for it."""
    if found is None:
        return True
    name, about = found
    if name in others:
        return others.pop(name) == about
    own[name] = about
    return True


def entries(
    archive: Iterator[bytes], files: dict[bytes, Entry] | None = None
) -> Iterator[tuple[bytes, Entry]]:
    """Gives names, and what is there: kind, size, and a link's target or a file's mode and digest.

    The root is everywhere, and is left out. With `files`, which are filled, hard links are what
    they link to.
    """
    reader = TarReader(Stream(archive))
    for member in reader.members():
        name = _plain(member.name)
        if member.kind == tar.NOTE or not name:
            continue
        if member.kind == tar.HARD_LINK:
            yield name, (files or {}).get(_plain(member.link), (member.kind, member.link))
            continue
        if member.kind != tar.FILE:
            yield name, (member.kind, member.link, member.size)
            continue
        segments = member.segments
        places = [(0, member.size)] if segments is None else sparse.pairs(segments)
        content = _digest(_placed(reader.content(), places))
        about = (member.kind, member.size, member.mode & _EXECUTE, content)
        if files is not None:
            files[name] = about
        yield name, about


def _plain(name: bytes) -> bytes:
    """Gives a path without what means nothing in it."""
    return b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))


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
