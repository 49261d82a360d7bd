"""Progress bars of transfers: on stderr, on a terminal, and only if the user wants them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
)


@contextmanager
def transfer_bar(
    label: str, total_bytes: int | None, *, quiet: bool
) -> Iterator[Callable[[int], None]]:
    """Shows a bar while the block runs; call what it gives with the bytes that went through.

    With an unknown total (None) the bar shows how much and how fast. Without a terminal on stderr,
    or when quiet, nothing is shown.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda _count: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    console = Console(stderr=True)
    with Progress(*columns, TransferSpeedColumn(), console=console, transient=True) as progress:
        task = progress.add_task(label, total=total_bytes)
        yield lambda count: progress.advance(task, count)
