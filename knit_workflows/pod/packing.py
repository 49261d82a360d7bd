"""Packs a folder into a tar stream, and reads it without one."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from knit_workflows.pod import tar, tree
from knit_workflows.pod.tar import Member
from knit_workflows.pod.tree import MAX_DEPTH, Summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_STREAM_BYTES = 256 << 10
_CHANGED = "its size changed while it was read; try again later"
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not block
_NOT_DATA = {stat.S_IFSOCK: "socket", stat.S_IFIFO: "named pipe", stat.S_IFCHR: "character device",
             stat.S_IFBLK: "block device"}  # fmt: skip


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


class Span(NamedTuple):
    """The content of one file, not read yet."""

    descriptor: int
    """Good until the next item is asked for; its offset is not used."""
    size: int
    """Bytes, from the file's beginning; never 0."""


class Writable(Protocol):
    """Where an archive goes; a short write is completed."""

    def write(self, data: bytes, /) -> int | None: ...  # noqa: D102


def pack(
    root: Path, sink: Writable | Callable[[bytes], object], *, dereference: bool = False
) -> Summary:
    """Writes the folder as a plain tar stream; the same folder gives the same bytes.

    Entries come in name order with paths relative to `root`. Links stay links, unless `dereference`
    puts what they point to in their place. Hard links become files of their own. When `root` is a
    file, the archive holds that one file under its base name.

    Raises:
        CannotPack: a socket, pipe or device, a loop of links, or a file that changed while it was
            read.
        OSError: something could not be read; its `filename` says what.
    """
    packer = _Packer(root, dereference)
    for piece in packer.stream():
        _write_all(sink, piece)
    return Summary(packer.files, packer.bytes)


def iter_pack(root: Path, *, dereference: bool = False) -> Iterator[bytes]:
    """The same stream as `pack` in pieces of 256 KiB to 1 MiB (the last may be smaller), for HTTP.

    Raises as `pack` does, at the piece where it happens: whoever sends them must then break the
    stream.
    """
    return _Packer(root, dereference).stream()


def iter_spans(root: Path) -> Iterator[bytes | Span]:
    """The same stream as `iter_pack` gives, but large files as spans, for the kernel to move.

    Whoever finds a span shorter than it says must break the stream. Raises as `pack` does.
    """
    return _Packer(root, dereference=False).items(spans=True)


def iter_content_spans(root: Path) -> Iterator[Span]:
    """What `read_concatenated` gives at this moment, unread."""
    for _, descriptor in open_files(root):
        yield Span(descriptor, os.fstat(descriptor).st_size)


def length_of(pieces: Iterable[bytes | Span]) -> int:
    """How many bytes the pieces are together; nothing of a span is read."""
    return sum(len(piece) if isinstance(piece, bytes) else piece.size for piece in pieces)


def _write_all(sink: Writable | Callable[[bytes], object], piece: bytes) -> None:
    if callable(sink):
        sink(piece)
        return
    written = sink.write(piece)
    while written is not None and written < len(piece):
        piece = piece[written:]
        written = sink.write(piece)


