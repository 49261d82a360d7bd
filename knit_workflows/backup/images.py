"""Images of an installation's own registry in a set: blobs, and the links that name them.

A blob is stored once and never read again: its name is the digest of what it holds, as OCI's image
specification says. Links say which repositories have which manifests, layers and tags; they are
small, and read each time. They are read before the blobs, and written after them, so that what a
link names is there on both ways, while images are pushed.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import IO, Final, Protocol, Self, cast

from knit_workflows.backup.blobs import PIECE, Piece, Reader, Writer, pieces_of
from knit_workflows.backup.problems import BackupProblem, Damaged
from knit_workflows.backup.streams import Stream
from knit_workflows.backup.watching import Watcher

_LINK: Final = re.compile(r"repositories/(?!(?:.*/)?(?:\.\.|_uploads)/).+/link")
"""Not what is just being pushed, of which nobody else knows, nor what leads elsewhere."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_LARGEST_LINK: Final = 4096
_BLOCK: Final = 512
_CHUNK: Final = 1 << 20


class Registry(Protocol):
    """Where a registry keeps its images. All methods raise BackupProblem."""

    def links(self) -> Mapping[str, bytes]:
        """Gives what each link says, by its name, as `is_link` has it."""

    def link_names(self) -> set[str]:
        """Gives the names of all links."""

    def blobs(self) -> Mapping[str, int]:
        """Gives the bytes of each blob by its digest, hexadecimal digits of a SHA-256."""

    def read(self, digests: Sequence[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Gives the contents of blobs, each to be read before the next one, in any order."""

    def write(self, contents: Iterable[tuple[str, int, Iterator[bytes]]]) -> None:
        """Writes blobs: each has a digest, its bytes, and its content, which is read to its end."""

    def write_links(self, links: Mapping[str, bytes]) -> None:
        """Writes links; others that are there stay."""


@dataclass(frozen=True)
class Stored:
    """A blob in a set, or with an empty digest the archive of all links."""

    digest: str
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return sum(one.size for one in self.pieces)

    def line(self) -> bytes:
        """Gives it as a line of JSON."""
        return json.dumps([self.digest, self.pieces], separators=(",", ":")).encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Self:
        """Reads such a line; raises Damaged."""
        digest, pieces = json.loads(line)
        if digest and not _DIGEST.fullmatch(digest):
            raise Damaged("the index of images names what is no digest")
        return cls(digest, tuple(Piece(sha256, size) for sha256, size in pieces))


@dataclass(frozen=True)
class TakenImages:
    """What of a registry is in a set.

    `read`: the blobs that earlier sets did not have. `unreadable`: those that are not what their
    digest says, and why.
    """

    all: tuple[Stored, ...] = ()
    read: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def blobs(self) -> int:
        """How many blobs there are."""
        return max(0, len(self.all) - 1)


def take_images(
    registry: Registry, writer: Writer, known: Mapping[str, Stored], watcher: Watcher
) -> TakenImages:
    """Stores links, and the blobs that are not `known`; a rotten one is left out, and said.

    Raises:
        BackupProblem: a blob was removed meanwhile, or the registry cannot be read.
    """
    links = registry.links()
    there = registry.blobs()
    kept = {
        digest: found
        for digest, size in there.items()
        if (found := known.get(digest) or _in_one_piece(digest, size, writer)) is not None
    }
    watcher.begins("images", len(there), len(kept))
    unreadable: dict[str, str] = {}
    waiting: dict[str, list[Future[Piece]]] = {}
    missing = [digest for digest in there if digest not in kept]
    for digest, content in registry.read(missing) if missing else ():
        whole = watched(checked(digest, content, advice=""), watcher)
        try:
            waiting[digest] = [writer.put(piece) for piece in pieces_of(whole)]
        except Damaged as damaged:
            unreadable[digest] = damaged.reason
        watcher.finished(1)
    read = [one for one in missing if one not in unreadable]
    if lacking := [one for one in read if one not in waiting]:
        raise BackupProblem(
            f"{len(lacking):,} blobs of the registry were removed while they were to be read",
            reason=f"the first is sha256:{lacking[0]}",
            advice="repeat the command: what is stored is not stored again",
        )
    stored = [Stored("", tuple(one.result() for one in map(writer.put, pieces_of(packed(links)))))]
    stored += kept.values()
    stored += [Stored(one, tuple(each.result() for each in waiting[one])) for one in read]
    return TakenImages(tuple(stored), len(read), unreadable)


def _in_one_piece(digest: str, size: int, writer: Writer) -> Stored | None:
    """Gives a blob that is one piece, which has its digest, if that is there already.

    A blob of another size than the piece is rotten in the registry: whoever reads it says so.
    """
    if 0 < size <= PIECE and writer.size_of(digest) == size:
        return Stored(digest, (Piece(digest, size),))
    return None


def write_images(
    registry: Registry,
    reader: Reader,
    images: Sequence[Stored],
    watcher: Watcher,
    *,
    replaces: bool,
) -> int:
    """Writes blobs that are not there, then the links; gives the number of the former.

    `replaces`: links that are there say afterwards what those of the set do. A second call writes
    what is still missing.

    Raises:
        BackupProblem: not all of it could be written. Without links nobody sees the blobs.
        Damaged: a blob is not what its digest says.
    """
    blobs = {one.digest: one for one in images if one.digest}
    there = registry.blobs()
    missing = [one for one in blobs.values() if there.get(one.digest) != one.size]
    watcher.begins("images", len(blobs), len(blobs) - len(missing))
    registry.write(
        (digest, size, watched(content, watcher))
        for digest, size, content in _contents(reader, missing, watcher)
    )
    for one in images:
        if not one.digest:
            put_links(registry, unpacked(reader.stream(one.pieces)), replaces=replaces)
    require_blobs(registry, {digest: one.size for digest, one in blobs.items()})
    return len(missing)


def check_images(reader: Reader, images: Sequence[Stored], watcher: Watcher) -> int:
    """Reads all of it, and gives its bytes; raises Damaged."""
    blobs = [one for one in images if one.digest]
    for _, _, content in _contents(reader, blobs, watcher):
        for part in content:
            watcher.moved(len(part))
    for one in images:
        if not one.digest:
            unpacked(reader.stream(one.pieces))
    return sum(one.size for one in images)


def _contents(
    reader: Reader, blobs: Sequence[Stored], watcher: Watcher
) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """Gives the contents of blobs, each to be read to its end, some read ahead."""
    pieces = reader.stream(piece for one in blobs for piece in one.pieces)
    for one in blobs:
        content = islice(pieces, len(one.pieces))
        yield one.digest, one.size, checked(one.digest, content, advice=_IN_SET)
        watcher.finished(1)


_IN_SET: Final = "restore another set (--set), or leave --images out"


def put_links(registry: Registry, links: Mapping[str, bytes], *, replaces: bool) -> None:
    """Writes links; without `replaces` only those that are not there."""
    if links and not replaces:
        present = registry.link_names()
        links = {name: said for name, said in links.items() if name not in present}
    if links:
        registry.write_links(links)


def require_blobs(registry: Registry, wanted: Mapping[str, int]) -> None:
    """Raises BackupProblem if not all blobs are there.

    Asked after the links are: before them a collection of garbage takes blobs for unused.
    """
    there = registry.blobs()
    if lacking := [digest for digest, size in wanted.items() if there.get(digest) != size]:
        raise BackupProblem(
            f"{len(lacking):,} blobs are not in the registry although they were written",
            reason=f"the first is sha256:{lacking[0]}; a garbage collection may have removed them",
            advice="repeat the command: it writes what is missing",
        )


def is_link(name: str, size: int) -> bool:
    """Says whether a file of a registry, below its root, is a link."""
    return size <= _LARGEST_LINK and _LINK.fullmatch(name) is not None


def packed(links: Mapping[str, bytes]) -> Iterator[bytes]:
    """Gives links as an archive, the same for the same links."""
    for name in sorted(links):
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(links[name]), 0o644
        padding = bytes(-member.size % _BLOCK)
        yield member.tobuf(tarfile.GNU_FORMAT) + links[name] + padding
    yield bytes(2 * _BLOCK)


def unpacked(archive: Iterator[bytes]) -> dict[str, bytes]:
    """Gives the links in an archive, and nothing else of it; raises Damaged."""
    return {
        name: b"".join(content)
        for name, size, content in files_of(archive, several=True)
        if is_link(name, size)
    }


def files_of(
    chunks: Iterator[bytes], *, several: bool = False
) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """Gives the files of an archive, or of `several` that follow each other.

    Each has a name, its bytes, and its content, to be read before the next one. All chunks are
    read.

    Raises:
        Damaged: it is cut or no archive; also where a content is read.
    """
    first = next(filter(None, chunks), b"")
    if not first:
        return
    stream = cast("IO[bytes]", Stream(chain([first], chunks)))
    with (
        _explained(),
        tarfile.open(fileobj=stream, mode="r|", ignore_zeros=several) as archive,
    ):
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            if file is not None:
                yield member.name, member.size, _parts(file)
    for _ in chunks:
        pass


def _parts(file: IO[bytes]) -> Iterator[bytes]:
    with _explained():
        yield from iter(partial(file.read, _CHUNK), b"")


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except tarfile.TarError as cause:
        raise Damaged(
            "an archive of images is cut or damaged",
            reason=str(cause),
            advice="repeat the command; if it stays so, leave --images out",
        ) from cause


def add_file(archive: tarfile.TarFile, name: str, size: int, content: Iterator[bytes]) -> None:
    """Adds a file of so many bytes to an archive, and reads its content to the end."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    archive.addfile(member, _Content(content))
    for _ in content:  # at whose end its digest is compared
        pass


class _Content:
    """Content that comes in parts, as a file."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = memoryview(b"")

    def read(self, size: int = 0, /) -> bytes:
        """Gives so many bytes, fewer at the end."""
        given: list[memoryview] = []
        while size and (self._rest or self._next()):
            given.append(self._rest[:size])
            self._rest = self._rest[size:]
            size -= len(given[-1])
        return b"".join(given)

    def _next(self) -> bool:
        self._rest = memoryview(next(self._parts, b""))
        return bool(self._rest)


def checked(digest: str, content: Iterable[bytes], *, advice: str) -> Iterator[bytes]:
    """Gives the content of a blob; raises Damaged at its end if it is another one.

    `advice`: what to do then.
    """
    found = hashlib.sha256()
    for part in content:
        found.update(part)
        yield part
    if found.hexdigest() != digest:
        raise Damaged(
            f"the blob sha256:{digest} is not what it was",
            reason=f"its content has the digest sha256:{found.hexdigest()}",
            advice=advice,
        )


def watched(content: Iterable[bytes], watcher: Watcher) -> Iterator[bytes]:
    """Gives the content, of which a watcher hears."""
    for part in content:
        watcher.moved(len(part))
        yield part
