"""Describes a Run for people: why it waits, what it used, its recent history."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from knit_cli.errors import printable
from knit_workflows.domain.instants import format_instant
from knit_workflows.domain.runs.run import KNIT
from knit_workflows.wire.base import to_wire
from knit_workflows.wire.options import MadeVolume, Pod
from knit_workflows.wire.runs import Exit, HookWait, Run, RunEvent, RunTiming, Used, Waiting

_BAR_CELLS = 30
_LATEST = 5  # changes in the short history; `--events` shows all


def remarks(run: Run, events: list[RunEvent]) -> list[str]:
    """Gives the lines shown after a Run's JSON: why it waits, what it used, how it went."""
    lines = [f"{run.status}: {_waiting(run.waiting)}"] if run.waiting else []
    lines += _hook(run.waiting.hook) if run.waiting and run.waiting.hook else []
    lines += _used(run.used, run.plan.image or "") if run.used else []
    lines += run.notes
    if len(events) > _LATEST:
        lines.append(f"… show all with `knit run show --events {run.run_id}`")
    return lines + [_line(event) for event in events[-_LATEST:]]


def _waiting(waiting: Waiting) -> str:
    parts = [f"[{waiting.code}] {waiting.reason}" if waiting.code else waiting.reason]
    if waiting.since:
        parts.append(f"since {_when(waiting.since)}")
    if waiting.outlook:
        parts.append(waiting.outlook)
    if waiting.until:
        parts.append(f"given up at {_when(waiting.until)}")
    return "; ".join(parts)


def _hook(hook: HookWait) -> list[str]:
    next_try = f"the next try is at {_when(hook.next_at)}" if hook.next_at else "it is asked now"
    tries = f"asked {hook.attempts} time{'' if hook.attempts == 1 else 's'}"
    return [
        f"before → {hook.to_status}: {tries}, {next_try}",
        f"go on without it: knit hook skip {hook.delivery} --reason …",
    ]


def _used(used: Used, image: str) -> list[str]:
    parts = [f"{name} {quantity}" for name, quantity in sorted(used.resources.items())]
    if used.service_account:
        parts.append(f"service account {used.service_account}")
    if used.image_digest:
        parts.append(f"image {used.image_digest}")
    lines = [f"used: {', '.join(parts)}"] if parts else []
    lines += launched_with(used)
    pinned = image.partition("@")[2]
    if pinned and used.image_digest and pinned != used.image_digest.rpartition("@")[2]:
        lines.append(
            f"the Plan pins {pinned}, but another digest ran: it may be that of the same image "
            "under another name, or of its manifest for one platform"
        )
    return lines


def launched_with(used: Used) -> list[str]:
    """Gives a line about the options of the pod, and one about each volume, if there are any."""
    lines = [f"pod made with {_options(used.pod)}"] if used.pod else []
    return lines + [
        f"volume of {path} made with {_options(volume)}" for path, volume in used.volumes.items()
    ]


def _options(options: Pod | MadeVolume) -> str:
    parts = to_wire(options).items()
    return ", ".join(f"{key} {_text(value)}" for key, value in parts)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={_text(one)}" for key, one in value.items())
    return "; ".join(map(_text, value)) if isinstance(value, list) else str(value)


def print_history(events: Iterable[RunEvent]) -> None:
    """Prints a history to stdout as a table, oldest change first."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("when", "change"):
        table.add_column(heading, no_wrap=True)
    for heading in ("why", "by", "exit"):
        table.add_column(heading, overflow="fold")  # nothing is cut off, such as the URL of a hook
    for event in events:
        # Text, not markup: a cause may contain brackets.
        table.add_row(*map(Text, map(printable, _cells(event))))
    Console(highlight=False).print(table)


def print_timing(timing: RunTiming) -> None:
    """Prints where the time of a Run went to stdout as a table, in order."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("phase", no_wrap=True)
    table.add_column("ms", no_wrap=True, justify="right")
    table.add_column("", no_wrap=True)
    longest = max((one.milliseconds for one in timing.phases), default=0) or 1
    for one in timing.phases:
        bar = "█" * round(_BAR_CELLS * one.milliseconds / longest)
        table.add_row(one.phase, f"{one.milliseconds:,}", Text(bar, style="cyan"))
    table.add_row("total", f"{timing.milliseconds:,}", timing.status)
    Console(highlight=False).print(table)


def _line(event: RunEvent) -> str:
    when, change, why, by, ending = _cells(event)
    return " ".join(filter(None, (when, change, why, by and f"by {by}", ending)))


def _cells(event: RunEvent) -> tuple[str, str, str, str, str]:
    stays = event.from_status in (None, event.to_status)
    change = event.to_status if stays else f"{event.from_status} → {event.to_status}"
    by = "" if event.actor == KNIT else event.actor
    # Also of executions that the Run itself no longer tells of.
    why = "; ".join((event.cause, *(launched_with(event.used) if event.used else ())))
    return _when(event.at), change, why, by, _exit_parts(event.exit)


def _when(instant: datetime) -> str:
    return format_instant(instant.astimezone())


def _exit_parts(ending: Exit | None) -> str:
    if ending is None:
        return ""
    return f"{ending.code}: {ending.message}" if ending.message else str(ending.code)
