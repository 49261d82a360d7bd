"""Scans an output when its Run has ended, to report what of it cannot be kept."""

from __future__ import annotations

import heapq
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from knit_workflows.archive.file_kinds import (
    LOST_AND_FOUND,
    MKFS_FOLDER,
    is_top_of_file_system,
    left_out_kind,
)
from knit_workflows.archive.folder_stack import FolderStack, opened_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_NAMED = 20
"""How many of the files that are left out are named."""
MAX_ENTRIES = 200_000
"""Also bounds the memory: the names of folders to be visited."""
MAX_SECONDS = 2.0
"""The end of a Run is delayed by no more than this; a scan is best effort."""

_MAX_NAME_CHARS = 120
_CLOCK_EVERY = 256


class Scan(NamedTuple):
    """What a scan has found."""

    entries: int
    """Files, folders, links and everything else, but not the `lost+found` of mkfs."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Path and kind of what cannot be Data: the first twenty, in name order."""
    kinds: Mapping[str, int] = {}
    """How many there are of each kind that cannot be Data."""
    incomplete: str = ""
    """Why the scan is incomplete; empty if it is complete."""

    @property
    def left_out_count(self) -> int:
        """How many entries cannot be Data."""
        return sum(self.kinds.values())


def scan(root: Path, *, max_entries: int = MAX_ENTRIES, max_seconds: float = MAX_SECONDS) -> Scan:
    """Scans the kinds of all entries below a folder, without following links; never raises.

    Few descriptors are open at a time, however deep the folders are. Only folders are read, not the
    files' inodes, which on a network file system would cost a round trip each.
    """
    walk = _Walk(max_entries, time.monotonic() + max_seconds)
    try:
        walk.through(root)
    except _Enough as reason:
        walk.incomplete = str(reason)
    except OSError as error:
        walk.incomplete = walk.incomplete or _reason(error, walk.path())
    named = tuple(heapq.nsmallest(MAX_NAMED, walk.first))
    return Scan(walk.entries, named, dict(walk.kinds), walk.incomplete)


def scan_note(output: str, found: Scan) -> str:
    """Formats a scan of the output at that path as one line; empty if nothing is to be noted."""
    parts = []
    if found.left_out_count:
        one = found.left_out_count == 1
        parts.append(f"{_counted(found.kinds)} {'is' if one else 'are'} not kept: {_named(found)}")
    if found.incomplete:
        parts.append(f"it was not scanned to the end: {found.incomplete}")
    return f"output {output}: {'; '.join(parts)}" if parts else ""


class _Enough(Exception):
    """A limit was reached; the message says which."""


class _Walk:
    """One pass over the folders; what cannot be read is skipped and reported."""

    def __init__(self, max_entries: int, deadline: float) -> None:
        self.entries = 0
        self.first: list[tuple[str, str]] = []
        self.kinds: Counter[str] = Counter()
        self.incomplete = ""
        self._most = max_entries
        self._deadline = deadline
        self._names: list[str] = []

    def path(self, name: str = "") -> str:
        """Gives the path of the current folder, or of an entry in it, relative to the root."""
        return "/".join([*self._names, name] if name else self._names)

    def through(self, root: Path) -> None:
        """Visits everything."""
        with opened_folder(root) as folder:
            stack: FolderStack[str] = FolderStack(folder)
            self._names = stack.names
            waiting = [self._look(folder)]
            try:
                while True:
                    if waiting[-1]:
                        if self._entered(stack, waiting[-1].pop()):
                            waiting.append(self._look(stack.here))
                    elif len(waiting) == 1:
                        return
                    else:
                        waiting.pop()
                        stack.leave()
            finally:
                self._names = list(stack.names)
                stack.close()

    def _look(self, folder: int) -> list[str]:
        """Counts the entries of a folder; gives the names of its subfolders in reverse order."""
        folders = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name == LOST_AND_FOUND and not self._names:
                    if not is_top_of_file_system(folder):
                        self._count()
                        self._leave_out(entry.name, MKFS_FOLDER)
                    continue
                self._count()
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif not (entry.is_symlink() or entry.is_file(follow_symlinks=False)):
                    self._other(folder, entry.name)
        return sorted(folders, reverse=True)

    def _count(self) -> None:
        if self.entries >= self._most:
            raise _Enough(f"it has more than {self._most:,} entries")
        if self.entries % _CLOCK_EVERY == 0 and time.monotonic() >= self._deadline:
            raise _Enough(f"it takes too long, after {self.entries:,} entries")
        self.entries += 1

    def _other(self, folder: int, name: str) -> None:
        kind = left_out_kind(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        if kind is not None:
            self._leave_out(name, kind)

    def _leave_out(self, name: str, kind: str) -> None:
        self.kinds[kind] += 1
        self.first.append((self.path(name), kind))
        if len(self.first) > 2 * MAX_NAMED:
            self.first = heapq.nsmallest(MAX_NAMED, self.first)

    def _entered(self, stack: FolderStack[str], name: str) -> bool:
        try:
            stack.enter(name)
        except OSError as error:
            self.incomplete = self.incomplete or _reason(error, self.path(name))
            return False
        return True


def _reason(error: OSError, path: str) -> str:
    return f"{_shown(path)}: {error.strerror}" if path else str(error.strerror)


def _counted(kinds: Mapping[str, int]) -> str:
    parts = [f"{many:,} {kind}{'' if many == 1 else 's'}" for kind, many in sorted(kinds.items())]
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _named(found: Scan) -> str:
    names = ", ".join(_shown(path) for path, _ in found.left_out)
    more = found.left_out_count - len(found.left_out)
    return f"{names} and {more:,} more" if more else names


def _shown(path: str) -> str:
    """Formats the path as one line; a long one is cut at its beginning."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= _MAX_NAME_CHARS else f"…{text[-_MAX_NAME_CHARS:]}"
