"""How the embedded stack looks on a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from knit_cli.dev.services import LOOPBACK, api_root
from knit_cli.dev.state import DevState, Ports, StateFolder
from knit_cli.dev.supervisor import Child, Supervisor

_STYLES = {"ready": "green", "starting": "yellow", "stopped": "red"}


def live(supervisor: Supervisor, folder: StateFolder) -> RenderableType:
    """Give the picture of a running supervisor: one row per process, addresses below."""
    rows = [_row(child) for child in supervisor.children]
    state = "ready" if supervisor.ready else "starting"
    return Group(
        Text.assemble("knit is ", (state, _STYLES[state])),
        _table([("postgres", "ready", "", ""), *rows]),
        addresses(supervisor.ports),
        Text(f"state and logs in {folder.root}; Ctrl-C ends it, nothing is lost", style="dim"),
    )


def still(state: DevState) -> RenderableType:
    """Give the picture of a stack as its record and its processes tell."""
    rows = []
    for name, mark in state.processes.items():
        process = mark.process()
        since = _span(time.time() - mark.started) if process else ""
        rows.append((name, "ready" if process else "stopped", since, str(mark.pid)))
    return Group(_table(rows), addresses(state.ports))


def addresses(ports: Ports) -> RenderableType:
    """Give where the API and Temporal's Web UI listen."""
    return Text.assemble(
        ("API              ", "bold"),
        api_root(ports),
        ("\nTemporal Web UI  ", "bold"),
        f"http://{LOOPBACK}:{ports.web_ui}",
        ("\nTemporal         ", "bold"),
        f"{LOOPBACK}:{ports.temporal}",
    )


def _row(child: Child) -> tuple[str, str, str, str]:
    since = _span(time.monotonic() - child.since) if child.process else ""
    restarts = f"{since}, restarted {child.restarts}×" if child.restarts else since
    return (
        child.service.name,
        child.state,
        restarts,
        str(child.process.pid) if child.process else "",
    )


def _table(rows: Sequence[tuple[str, str, str, str]]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for heading in ("process", "state", "for", "pid"):
        table.add_column(heading)
    for name, state, since, pid in rows:
        table.add_row(name, Text(state, style=_STYLES[state]), since, pid)
    return table


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
