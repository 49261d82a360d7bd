"""Gives the node a cgroup subtree of its own, and removes it with everything that runs in it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from knit_workflows.provision.cache import SetUpError

MOUNT = Path("/sys/fs/cgroup")
NODE = "knit-test-cluster"
PODS = f"/{NODE}/pods"


def create() -> None:
    """Makes the node's cgroups in every hierarchy: `daemons` for ours, `pods` for the kubelet."""
    for hierarchy in _hierarchies():
        for child in ("daemons", "pods"):
            folder = hierarchy / NODE / child
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SetUpError(
                    f"The cgroup {folder} of the cluster cannot be made: {error.strerror}. "
                    "Run it as root on a machine, not in an ordinary container."
                ) from error
        _inherit_cpuset(hierarchy)


def join_daemons(pid: int) -> None:
    """Moves one process, and so what it will start, into `daemons`, where `remove` finds it."""
    for hierarchy in _hierarchies():
        # One hierarchy is enough to be found, and some refuse a process without further set-up.
        with suppress(OSError):
            (hierarchy / NODE / "daemons" / "cgroup.procs").write_text(str(pid))


def remove(patience_seconds: float = 20) -> None:
    """Kills what is left in the node's cgroups and removes them; there may be none."""
    deadline = time.monotonic() + patience_seconds
    while roots := [h / NODE for h in _hierarchies() if (h / NODE).exists()]:
        for root in roots:
            for pid in _processes(root):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            _remove_tree(root)
        if time.monotonic() > deadline:
            raise SetUpError(f"The cgroups {', '.join(map(str, roots))} cannot be removed.")
        time.sleep(0.05)


def _hierarchies() -> list[Path]:
    if (MOUNT / "cgroup.controllers").exists():
        return [MOUNT]
    found = {p.resolve() for p in MOUNT.iterdir() if (p / "cgroup.procs").exists()}
    return sorted(found)


def _inherit_cpuset(hierarchy: Path) -> None:
    # In a version 1 cpuset hierarchy a new group takes no process until it is given CPUs.
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not (hierarchy / name).exists() or hierarchy == MOUNT:
            continue
        value = (hierarchy / name).read_text()
        for group in ("", "daemons", "pods"):
            (hierarchy / NODE / group / name).write_text(value)


def _groups(root: Path) -> Iterator[Path]:
    """Yields the groups below and including `root`, children first."""
    for folder, _, _ in os.walk(root, topdown=False):
        yield Path(folder)


def _processes(root: Path) -> set[int]:
    pids: set[int] = set()
    for group in _groups(root):
        with suppress(OSError):
            pids.update(int(line) for line in (group / "cgroup.procs").read_text().split())
    return pids - {0, os.getpid()}


def _remove_tree(root: Path) -> None:
    for group in _groups(root):
        with suppress(OSError):
            group.rmdir()
