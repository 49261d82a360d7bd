"""Walks a folder in name order, however deep, and says of everything whether it can be packed."""

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

_LONG = MAX_PATH_BYTES // 4  # characters; a shorter path cannot have too many bytes


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
    """A descriptor of the folder it is in, good until the next is asked for."""
    info: os.stat_result
    left_out: str | None
    """What it is, in a word or two, if it cannot be packed; what is in it is not found then."""


def walk(root: Path, *, dereference: bool = False, links: bool = True) -> Iterator[Found]:
    """Everything below a folder, a folder before what is in it; or the one file that `root` is.

    With `dereference` links are what they lead to; without `links` they are left out. The
    `lost+found` that mkfs made at the top of a file system is no part of it; in any other folder it
    is left out, since no volume could tell it from its own.

    Raises:
        CannotPack: a link leads back to a folder above it.
        OSError: something could not be read; its `filename` says what.
    """
    return _Walk(root, dereference, links).run()


class _Walk:
    def __init__(self, root: Path, dereference: bool, links: bool) -> None:
        self._root = root
        self._dereference = dereference
        self._links = links
        self._above: list[tuple[int, int]] = []  # whence a link must not lead back

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
            descent: FolderStack[str] = FolderStack(folder, flags)
            try:
                yield from self._below(descent)
            finally:
                descent.close()

    def _below(self, descent: FolderStack[str]) -> Iterator[Found]:
        prefix = ""
        waiting = [self._names(descent.here, prefix, top=True)]
        follow = self._dereference
        while True:
            if not waiting[-1]:
                waiting.pop()
                if not waiting:
                    return
                prefix = prefix[: -len(descent.names[-1]) - 1]
                self._above.pop()
                descent.leave()
                continue
            name = waiting[-1].pop()
            path = prefix + name
            here = descent.here
            try:
                info = os.stat(name, dir_fd=here, follow_symlinks=follow)
            except OSError as error:
                raise named(error, self._root, path) from None
            left_out = self._left_out(path, info.st_mode, len(waiting))
            yield Found(path, name, here, info, left_out)
            if stat.S_ISDIR(info.st_mode) and left_out is None:
                self._enter(descent, name, path, info)
                prefix = path + "/"
                waiting.append(self._names(descent.here, prefix))

    def _enter(self, descent: FolderStack[str], name: str, path: str, info: os.stat_result) -> None:
        if self._dereference and identity(info) in self._above:
            raise CannotPack("the link leads back to a folder above it", path)
        self._above.append(identity(info))
        try:
            descent.enter(name)
        except OSError as error:
            raise named(error, self._root, path) from None

    def _names(self, folder: int, prefix: str, *, top: bool = False) -> list[str]:
        """What is in the folder, the last first."""
        try:
            names = sorted(os.listdir(folder), reverse=True)
        except OSError as error:
            raise named(error, self._root, prefix) from None
        if top and LOST_AND_FOUND in names and is_top_of_file_system(folder):
            names.remove(LOST_AND_FOUND)
        return names

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
    """The same error with the whole path: calls on descriptors know only a base name, or none."""
    error.filename = str(root / path if path else root)
    return error
