"""Looks through an output when its Run has ended, so that what cannot be kept is told then."""

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

MOST_NAMED = 20
"""How many of those that are left out are named."""
MOST_ENTRIES = 200_000
"""Bounds the memory too: the names of folders that are still to be visited."""
MOST_SECONDS = 2.0
"""A Run's end waits for no longer: this is a comfort."""

_MOST_NAME_CHARS = 120
_CLOCK_EVERY = 256


class Scan(NamedTuple):
    """What was seen in a folder."""

    entries: int
    """Files, folders, links and all others, but not the `lost+found` that mkfs made."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Path and kind of those that cannot be Data: the first twenty, in name order."""
    kinds: Mapping[str, int] = {}
    """How many there are of each kind that cannot be Data."""
    trouble: str = ""
    """Why there may be more than that; empty if all was looked at."""

    @property
    def left_out_count(self) -> int:
        """How many entries cannot be Data."""
        return sum(self.kinds.values())


def scan(
    root: Path, *, most_entries: int = MOST_ENTRIES, most_seconds: float = MOST_SECONDS
) -> Scan:
    """Looks at the kinds of all entries below a folder, without following links. Never raises.

    Few descriptors are open at a time, however deep the folders are. Only names are read, no file's
    own data, which over a network would cost a round trip for each.
    """
    walk = _Walk(most_entries, time.monotonic() + most_seconds)
    try:
        walk.through(root)
    except _Enough as reason:
        walk.trouble = str(reason)
    except OSError as error:
        walk.trouble = walk.trouble or _words(error, walk.path())
    named = tuple(heapq.nsmallest(MOST_NAMED, walk.first))
    return Scan(walk.entries, named, dict(walk.kinds), walk.trouble)


def scan_note(output: str, found: Scan) -> str:
    """One line for people about an output, by its path; empty if there is nothing to say."""
    parts = []
    if found.left_out_count:
        one = found.left_out_count == 1
        parts.append(f"{_counted(found.kinds)} {'is' if one else 'are'} not kept: {_named(found)}")
    if found.trouble:
        parts.append(f"it was not looked through to the end: {found.trouble}")
    return f"output {output}: {'; '.join(parts)}" if parts else ""


class _Enough(Exception):
    """A limit is reached; the message says which."""


class _Walk:
    """One way through the folders; what may not be looked into is passed over, and told."""

    def __init__(self, most_entries: int, deadline: float) -> None:
        self.entries = 0
        self.first: list[tuple[str, str]] = []
        self.kinds: Counter[str] = Counter()
        self.trouble = ""
        self._most = most_entries
        self._deadline = deadline
        self._names: list[str] = []

    def path(self, name: str = "") -> str:
        """Where the walk is, or an entry of that folder, relative to the root."""
        return "/".join([*self._names, name] if name else self._names)

    def through(self, root: Path) -> None:
        """Visits everything."""
        with opened_folder(root) as folder:
            descent: FolderStack[str] = FolderStack(folder)
            self._names = descent.names
            waiting = [self._look(folder)]
            try:
                while True:
                    if waiting[-1]:
                        if self._entered(descent, waiting[-1].pop()):
                            waiting.append(self._look(descent.here))
                    elif len(waiting) == 1:
                        return
                    else:
                        waiting.pop()
                        descent.leave()
            finally:
                self._names = list(descent.names)
                descent.close()

    def _look(self, folder: int) -> list[str]:
        """Counts what is in a folder; gives the names of its folders, last ones first."""
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
            raise _Enough(f"it takes too long, {self.entries:,} entries were seen")
        self.entries += 1

    def _other(self, folder: int, name: str) -> None:
        kind = left_out_kind(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        if kind is not None:
            self._leave_out(name, kind)

    def _leave_out(self, name: str, kind: str) -> None:
        self.kinds[kind] += 1
        self.first.append((self.path(name), kind))
        if len(self.first) > 2 * MOST_NAMED:
            self.first = heapq.nsmallest(MOST_NAMED, self.first)

    def _entered(self, descent: FolderStack[str], name: str) -> bool:
        try:
            descent.enter(name)
        except OSError as error:
            self.trouble = self.trouble or _words(error, self.path(name))
            return False
        return True


def _words(error: OSError, path: str) -> str:
    return f"{_shown(path)}: {error.strerror}" if path else str(error.strerror)


def _counted(kinds: Mapping[str, int]) -> str:
    words = [f"{many:,} {kind}{'' if many == 1 else 's'}" for kind, many in sorted(kinds.items())]
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _named(found: Scan) -> str:
    names = ", ".join(_shown(path) for path, _ in found.left_out)
    more = found.left_out_count - len(found.left_out)
    return f"{names} and {more:,} more" if more else names


def _shown(path: str) -> str:
    """The path as text of one line, its end if it is long."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= _MOST_NAME_CHARS else f"…{text[-_MOST_NAME_CHARS:]}"
