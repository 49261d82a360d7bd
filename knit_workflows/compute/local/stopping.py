"""Kills run pods: sandboxes by signals, containers by their engine; says when they are gone."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from knit_workflows.compute.local import pod_folder, supervisor
from knit_workflows.compute.local.folders import disk_errors
from knit_workflows.compute.local.pod_folder import SupervisorState
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
class LaunchRecord:
    """What was recorded when a pod was launched: the parts that are needed later."""

    image: str
    engine: str | None
    log: Path | None
    outputs: Mapping[str, Path]
    """The folder behind each path."""
    readable: bool = True
    """False: a power cut has emptied it, and nothing of the above is known."""


_LOST: Final = LaunchRecord("", None, None, {}, readable=False)


def read_launch_record(folder: Path) -> LaunchRecord:
    """Reads a pod's `pod.json`; raises FileNotFoundError when there is no such pod."""
    text = (folder / pod_folder.POD).read_text(errors="replace")
    try:
        document = json.loads(text)
    except ValueError:
        return _LOST
    log = document["log"]
    outputs = {path: Path(folder) for path, folder in document["outputs"].items()}
    return LaunchRecord(document["image"], document["engine"], Path(log) if log else None, outputs)


def is_alive(folder: Path, reported: SupervisorState) -> bool:
    """Says whether a process of the pod may still run here (containers: see `is_gone`)."""
    if not reported.ended and pod_folder.is_locked(folder / pod_folder.STATE):
        return True
    # A sandbox reports its end, and releases the lock, an instant before the kernel has killed what
    # the command left in the background. Those are all children of its first process, which itself
    # writes nothing and may take a while to exit.
    sandbox = sandbox_of(reported)
    return sandbox is not None and has_children(sandbox)


def is_orphaned(folder: Path, reported: SupervisorState) -> bool:
    """Says whether a living pod has lost its supervisor, so that its end cannot be recorded."""
    if reported.supervisor is None or reported.ended:
        return False
    if reported.boot == boot_id() and _supervisor(reported) is not None:
        return False
    # One that has ended just now has reported that before it was gone.
    return pod_folder.read_state(folder) == reported


def is_of_earlier_boot(folder: Path, reported: SupervisorState) -> bool:
    """Says whether the machine was restarted since the pod was launched.

    A power cut may have emptied the state, whose age tells then.
    """
    if reported.boot is not None:
        return reported.boot != boot_id()
    booted_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return (folder / pod_folder.STATE).stat().st_mtime < booted_at


def is_gone(folder: Path, reported: SupervisorState) -> bool:
    """Says whether the container of a pod without living processes is gone as well.

    Before the image is there none was ever created, whatever has become of the engine since.
    """
    return (
        reported.supervisor is None
        or reported.image is None
        or read_launch_record(folder).engine is None
        or (folder / pod_folder.GONE).exists()
    )


def kill(
    folder: Path, reported: SupervisorState, left: float, environment: Mapping[str, str]
) -> int | None:
    """Sends SIGTERM, and has SIGKILL follow after `left` seconds; may be repeated.

    Gives the process number of the program that was started for it, if any.
    """
    if reported.supervisor is None:
        return None  # its supervisor checks for a stop before it starts anything
    engine = read_launch_record(folder).engine
    if engine is not None:
        supervising = reported.supervisor if reported.boot == boot_id() else (0, 0)
        return _reap(folder, supervising, engine, left, environment)
    sandbox = sandbox_of(reported)
    if sandbox is None or not reported.running:
        _kill_session(reported)
        return None
    if left <= 0:
        send(signal.SIGKILL, [sandbox])
        return None
    send(signal.SIGTERM, descendants(sandbox.pid))
    arguments = (f"{left:.3f}", str(sandbox.pid), str(sandbox.born))
    return supervisor.spawn(supervisor.KILL_LATER, arguments, descriptors={}, environment={})


def sandbox_of(reported: SupervisorState) -> Process | None:
    """Finds the first process of a pod's sandbox, in the session that its supervisor created."""
    if reported.sandbox is None or reported.supervisor is None or reported.boot != boot_id():
        return None
    process = find_process(reported.sandbox)
    if process is None or process.session != reported.supervisor[0]:
        return None
    return process


def _supervisor(reported: SupervisorState) -> Process | None:
    assert reported.supervisor is not None
    pid, born = reported.supervisor
    process = find_process(pid)
    return process if process is not None and process.born == born else None


def _kill_session(reported: SupervisorState) -> None:
    """Kills what runs before the user's command starts; repeat it while the lock is held.

    The supervisor first, or it would go on; a sandbox dies with its parent only once it has set
    its parent-death signal. While a process of the session holds the lock, the session's number is
    not reused.
    """
    supervising = _supervisor(reported) if reported.boot == boot_id() else None
    send(signal.SIGKILL, [supervising] if supervising else [])
    if reported.supervisor is not None and reported.boot == boot_id():
        send(signal.SIGKILL, in_session(reported.supervisor[0]))


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
