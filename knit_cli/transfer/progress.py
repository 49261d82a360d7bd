"""Progress bars of transfers: on stderr, on a terminal, and only if the user wants them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from knit_cli.errors import printable


class Meter(Protocol):
    """Receives progress; may be called from any thread."""

    def add(self, count: int) -> None:
        """Adds bytes that were transferred."""

    def restart(self) -> None:
        """Resets the count, because the transfer starts over."""


class Silent:
    """A meter that shows nothing."""

    def add(self, count: int) -> None:
        """Does nothing."""

    def restart(self) -> None:
        """Does nothing."""


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def add(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def restart(self) -> None:
        self._progress.reset(self._task)


@contextmanager
def transfer_bar(label: str, total_bytes: int | None, *, quiet: bool) -> Iterator[Meter]:
    """Shows bytes, rate and time during the block; report progress to the meter it yields.

    With a known total it shows the time left, without one (None) the elapsed time. Nothing is shown
    if stderr is not a terminal, or if quiet. The bar disappears afterwards.
    """
    if quiet or not sys.stderr.isatty():
        yield Silent()
        return
    time_column: ProgressColumn = TimeElapsedColumn()
    if total_bytes is not None:
        time_column = TimeRemainingColumn()
    with Progress(
        TextColumn("{task.description}", markup=False),  # a file name may look like markup
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        time_column,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # stdout is for results only
    ) as progress:
        yield _Bar(progress, progress.add_task(printable(label), total=total_bytes))
