"""Shows how far a backup or a restore is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from knit_cli.output import say

_EVERY: Final = 30.0


class Bar:
    """Implements `backup.watching.Watcher`."""

    def __init__(self, *, quiet: bool) -> None:
        console = Console(stderr=True)
        self._shows = console.is_terminal and not quiet
        self._says = not console.is_terminal and not quiet
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("volumes, {task.fields[moved]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._volumes: TaskID | None = None
        self._name = ""
        self._count = 0
        self._done = 0
        self._bytes = 0
        self._said = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows it while the block runs."""
        if not self._shows:
            yield
            return
        with self._progress:
            yield

    def begins(self, what: str, volumes: int, known: int) -> None:
        """See `Watcher`."""
        self._name, self._count, self._done, self._bytes = what, volumes, known, 0
        self._volumes = self._progress.add_task(what, total=volumes, completed=known, moved="")
        if self._says and known:
            say(f"{what}: {known:,} of {volumes:,} volumes are there already")

    def moved(self, size: int) -> None:
        """See `Watcher`."""
        self._bytes += size
        if self._volumes is not None:
            self._progress.update(self._volumes, moved=f"{self._bytes / (1 << 20):,.0f} MiB")
        self._tell()

    def finished(self, volumes: int) -> None:
        """See `Watcher`."""
        self._done += volumes
        if self._volumes is not None:
            self._progress.update(self._volumes, completed=self._done)
        self._tell()

    def _tell(self) -> None:
        if self._says and time.monotonic() - self._said > _EVERY:
            self._said = time.monotonic()
            say(
                f"{self._name}: {self._done:,} of {self._count:,} volumes, "
                f"{self._bytes / (1 << 20):,.0f} MiB"
            )
