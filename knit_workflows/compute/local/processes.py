"""Finds processes of this machine, and signals them without ever hitting another one.

A process is identified by its number *and* its start time in clock ticks, since numbers are reused.
The shell programs of `supervisor` compare the same ticks, which psutil does not give.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """A process as `/proc/PID/stat` describes it; `born` is in clock ticks since boot."""

    pid: int
    parent: int
    session: int
    born: int


@cache
def boot_id() -> str:
    """Gives the id of the current boot; process numbers are meaningless after it."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def find_process(pid: int) -> Process | None:
    """Gives a living process; None when there is none, it is a zombie, or nobody may look at it.

    Where `/proc` hides processes of others (`hidepid`), those are not ours.
    """
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The second field is the command's name in parentheses and may hold anything.
    fields = text[text.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        return None
    return Process(pid, parent=int(fields[1]), session=int(fields[3]), born=int(fields[19]))


def has_children(process: Process) -> bool:
    """Says whether a process has children, zombies included; True if the kernel cannot tell.

    False is reliable, since the kernel looks up the first child under its lock.
    """
    try:
        return bool((_PROC / f"{process.pid}/task/{process.pid}/children").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return find_process(process.pid) == process


def in_session(session: int) -> list[Process]:
    """Gives the living processes of a session."""
    return [process for process in _living() if process.session == session]


def descendants(root: int) -> list[Process]:
    """Gives the living children of a process, their children, and so on; parents come first."""
    children: dict[int, list[Process]] = {}
    for process in _living():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    ancestors = [root]
    while ancestors:
        nearest = children.get(ancestors.pop(), [])
        found += nearest
        ancestors += [process.pid for process in nearest]
    return found


def _living() -> Iterator[Process]:
    for entry in _PROC.iterdir():
        process = find_process(int(entry.name)) if entry.name.isdigit() else None
        if process is not None:
            yield process


def open_process(pid: int, born: int) -> int | None:
    """Gives a descriptor that becomes readable when the process ends; None when it has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    process = find_process(pid)
    if process is None or process.born != born:
        os.close(descriptor)
        return None
    return descriptor


def send(number: signal.Signals, processes: Iterable[Process]) -> None:
    """Signals those of the processes that are still alive."""
    for process in processes:
        descriptor = open_process(process.pid, process.born)
        if descriptor is None:
            continue
        try:
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)
