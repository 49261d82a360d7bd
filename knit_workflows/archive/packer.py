"""Packs a folder into a tar stream."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from knit_workflows.archive import sparse, tar
from knit_workflows.archive.tar import Member
from knit_workflows.archive.tree import Summary
from knit_workflows.archive.walk import CannotPack, Found, named, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_STREAM_BYTES = 256 << 10
_CHANGED = "its size changed while it was read; try again later"
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not block
_STAT_BLOCK = 512  # what st_blocks counts, whatever the file system's own are


@dataclass(frozen=True)
class Form:
    """What an archive contains besides files and links, which every reader understands."""

    everything: bool = False
    """Also folders, with their permissions and times, and named pipes."""
    holes: bool = False
    """Holes of files stay holes, in GNU tar's format 1.0; otherwise they become zeros."""
    notes: bool = False
    """Global headers that list what was left out."""

    @classmethod
    def asked(cls, entries: str | None, holes: str | None) -> Form:
        """Parses the query parameters ``entries=all`` and ``holes=kept``."""
        everything = entries == "all"
        return cls(everything=everything, holes=holes == "kept", notes=everything)

    def query(self) -> str:
        """Formats them as a query string for the agent."""
        words = ("entries=all", self.everything), ("holes=kept", self.holes)
        return "&".join([word for word, asked in words if asked])


FILES_AND_LINKS = Form()
WHOLE = Form(everything=True, holes=True)
"""Without notes, for callers that know what is left out."""


class Span(NamedTuple):
    """A range of one file that has not been read yet."""

    descriptor: int
    """Valid until the next item is requested; its file offset is not used."""
    size: int
    """Bytes, never 0."""
    start: int = 0
    """Where in the file it begins."""


class Writable(Protocol):
    """The destination of an archive; short writes are continued."""

    def write(self, data: bytes, /) -> int | None: ...  # noqa: D102


def pack(
    root: Path,
    sink: Writable | Callable[[bytes], object],
    form: Form = WHOLE,
    *,
    dereference: bool = False,
    links: bool = True,
) -> Summary:
    """Writes the folder as a plain tar stream; the same folder gives the same bytes.

    Entries come in name order with paths relative to `root`. Links stay links, unless `dereference`
    replaces them by their targets, or without `links` they are left out. Hard links become
    files of their own. When `root` is a file, the archive holds that one file under its base name.
    What cannot be packed is left out: see `walk.walk`.

    Raises:
        CannotPack: a loop of links, or a file that changed while it was read.
        OSError: something could not be read; its `filename` says what.
    """
    packer = _Packer(root, form, dereference, links)
    for chunk in packer.stream():
        _write_all(sink, chunk)
    return Summary(packer.files, packer.bytes)


def iter_pack(
    root: Path, form: Form = WHOLE, *, dereference: bool = False, links: bool = True
) -> Iterator[bytes]:
    """The same stream as `pack` in chunks of 256 KiB to 1 MiB (the last may be smaller), for HTTP.

    Raises as `pack` does, at the chunk where it happens: whoever sends them must then break the
    stream.
    """
    return _Packer(root, form, dereference, links).stream()


def iter_spans(root: Path, form: Form) -> Iterator[bytes | Span]:
    """The same stream as `iter_pack` gives, but large files as spans, for the kernel to move.

    Whoever finds a span shorter than it says must break the stream. Raises as `pack` does.
    """
    return _Packer(root, form, dereference=False, links=True).items(spans=True)


