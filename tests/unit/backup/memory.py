"""An installation and a destination in memory, and one whose writer dies at a given operation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from knit_workflows.backup.frames import Frame
from knit_workflows.backup.installation import Found
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.volumes import (
    VolumeAbsent,
    VolumeOccupied,
    Wanted,
    read_volumes,
    write_volumes,
)
from knit_workflows.domain.volumes import Volume


class Killed(BaseException):
    """The process is gone: nothing of it goes on."""


class Objects:
    """A destination in memory. `dies_at`: the change at which its writer is killed."""

    def __init__(self, content: dict[str, bytes] | None = None, dies_at: int | None = None) -> None:
        self.content = {} if content is None else content
        self.shown = "memory"
        self.changes = 0
        self._dies_at = dies_at
        self._dead = False

    def _change(self) -> None:
        if self._dead or self.changes == self._dies_at:
            self._dead = True
            raise Killed
        self.changes += 1

    def read(self, name: str) -> bytes | None:
        return self.content.get(name)

    def write(self, name: str, content: bytes) -> None:
        self._change()
        self.content[name] = bytes(content)

    def remove(self, name: str) -> None:
        self._change()
        self.content.pop(name, None)

    def names(self, prefix: str) -> Iterator[str]:
        yield from [name for name in self.content if name.startswith(prefix)]

    def settle(self) -> None:
        pass

    @contextmanager
    def locked(self) -> Iterator[Objects]:
        yield self

    @contextmanager
    def held(self) -> Iterator[None]:
        yield

    def require(self) -> None:
        pass


class Silent:
    """A watcher that only counts."""

    def __init__(self) -> None:
        self.bytes = 0

    def begins(self, what: str, volumes: int, known: int) -> None:
        pass

    def moved(self, size: int) -> None:
        self.bytes += size

    def finished(self, volumes: int) -> None:
        pass


@dataclass
class Knit:
    """An installation: the content of each volume by its Data, and one table."""

    archives: dict[str, bytes] = field(default_factory=dict)
    rows: bytes = b""
    adopted: frozenset[str] = frozenset()
    without_volume: frozenset[str] = frozenset()
    """Data whose volumes are missing."""
    others: dict[str, str] = field(default_factory=dict)
    """The names of volumes that are not called after their Data."""
    deleted: set[str] = field(default_factory=set)
    """Data that are deleted once the database has been read."""
    loaded: list[Frame] = field(default_factory=list)
    read_ids: list[str] = field(default_factory=list)
    revision: str = "0012"
    restored: str | None = None
    dies_after: int | None = None
    """So many volumes are made before the process is killed."""
    shown: str = "a knit in memory"
    at_once: int = 1

    def database(self) -> Iterator[Frame]:
        yield {"at": "2026-01-01T00:00:00.000Z", "revision": self.revision, "under_way": 2}
        yield {"table": "run", "columns": ["a", "b"]}
        yield self.rows
        yield {"rows": self.rows.count(b"\n")}
        yield {"sequences": {"s": 7}}
        yield {"volumes": True}
        for knit_id in [*self.archives, *self.without_volume]:
            wanted = {
                "knit_id": knit_id,
                "volume": self.others.get(knit_id, f"data-knitid-{knit_id}"),
                "owned": knit_id not in self.adopted,
                "must_be_there": not knit_id.startswith("failed"),
            }
            yield json.dumps(wanted).encode() + b"\n"
        yield {"end": True}

    def still_there(self, knit_ids: Sequence[str]) -> set[str]:
        return set(knit_ids) - self.deleted

    def volumes(self, wanted: Sequence[Wanted]) -> Iterator[Frame]:
        self.read_ids += [one.knit_id for one in wanted]
        yield from read_volumes(self, wanted)  # type: ignore[arg-type]

    def look(self) -> Found:
        used = {"Data": len(self.archives) if self.loaded else 0}
        return Found(self.revision, used, self.restored)

    def make_volumes(self, frames: Iterable[Frame]) -> Iterator[dict[str, Any]]:
        for told in write_volumes(self, frames):  # type: ignore[arg-type]
            yield told
            if self.dies_after is not None:
                self.dies_after -= 1
                if not self.dies_after:
                    raise Killed

    def load(self, frames: Iterable[Frame]) -> dict[str, int]:
        loaded = list(frames)  # all of it, or nothing
        if self.loaded:
            raise BackupProblem("it is in use")
        self.loaded = loaded
        assert isinstance(loaded[0], dict)
        self.restored = loaded[0]["set"]
        return {}

    # --- its volumes ----------------------------------------------------------------------------

    def read(self, volume: Volume) -> Iterator[bytes]:
        if volume.knit_id not in self.archives:
            raise VolumeAbsent(f"there is no volume {volume.name}")
        archive = self.archives[volume.knit_id]
        yield from (archive[at : at + 1000] for at in range(0, len(archive), 1000))

    def capacity(self, volume: Volume) -> int | None:
        return 1 << 30

    def room_for(self, size: int) -> str | None:
        return None

    def write(self, volume: Volume, archive: Iterator[bytes]) -> None:
        if volume.knit_id in self.archives:
            raise VolumeOccupied
        self.archives[volume.knit_id] = b"".join(archive)

    def settle(self) -> None:
        pass

    def expect(self, volumes: Sequence[Volume], *, to_write: bool) -> None:
        pass