class _Packer:
    """One pass over one folder, counting."""

    def __init__(self, root: Path, dereference: bool) -> None:
        self._root = root
        self._dereference = dereference
        self._spans = False
        self.files = 0
        self.bytes = 0

    def stream(self) -> Iterator[bytes]:
        """The archive in pieces, files included."""
        for item in self.items(spans=False):
            assert isinstance(item, bytes)
            yield item

    def items(self, *, spans: bool) -> Iterator[bytes | Span]:
        """Gathers headers and small files into pieces worth sending; large ones pass untouched."""
        self._spans = spans
        gathered: list[bytes] = []
        size = 0
        for item in self._entries():
            small = isinstance(item, bytes) and len(item) < _STREAM_BYTES
            if isinstance(item, bytes) and small:
                gathered.append(item)
                size += len(item)
                if size < _STREAM_BYTES:
                    continue
            if gathered:
                yield b"".join(gathered)
                gathered, size = [], 0
            if not small:
                yield item
        yield b"".join(gathered)

    def _entries(self) -> Iterator[bytes | Span]:
        with self._named(""):
            info = self._root.stat()
        if stat.S_ISDIR(info.st_mode):
            with tree.opened_folder(self._root) as folder:
                yield from self._folder(folder, "", [_identity(info)])
        else:
            with tree.opened_folder(self._root.parent) as folder:
                name = self._root.name
                yield from self._entry(folder, name, name, info, [])
        yield tar.END_OF_ARCHIVE

    def _folder(
        self, folder: int, prefix: str, above: list[tuple[int, int]]
    ) -> Iterator[bytes | Span]:
        if len(above) > MAX_DEPTH:
            raise CannotPack(f"the path is deeper than {MAX_DEPTH} folders", prefix)
        for name in sorted(os.listdir(folder)):
            if not prefix and name == tree.LOST_AND_FOUND:
                continue
            path = prefix + name
            with self._named(path):
                info = os.stat(name, dir_fd=folder, follow_symlinks=self._dereference)
            yield from self._entry(folder, name, path, info, above)

    def _entry(
        self, folder: int, name: str, path: str, info: os.stat_result, above: list[tuple[int, int]]
    ) -> Iterator[bytes | Span]:
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFREG:
            yield from self._file(folder, name, path)
        elif kind == stat.S_IFDIR:
            if _identity(info) in above:
                raise CannotPack("the link leads back to a folder above it", path)
            yield _header(tar.FOLDER, path + "/", info)
            with self._named(path):
                child = os.open(name, self._flags(tree.FOLDER_FLAGS), dir_fd=folder)
            try:
                yield from self._folder(child, path + "/", [*above, _identity(info)])
            finally:
                os.close(child)
        elif kind == stat.S_IFLNK:
            with self._named(path):
                target = os.readlink(name, dir_fd=folder)
            self.files += 1
            yield _header(tar.SYMLINK, path, info, link=target)
        else:
            raise CannotPack(f"a {_NOT_DATA.get(kind, 'special file')} cannot be Data", path)

    def _file(self, folder: int, name: str, path: str) -> Iterator[bytes | Span]:
        with self._named(path):
            descriptor = os.open(name, self._flags(_READ_FILE), dir_fd=folder)
        try:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                raise CannotPack("it was replaced while being read", path)
            yield _header(tar.FILE, path, info, size=info.st_size)
            if self._spans and info.st_size >= _STREAM_BYTES:
                yield Span(descriptor, info.st_size)
                if os.fstat(descriptor).st_size != info.st_size:
                    raise CannotPack(_CHANGED, path)
            else:
                yield from self._content(descriptor, info.st_size, path)
            yield bytes(-info.st_size % tar.BLOCK)
            self.files += 1
            self.bytes += info.st_size
        finally:
            os.close(descriptor)

    def _content(self, descriptor: int, size: int, path: str) -> Iterator[bytes]:
        done = 0
        while True:
            with self._named(path):
                piece = os.read(descriptor, min(tar.CHUNK, size - done + 1))
            done += len(piece)
            if done > size or (not piece and done < size):
                raise CannotPack(_CHANGED, path)
            if not piece:
                return
            yield piece

    def _flags(self, flags: int) -> int:
        return flags & ~os.O_NOFOLLOW if self._dereference else flags

    @contextmanager
    def _named(self, path: str) -> Iterator[None]:
        """Calls on descriptors know only a base name, or none: completes it in the error."""
        try:
            yield
        except OSError as error:
            error.filename = str(self._root / path if path else self._root)
            raise


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def _header(
    kind: bytes, path: str, info: os.stat_result, *, size: int = 0, link: str = ""
) -> bytes:
    mode = stat.S_IMODE(info.st_mode)
    return tar.encode(
        Member(kind, os.fsencode(path), os.fsencode(link), mode, int(info.st_mtime), size)
    )


def open_files(root: Path) -> Iterator[tuple[str, int]]:
    """Each regular file below the folder in name order: its relative path and a descriptor.

    Links are not followed. A descriptor is closed when the next file is asked for.
    """
    with tree.opened_folder(root) as folder:
        yield from _open_files(folder, "")


def _open_files(folder: int, prefix: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        is_folder = entry.is_dir(follow_symlinks=False)
        if not (is_folder or entry.is_file(follow_symlinks=False)):
            continue
        if not prefix and entry.name == tree.LOST_AND_FOUND:
            continue
        flags = tree.FOLDER_FLAGS if is_folder else _READ_FILE
        descriptor = os.open(entry.name, flags, dir_fd=folder)
        try:
            if is_folder:
                yield from _open_files(descriptor, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, descriptor
        finally:
            os.close(descriptor)


def read_concatenated(root: Path) -> Iterator[bytes]:
    """The content of all regular files below the folder, in name order, in pieces of at most 1 MiB.

    A file that grows meanwhile is read up to where it ends when its turn is over.
    """
    for _, descriptor in open_files(root):
        while piece := os.read(descriptor, tar.CHUNK):
            yield piece