def look_through(
    root: Path,
    left_out: Callable[[str, str], object],
    *,
    dereference: bool = False,
    links: bool = True,
) -> int:
    """Visits all that `pack` would visit, but reads no content; gives about the archive's size.

    Args:
        root: as for `pack`.
        left_out: is called with path and kind of each file that cannot be packed.
        dereference: as for `pack`.
        links: as for `pack`.

    Raises:
        CannotPack, OSError: as `pack` would, a file that may not be read included.
    """
    total = len(tar.END_OF_ARCHIVE)
    for found in walk(root, dereference=dereference, links=links):
        if found.left_out is not None:
            left_out(found.path, found.left_out)
            continue
        total += tar.BLOCK
        info = found.info
        if not stat.S_ISREG(info.st_mode):
            continue
        if not os.access(found.name, os.R_OK, dir_fd=found.folder):
            error = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            raise named(error, root, found.path)
        stored = min(info.st_size, info.st_blocks * _STAT_BLOCK)
        total += -(-stored // tar.BLOCK) * tar.BLOCK
    return total


def iter_content_spans(root: Path) -> Iterator[Span]:
    """What `read_concatenated` gives at this moment, unread."""
    for _, descriptor in open_files(root):
        if size := os.fstat(descriptor).st_size:
            yield Span(descriptor, size)


def length_of(chunks: Iterable[bytes | Span]) -> int:
    """How many bytes the chunks are together; nothing of a span is read."""
    return sum(len(chunk) if isinstance(chunk, bytes) else chunk.size for chunk in chunks)


def _write_all(sink: Writable | Callable[[bytes], object], chunk: bytes) -> None:
    if callable(sink):
        sink(chunk)
        return
    written = sink.write(chunk)
    while written is not None and written < len(chunk):
        chunk = chunk[written:]
        written = sink.write(chunk)


class _Packer:
    """One pass over one folder, counting."""

    def __init__(self, root: Path, form: Form, dereference: bool, links: bool) -> None:
        self._root = root
        self._form = form
        self._dereference = dereference
        self._links = links
        self._spans = False
        self.files = 0
        self.bytes = 0

    def stream(self) -> Iterator[bytes]:
        """The archive in chunks, files included."""
        for item in self.items(spans=False):
            assert isinstance(item, bytes)
            yield item

    def items(self, *, spans: bool) -> Iterator[bytes | Span]:
        """Joins headers and small files into chunks of a useful size; large ones pass unchanged."""
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
        for found in walk(self._root, dereference=self._dereference, links=self._links):
            kind = stat.S_IFMT(found.info.st_mode)
            if found.left_out is not None:
                if self._form.notes:
                    yield _header(tar.NOTE, found.path, found.info, link=found.left_out)
            elif kind == stat.S_IFREG:
                yield from self._file(found)
            elif kind == stat.S_IFLNK:
                yield self._link(found)
            elif self._form.everything:
                self.files += kind == stat.S_IFIFO
                is_folder = kind == stat.S_IFDIR
                path = found.path + "/" if is_folder else found.path
                yield _header(tar.FOLDER if is_folder else tar.PIPE, path, found.info)
        yield tar.END_OF_ARCHIVE

    def _link(self, found: Found) -> bytes:
        try:
            target = os.readlink(found.name, dir_fd=found.folder)
        except OSError as error:
            raise named(error, self._root, found.path) from None
        self.files += 1
        return _header(tar.SYMLINK, found.path, found.info, link=target)

    def _file(self, found: Found) -> Iterator[bytes | Span]:
        flags = _READ_FILE & ~os.O_NOFOLLOW if self._dereference else _READ_FILE
        try:
            descriptor = os.open(found.name, flags, dir_fd=found.folder)
        except OSError as error:
            raise named(error, self._root, found.path) from None
        try:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                raise CannotPack("it was replaced while being read", found.path)
            segments = None
            if self._form.holes and info.st_blocks * _STAT_BLOCK < info.st_size:
                segments = sparse.segments_of(descriptor, info.st_size)
            yield _header(tar.FILE, found.path, info, size=info.st_size, segments=segments)
            stored = info.st_size
            if segments is None:
                yield from self._content(descriptor, 0, stored, found.path)
            else:
                stored = sparse.stored_bytes(segments)
                for start, size in sparse.pairs(segments):
                    yield from self._content(descriptor, start, size, found.path)
            if os.fstat(descriptor).st_size != info.st_size:
                raise CannotPack(_CHANGED, found.path)
            yield bytes(-stored % tar.BLOCK)
            self.files += 1
            self.bytes += info.st_size
        finally:
            os.close(descriptor)

    def _content(self, descriptor: int, start: int, size: int, path: str) -> Iterator[bytes | Span]:
        if self._spans and size >= _STREAM_BYTES:
            yield Span(descriptor, size, start)
            return
        end = start + size
        while start < end:
            try:
                chunk = os.pread(descriptor, min(tar.CHUNK, end - start), start)
            except OSError as error:
                raise named(error, self._root, path) from None
            if not chunk:
                raise CannotPack(_CHANGED, path)
            start += len(chunk)
            yield chunk


def _header(
    kind: bytes,
    path: str,
    info: os.stat_result,
    *,
    size: int = 0,
    link: str = "",
    segments: sparse.Segments | None = None,
) -> bytes:
    name, mode = os.fsencode(path), stat.S_IMODE(info.st_mode)
    member = Member(kind, name, os.fsencode(link), mode, int(info.st_mtime), size, segments)
    return tar.encode(member)


def open_files(root: Path) -> Iterator[tuple[str, int]]:
    """Each regular file below the folder in name order: its relative path and a descriptor.

    Links are not followed. A descriptor is closed when the next file is asked for.
    """
    for found in walk(root):
        if found.left_out is not None or not stat.S_ISREG(found.info.st_mode):
            continue
        descriptor = os.open(found.name, _READ_FILE, dir_fd=found.folder)
        try:
            yield found.path, descriptor
        finally:
            os.close(descriptor)


def read_concatenated(root: Path) -> Iterator[bytes]:
    """The content of all regular files below the folder, in name order, in chunks of at most 1 MiB.

    A file that grows meanwhile is read up to where it ends when its turn is over.
    """
    for _, descriptor in open_files(root):
        while chunk := os.read(descriptor, tar.CHUNK):
            yield chunk
