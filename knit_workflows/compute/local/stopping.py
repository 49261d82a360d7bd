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
from knit_workflows.compute.local.processes import (
    Process,
    boot_id,
    descendants,
    find_process,
    has_children,
    in_session,
    send,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for when a pod was launched, as far as it matters later."""

    engine: str | None
    log: Path | None
    outputs: Mapping[str, Path]
    """The folder behind each path."""


def read_asked(folder: Path) -> Asked:
    """Reads a pod's `pod.json`; raises FileNotFoundError when there is no such pod."""
    document = json.loads((folder / pod_folder.POD).read_text())
    log = document["log"]
    # A pod of an older knit says nothing of its outputs.
    outputs = {path: Path(folder) for path, folder in document.get("outputs", {}).items()}
    return Asked(document["engine"], Path(log) if log else None, outputs)


def is_alive(folder: Path, account: Account) -> bool:
    """Says whether a process of the pod may still run here (containers: see `is_gone`)."""
    if not account.ended and pod_folder.is_locked(folder / pod_folder.STATE):
        return True
    # A sandbox reports its end, and lets go of the lock, an instant before the kernel has killed
    # what the command left in the background. All of that are children of its first process,
    # which itself touches nothing and takes its time to go.
    sandbox = sandbox_of(account)
    return sandbox is not None and has_children(sandbox)


def is_orphaned(account: Account) -> bool:
    """Says whether what is alive has lost its supervisor, so that its end cannot be recorded."""
    if account.supervisor is None or account.ended:
        return False
    return account.boot != boot_id() or _supervisor(account) is None


def is_gone(folder: Path, account: Account) -> bool:
    """Says, once nothing is alive on this machine, whether the pod's container is gone as well.

    Without its image none was ever asked for, whatever has become of the engine since.
    """
    return (
        account.supervisor is None
        or account.image is None
        or read_asked(folder).engine is None
        or (folder / pod_folder.GONE).exists()
    )


def kill(folder: Path, account: Account, left: float, environment: Mapping[str, str]) -> int | None:
    """Asks a pod to end, and has it killed when `left` seconds have passed.

    Gives the process number of the program that was started for it, if any. May be repeated.
    """
    if account.supervisor is None:
        return None  # Its supervisor looks for the request before it starts anything.
    engine = read_asked(folder).engine
    if engine is not None:
        supervising = account.supervisor if account.boot == boot_id() else (0, 0)
        return _reap(folder, supervising, engine, left, environment)
    sandbox = sandbox_of(account)
    if sandbox is None or not account.running:
        _kill_session(account)
        return None
    if left <= 0:
        send(signal.SIGKILL, [sandbox])
        return None
    send(signal.SIGTERM, descendants(sandbox.pid))
    arguments = (f"{left:.3f}", str(sandbox.pid), str(sandbox.born))
    return supervisor.spawn(supervisor.KILL_LATER, arguments, descriptors={}, environment={})


def sandbox_of(account: Account) -> Process | None:
    """Finds the first process of a pod's sandbox; it is in the session that its supervisor made."""
    if account.sandbox is None or account.supervisor is None or account.boot != boot_id():
        return None
    process = find_process(account.sandbox)
    if process is None or process.session != account.supervisor[0]:
        return None
    return process


def _supervisor(account: Account) -> Process | None:
    assert account.supervisor is not None
    pid, born = account.supervisor
    process = find_process(pid)
    return process if process is not None and process.born == born else None


def _kill_session(account: Account) -> None:
    """Kills what is there before the user's command begins; to be repeated while the lock is held.

    The supervisor first, or it would go on; a sandbox dies with its parent only from the moment
    on when it has asked for that. While a process of the session holds the lock, the session's
    number is not used again.
    """
    supervising = _supervisor(account) if account.boot == boot_id() else None
    send(signal.SIGKILL, [supervising] if supervising else [])
    if account.supervisor is not None and account.boot == boot_id():
        send(signal.SIGKILL, in_session(account.supervisor[0]))


def _reap(
    folder: Path,
    supervising: tuple[int, int],
    engine: str,
    left: float,
    environment: Mapping[str, str],
) -> int | None:
    with disk_errors():
        lock = pod_folder.try_lock(folder / pod_folder.REAPER, make=True)
    if lock is None:
        return None
    try:
        pid, born = supervising
        grace = str(math.ceil(max(0.0, left)))
        arguments = (str(folder), engine, folder.name, grace, str(pid), str(born))
        return supervisor.spawn(
            supervisor.REMOVE_CONTAINER,
            arguments,
            descriptors={9: lock},
            environment=environment,
        )
    finally:
        os.close(lock)
