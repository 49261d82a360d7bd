"""What is shown again and again: on a terminal in place, elsewhere as lines of JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.segment import SegmentLines
from rich.text import Text

from knit_cli.output import print_text

T = TypeVar("T")

Watch = Annotated[
    bool, typer.Option("--watch", "-w", help="Show it again and again, until Ctrl-C.")
]
Every = Annotated[
    float,
    typer.Option("--every", min=0.5, max=3600, metavar="SECONDS", help="With --watch: how often."),
]


def watch(
    take: Callable[[], T],
    render: Callable[[T], RenderableType],
    as_json: Callable[[T], Any],
    *,
    every: float,
    lines: bool,
) -> None:
    """Takes and shows until it is interrupted, or `take` raises.

    What is higher than the terminal is shown without its end.

    Args:
        take: asks once more.
        render: shows it on a terminal.
        as_json: gives plain values of it.
        every: seconds between two turns.
        lines: whether each turn is one line of JSON, for scripts.
    """
    if lines or not sys.stdout.isatty():
        while True:
            print_text(json.dumps(as_json(take()), ensure_ascii=False))
            time.sleep(every)
    with Live(auto_refresh=False) as live:
        while True:
            live.update(fitted(render(take()), live.console), refresh=True)
            time.sleep(every)


def fitted(shown: RenderableType, console: Console) -> RenderableType:
    """Leaves out the lines at the end for which there is no room, and says how many."""
    lines = console.render_lines(shown, pad=False)
    room = console.size.height
    if len(lines) <= room:
        return shown
    left_out = len(lines) - (room - 1)
    return Group(
        SegmentLines(lines[: room - 1], new_lines=True),
        Text(
            f"… {left_out} more lines: without --watch all are shown",
            "dim",
            overflow="ellipsis",
            no_wrap=True,
        ),
    )
