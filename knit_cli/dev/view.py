"""Shows the embedded stack on a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from knit_cli.dev.child_process import ChildProcess
from knit_cli.dev.dev_folder import DevFolder, DevState, Ports, ProcessIdentity
from knit_cli.dev.ports import LOOPBACK
from knit_cli.dev.services import api_root
from knit_cli.dev.supervisor import Supervisor
from knit_workflows.compute.local.folders import StateFolder
from knit_workflows.disk import DiskSpace, Reserve, format_bytes

_STYLES = {"ready": "green", "starting": "yellow", "stopped": "red"}


def live(supervisor: Supervisor, folder: DevFolder) -> RenderableType:
    """Shows a running supervisor: a row per process, then the addresses."""
    state = "ready" if supervisor.ready else "starting"
    return Group(
        Text.assemble("knit is ", (state, _STYLES[state])),
        _table([_row(child) for child in supervisor.children]),
        addresses(supervisor.ports),
        Text(f"state and logs in {folder.root}; Ctrl-C stops it, nothing is lost", style="dim"),
    )


def snapshot(record: DevState) -> RenderableType:
    """Shows a stack by its record and its processes."""
    rows = [_still_row(name, mark, record) for name, mark in record.processes.items()]
    return Group(_table(rows), addresses(record.ports))


def addresses(ports: Ports) -> RenderableType:
    """Shows where the API and Temporal's Web UI listen."""
    return Text.assemble(
        ("API              ", "bold"),
        api_root(ports),
        ("\nTemporal Web UI  ", "bold"),
        f"http://{LOOPBACK}:{ports.web_ui}",
        ("\nTemporal         ", "bold"),
        f"{LOOPBACK}:{ports.temporal}",
    )


def disk_facts(folder: DevFolder, record: DevState) -> dict[str, object]:
    """Gives the free space of a running stack's disk in bytes, and its state in a word."""
    room = DiskSpace.of(folder.root)
    floor = room.share(record.floor)
    below = "full" if room.is_almost_full else "low"
    return {
        "folder": str(folder.root),
        "state": "ok" if room.free >= floor else below,
        "freeBytes": room.free,
        "floorBytes": floor,
        "reserveBytes": Reserve(folder.reserve).size(),
        "trashOfOthersBytes": StateFolder(folder.compute).trash_of_others(),
    }


def trash_lines(folder: DevFolder) -> list[RenderableType]:
    """Says what of the trash other users must free, such as the root of a container engine."""
    state = StateFolder(folder.compute)
    stuck = state.trash_of_others()
    if not stuck:
        return []
    text = f"{format_bytes(stuck)} belong to other users and cannot be freed by knit"
    free = f"; free them: {state.removal_of_trash()}"
    return [Text.assemble(("Trash            ", "bold"), (text, "yellow"), free)]


def disk_line(folder: DevFolder, record: DevState) -> RenderableType:
    """Shows the same as a line for people."""
    room = DiskSpace.of(folder.root)
    floor = format_bytes(room.share(record.floor))
    reserve = format_bytes(Reserve(folder.reserve).size())
    if disk_facts(folder, record)["state"] == "ok":
        text = (
            f"{format_bytes(room.free)} free; nothing new begins below {floor}; reserve {reserve}"
        )
        return Text.assemble(("Disk             ", "bold"), text)
    text = f"{room.left()}, less than {floor}: uploads are refused, new Runs wait"
    hint = f"; reserve {reserve}; make room, for example with `knit run rm`"
    return Text.assemble(("Disk             ", "bold"), (text, "red"), hint)


def _row(child: ChildProcess) -> tuple[str, str, str, str]:
    since = _span(time.monotonic() - child.since) if child.process else ""
    if child.restarts:
        since = f"{since}, restarted {child.restarts}×".removeprefix(", ")
    if child.state == "stopped" and child.last_error:
        since += f": {child.last_error.splitlines()[-1][:100]}"
    return child.name, child.state, since, str(child.process.pid) if child.process else ""


def _still_row(name: str, mark: ProcessIdentity, record: DevState) -> tuple[str, str, str, str]:
    process = mark.process()
    if process is None:
        return name, "stopped", "", ""
    since = _span(time.time() - process.create_time())
    return name, "ready" if record.ready else "starting", since, str(mark.pid)


def _table(rows: Sequence[tuple[str, str, str, str]]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for heading in ("process", "state", "for", "pid"):
        table.add_column(heading)
    for name, state, since, pid in rows:
        table.add_row(name, Text(state, style=_STYLES[state]), since, pid)
    return table


def _span(seconds: float) -> str:
    minutes, rest = divmod(max(0, int(seconds)), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
