"""Kills run pods: sandboxes by signals, containers by their engine; knows when all is gone."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from knit_workflows.compute.local import pod_folder, supervisor
from knit_workflows.compute.local.folders import disk_errors
from knit_workflows.compute.local.pod_folder import Account
from knit_workflows.compute.local.processes import Process, descendants, find_process, send


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for when a pod was launched, as far as it matters later."""

    engine: str | None
    log: Path | None


def read_asked(folder: Path) -> Asked:
    """Read a pod's `pod.json`; raises FileNotFoundError when there is no such pod."""
    document = json.loads((folder / pod_folder.POD).read_text())
    log = document["log"]
    return Asked(document["engine"], Path(log) if log else None)


def is_alive(folder: Path, account: Account) -> bool:
    """Say whether a process of the pod may still run here (containers: see `is_gone`)."""
    if account.ended:
        return False
    if pod_folder.is_locked(folder / pod_folder.LOCK):
        return True
    # A sandbox lets go of the lock an instant before the kernel kills what is in it.
    return _sandbox(account) is not None


def is_gone(folder: Path, account: Account) -> bool:
    """Say, once nothing is alive on this machine, whether the pod's container is gone as well."""
    return (
        account.supervisor is None
        or read_asked(folder).engine is None
        or (folder / pod_folder.GONE).exists()
    )


def kill(folder: Path, account: Account, left: float, environment: Mapping[str, str]) -> int | None:
    """Ask a pod to end, and have it killed when `left` seconds have passed.

    Gives the process number of the program that was started for it, if any. May be repeated.
    """
    if account.supervisor is None:
        return None  # Its supervisor looks for the request before it starts anything.
    engine = read_asked(folder).engine
    if engine is not None:
        return _reap(folder, account.supervisor, engine, left, environment)
    sandbox = _sandbox(account)
    if sandbox is None or not account.running:
        # The user's command has not begun. Children first: the sandbox dies with its parent only
        # from the moment on when it has asked for that.
        supervising = find_process(account.supervisor[0])
        send(signal.SIGKILL, _tree(account.supervisor))
        send(signal.SIGKILL, [supervising] if supervising else [])
        return None
    if left <= 0:
        send(signal.SIGKILL, [sandbox])
        return None
    send(signal.SIGTERM, descendants(sandbox.pid))
    arguments = (f"{left:.3f}", str(sandbox.pid), str(sandbox.born))
    return supervisor.spawn(supervisor.KILL_LATER, arguments, descriptors={}, environment={})


def _sandbox(account: Account) -> Process | None:
    """Find the first process of a pod's sandbox; it is in the session that its supervisor made."""
    if account.sandbox is None or account.supervisor is None:
        return None
    process = find_process(account.sandbox)
    if process is None or process.session != account.supervisor[0]:
        return None
    return process


def _tree(process: tuple[int, int]) -> list[Process]:
    pid, born = process
    root = find_process(pid)
    return descendants(pid) if root is not None and root.born == born else []


def _reap(
    folder: Path,
    supervising: tuple[int, int],
    engine: str,
    left: float,
    environment: Mapping[str, str],
) -> int | None:
    with disk_errors():
        lock = pod_folder.try_lock(folder / pod_folder.REAPER)
    if lock is None:
        return None
    try:
        pid, born = supervising
        grace = str(math.ceil(max(0.0, left)))
        arguments = (str(folder), engine, folder.name, grace, str(pid), str(born))
        return supervisor.spawn(
            supervisor.REMOVE_CONTAINER,
            arguments,
            descriptors={8: lock},
            environment=environment,
        )
    finally:
        os.close(lock)
