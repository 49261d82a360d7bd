"""Walks a folder of any depth in name order, and says what of it can be packed."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from knit_workflows.archive.file_kinds import (
    LOST_AND_FOUND,
    MKFS_FOLDER,
    is_top_of_file_system,
    left_out_kind,
)
from knit_workflows.archive.folder_stack import FOLDER_FLAGS, FolderStack, identity, opened_folder
from knit_workflows.archive.tar import MAX_DEPTH, MAX_PATH_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

AT_ONCE = 100_000
"""How many names of folders on the way are in memory, each of some 100 bytes: a folder with more is
read several times."""
_AT_LEAST = 1_000  # of a folder, however many are in memory of those above it
_LONG = MAX_PATH_BYTES // 4  # characters; no shorter path has too many bytes


class CannotPack(ValueError):
    """Something in the folder cannot go into an archive.

    Attributes:
        reason: one sentence fragment for people.
        member: the path at fault, relative to the folder.
    """

    def __init__(self, reason: str, member: str) -> None:
        super().__init__(f"{member!r}: {reason}")
        self.reason = reason
        self.member = member


class Found(NamedTuple):
    """One entry of a folder."""

    path: str
    """Relative to where the walk began."""
    name: str
    folder: int
    """A descriptor of its folder, valid until the next entry is requested."""
    info: os.stat_result
    left_out: str | None
    """Its kind, if it cannot be packed; then its content is not visited."""


def walk(
    root: Path, *, dereference: bool = False, links: bool = True, at_once: int = AT_ONCE
) -> Iterator[Found]:
    """Yields everything below a folder, a folder before its content; or the one file `root`.

    With `dereference` links are followed; without `links` they are left out. The `lost+found` that
    mkfs creates at the top of a file system is skipped; in any other folder it is left out, since
    a volume could not tell it from its own. What comes or goes meanwhile may be missed, but nothing
    is yielded twice. `at_once` is how many names are in memory.

    Raises:
        CannotPack: a link leads back to a folder above it.
        OSError: something could not be read; its `filename` says what.
    """
    return _Walk(root, dereference, links, at_once).run()


class _Names:
    """The names in one folder that have not been visited, of which the first ones are known."""

    def __init__(self) -> None:
        self.known: list[str] = []
        """In reverse order."""
        self.last: str | None = None
        """Of those that were ever known."""
        self.has_more = True


class _Walk:
    def __init__(self, root: Path, dereference: bool, links: bool, at_once: int) -> None:
        self._root = root
        self._dereference = dereference
        self._links = links
        self._room = at_once  # for names
        self._above: list[tuple[int, int]] = []  # to which a link must not lead back

    def run(self) -> Iterator[Found]:
        root = self._root
        info = root.stat()
        if not stat.S_ISDIR(info.st_mode):
            with opened_folder(root.parent) as folder:
                left_out = left_out_kind(info.st_mode)
                yield Found(root.name, root.name, folder, info, left_out)
            return
        with opened_folder(root) as folder:
            self._above.append(identity(info))
            flags = FOLDER_FLAGS & ~os.O_NOFOLLOW if self._dereference else FOLDER_FLAGS
            stack: FolderStack[str] = FolderStack(folder, flags)
            try:
                yield from self._below(stack)
            finally:
                stack.close()

    def _below(self, stack: FolderStack[str]) -> Iterator[Found]:
        prefix = ""
        waiting = [_Names()]
        follow = self._dereference
        while True:
            name = self._next(waiting[-1], stack.here, prefix)
            if name is None:
                waiting.pop()
                if not waiting:
                    return
                prefix = prefix[: -len(stack.names[-1]) - 1]
                self._above.pop()
                stack.leave()
                continue
            path = prefix + name
            here = stack.here
            try:
                info = os.stat(name, dir_fd=here, follow_symlinks=follow)
            except OSError as error:
                raise named(error, self._root, path) from None
            left_out = self._left_out(path, info.st_mode, len(waiting))
            yield Found(path, name, here, info, left_out)
            if stat.S_ISDIR(info.st_mode) and left_out is None:
                self._enter(stack, name, path, info)
                prefix = path + "/"
                waiting.append(_Names())

    def _enter(self, stack: FolderStack[str], name: str, path: str, info: os.stat_result) -> None:
        if self._dereference and identity(info) in self._above:
            raise CannotPack("the link leads back to a folder above it", path)
        self._above.append(identity(info))
        try:
            stack.enter(name)
        except OSError as error:
            raise named(error, self._root, path) from None

    def _next(self, names: _Names, folder: int, prefix: str) -> str | None:
        """Gives the next name in a folder, whose path is `prefix`; None: there are no more."""
        if not names.known and names.has_more:
            try:
                self._read(names, folder, top=not prefix)
            except OSError as error:
                raise named(error, self._root, prefix) from None
        if not names.known:
            return None
        self._room += 1
        return names.known.pop()

    def _read(self, names: _Names, folder: int, *, top: bool) -> None:
        """Reads the next names, in order: as many as there is room for."""
        many = max(self._room, _AT_LEAST)
        last, bound = names.last, None
        found: list[str] = []
        names.has_more = False
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if (last is not None and name <= last) or (bound is not None and name > bound):
                    continue
                if top and name == LOST_AND_FOUND and is_top_of_file_system(folder):
                    continue
                found.append(name)
                if len(found) >= 2 * many:
                    found.sort()
                    del found[many:]
                    bound, names.has_more = found[-1], True
        found.sort(reverse=True)
        if len(found) > many:
            del found[:-many]
            names.has_more = True
        names.known = found
        names.last = found[0] if found else last
        self._room -= len(found)

    def _left_out(self, path: str, mode: int, depth: int) -> str | None:
        if depth == 1 and path == LOST_AND_FOUND:
            return MKFS_FOLDER
        if depth > MAX_DEPTH:
            return f"more than {MAX_DEPTH} folders deep"
        if len(path) > _LONG and len(os.fsencode(path)) > MAX_PATH_BYTES:
            return f"path of more than {MAX_PATH_BYTES} bytes"
        if not self._links and stat.S_ISLNK(mode):
            return "link"
        return left_out_kind(mode)


def named(error: OSError, root: Path, path: str) -> OSError:
    """Completes the error with the whole path: calls on descriptors know only a base name."""
    error.filename = str(root / path if path else root)
    return error
