"""Remembers what of an archive must wait until all its files are there, in little memory."""

from __future__ import annotations

import os
import secrets
import struct
from typing import TYPE_CHECKING

from knit_workflows.archive.tar import Member

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = struct.Struct("<cIIHQ")  # kind, lengths of name and link, mode, time
_MOST_IN_MEMORY = 1 << 20
_READ_BYTES = 1 << 18
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class DeferredMembers:
    """Members without content, in order; beyond a MiB they lie in a file without a name."""

    def __init__(self, folder: int) -> None:
        """`folder` is a descriptor, the caller's; the file lies in it, where nobody sees it."""
        self._folder = folder
        self._memory = bytearray()
        self._file: int | None = None

    def add(self, member: Member) -> None:
        """Remembers one. Raises OSError when the disk is full."""
        head = _HEAD.pack(
            member.kind, len(member.name), len(member.link), member.mode & 0o7777, member.mtime
        )
        self._memory += head + member.name + member.link
        if len(self._memory) > _MOST_IN_MEMORY:
            self._spill()

    def members(self) -> Iterator[Member]:
        """All of them, in the order they came; may be asked for again."""
        pieces = self._pieces()
        buffer = bytearray()
        at = 0
        for piece in pieces:
            buffer = buffer[at:] + piece
            at = 0
            while len(buffer) - at >= _HEAD.size:
                kind, name, link, mode, mtime = _HEAD.unpack_from(buffer, at)
                start = at + _HEAD.size
                end = start + name + link
                if end > len(buffer):
                    break
                text = bytes(buffer[start:end])
                yield Member(kind, text[:name], text[name:], mode, mtime, 0)
                at = end

    def close(self) -> None:
        """Gives the disk back what it took."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _pieces(self) -> Iterator[bytes | bytearray]:
        if self._file is not None:
            at = 0
            while piece := os.pread(self._file, _READ_BYTES, at):
                at += len(piece)
                yield piece
        yield self._memory

    def _spill(self) -> None:
        if self._file is None:
            name = f".knit-{secrets.token_hex(8)}"
            self._file = os.open(name, _NEW_FILE, 0o600, dir_fd=self._folder)
            os.unlink(name, dir_fd=self._folder)
        left = memoryview(self._memory)
        while left:
            left = left[os.write(self._file, left) :]
        left.release()
        self._memory = bytearray()
