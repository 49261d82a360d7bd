"""Images of an installation's own registry in a set: blobs, and the links that name them.

A blob is stored once and never read again: its name is the digest of what it holds, as OCI's image
specification says. Links say which repositories have which manifests, layers and tags; they are
small, and read each time. They are read before the blobs, and written after them, so that what a
link names is there on both ways, while images are pushed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, Self

from knit_workflows.backup.blobs import Piece, Reader, Writer, pieces_of
from knit_workflows.backup.problems import BackupProblem, Damaged
from knit_workflows.backup.watching import Watcher


class Registry(Protocol):
    """Where a registry keeps its images. All methods raise BackupProblem."""

    def links(self) -> Iterator[bytes]:
        """Gives all links, as an archive that `write_links` takes."""

    def blobs(self) -> Mapping[str, int]:
        """Gives the bytes of each blob by its digest, hexadecimal digits of a SHA-256."""

    def read(self, digests: Sequence[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Gives the contents of blobs, each to be read before the next one, in any order."""

    def write(self, contents: Iterable[tuple[str, int, Iterator[bytes]]]) -> None:
        """Writes blobs: each has a digest, its bytes, and its content."""

    def write_links(self, archive: Iterator[bytes]) -> None:
        """Writes links; those that are there and not in the archive stay."""

    def whole(self) -> Iterator[bytes]:
        """Gives all that the registry keeps, as an archive of its volume."""


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
        """Reads such a line."""
        digest, pieces = json.loads(line)
        return cls(digest, tuple(Piece(sha256, size) for sha256, size in pieces))


@dataclass(frozen=True)
class TakenImages:
    """What of a registry is in a set; `read`: the blobs that earlier sets did not have."""

    all: tuple[Stored, ...]
    read: int

    @property
    def blobs(self) -> int:
        """How many blobs there are."""
        return max(0, len(self.all) - 1)


def take_images(
    registry: Registry, writer: Writer, known: Mapping[str, Stored], watcher: Watcher
) -> TakenImages:
    """Stores links, and the blobs that are not `known`.

    Raises:
        BackupProblem: a blob was removed meanwhile, or is not what its digest says.
    """
    links = _stored(writer, registry.links())
    there = registry.blobs()
    kept = {digest: known[digest] for digest in there if digest in known}
    watcher.begins("images", len(there), len(kept))
    waiting: dict[str, list[Future[Piece]]] = {}
    missing = [digest for digest in there if digest not in kept]
    for digest, content in registry.read(missing) if missing else ():
        whole = watched(checked(digest, content, advice=_IN_REGISTRY), watcher)
        waiting[digest] = [writer.put(piece) for piece in pieces_of(whole)]
        watcher.finished(1)
    if lacking := [digest for digest in missing if digest not in waiting]:
        raise BackupProblem(
            f"{len(lacking):,} blobs of the registry were removed while they were to be read",
            reason=f"the first is sha256:{lacking[0]}",
            advice="repeat the command: it goes on from here",
        )
    read = [Stored(one, tuple(each.result() for each in waiting[one])) for one in missing]
    return TakenImages((Stored("", links), *kept.values(), *read), len(read))


def write_images(
    registry: Registry, reader: Reader, images: Sequence[Stored], watcher: Watcher
) -> int:
    """Writes blobs that are not there, then the links; gives the number of the former.

    A second call writes what is still missing.

    Raises:
        BackupProblem: not all of it could be written. Without links nobody sees the blobs.
        Damaged: a blob is not what its digest says.
    """
    there = registry.blobs()
    blobs = [one for one in images if one.digest]
    missing = [one for one in blobs if there.get(one.digest) != one.size]
    watcher.begins("images", len(blobs), len(blobs) - len(missing))

    def contents() -> Iterator[tuple[str, int, Iterator[bytes]]]:
        for one in missing:
            content = checked(one.digest, reader.stream(one.pieces), advice=_IN_SET)
            yield one.digest, one.size, watched(content, watcher)
            watcher.finished(1)

    if missing:
        registry.write(contents())
    for one in images:
        if not one.digest:
            registry.write_links(reader.stream(one.pieces))
    # Also after the links: before them a collection of garbage takes blobs for unused.
    there = registry.blobs()
    if lacking := [one.digest for one in blobs if there.get(one.digest) != one.size]:
        raise BackupProblem(
            f"{len(lacking):,} blobs are not in the registry although they were written",
            reason=f"the first is sha256:{lacking[0]}; a garbage collection may have removed them",
            advice="repeat the command: it writes what is missing",
        )
    return len(missing)


def check_images(reader: Reader, images: Sequence[Stored], watcher: Watcher) -> int:
    """Reads all of it, and gives its bytes; raises Damaged."""
    for one in images:
        content = reader.stream(one.pieces)
        whole = checked(one.digest, content, advice=_IN_SET) if one.digest else content
        for part in whole:
            watcher.moved(len(part))
    return sum(one.size for one in images)


_IN_REGISTRY = "the registry's own volume is damaged: push the image again, then repeat the command"
_IN_SET = "restore another set (--set), or leave --images out"


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


def _stored(writer: Writer, content: Iterable[bytes]) -> tuple[Piece, ...]:
    return tuple(one.result() for one in [writer.put(piece) for piece in pieces_of(content)])
