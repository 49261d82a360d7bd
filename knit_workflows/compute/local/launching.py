"""Starts a run pod's supervisor exactly once, however often it is called or killed.

The pod's folder appears complete, by a rename. Whoever locks its `state` may start a supervisor,
which inherits the lock and first of all writes `started` into it. So an unlocked state means that
there is no supervisor, and a state without `started` that none has ever done anything.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from knit_workflows.compute.adopted_folders import refuse_change
from knit_workflows.compute.base import RunPod
from knit_workflows.compute.checks import check_resources
from knit_workflows.compute.local import pod_folder, stopping, supervisor
from knit_workflows.compute.local.engine import Engine, create_arguments, environment_file
from knit_workflows.compute.local.folders import StateFolder, disk_errors
from knit_workflows.compute.local.host import sandbox_command
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable
from knit_workflows.domain.os_errors import advice_for, reason_of
from knit_workflows.settings import LocalSettings

_LOCK_TIMEOUT: Final = 10.0
"""Seconds to wait for another caller that is starting the same pod."""
LOG_FILE: Final = "log"


@dataclass(frozen=True, slots=True)
class SupervisorCommand:
    """The script of a pod's supervisor, with its arguments and environment."""

    script: str
    arguments: tuple[str, ...]
    private: bytes
    """What the script finds in descriptor 3: the pod's environment is in it."""
    environment: Mapping[str, str]
    engine: str | None
    """The command of the container engine; None for a sandbox."""


def check(pod: RunPod, state: StateFolder) -> None:
    """Raises BackendRejected for a pod that can never be started."""
    check_resources(pod)
    for volume in (*(mount.volume for mount in pod.outputs), *([pod.log] if pod.log else [])):
        refuse_change(volume)
    for mount in (*pod.inputs, *pod.outputs):
        state.volume(mount.volume)
        if not mount.path.startswith("/") or any(ord(c) < 32 for c in mount.path):
            raise BackendRejected(f"{mount.path!r} is not an absolute path")
    if pod.log is not None:
        state.volume(pod.log)


def supervisor_command(
    pod: RunPod, state: StateFolder, settings: LocalSettings, engine: Engine | None
) -> SupervisorCommand:
    """Builds the command that starts a pod: in the engine, or without one in a sandbox.

    Raises:
        BackendRejected: it can never be started here.
    """
    common = _common_arguments(pod, state)
    if engine is None:
        sandbox = sandbox_command(pod, state, settings)
        options = b"".join(os.fsencode(word) + b"\0" for word in sandbox.options)
        return SupervisorCommand(supervisor.SANDBOX, (*common, *sandbox.command), options, {}, None)
    created = create_arguments(pod, state, settings, engine.dialect)
    arguments = (*common, engine.command, pod.image, pod.name, *created)
    variables = environment_file(pod)
    return SupervisorCommand(
        supervisor.CONTAINER, arguments, variables, settings.environment, engine.command
    )


def _common_arguments(pod: RunPod, state: StateFolder) -> list[str]:
    """Gives the arguments that all supervisors have: the log's file, and what must be empty."""
    log = state.volume(pod.log) if pod.log else None
    arguments = [str(log / LOG_FILE) if log else ""]
    for mount in pod.outputs:
        arguments += [mount.path, str(state.volume(mount.volume))]
    if log:
        arguments += ["", str(log)]
    return [*arguments, "--"]


def launch(pod: RunPod, command: SupervisorCommand, state: StateFolder) -> int | None:
    """Starts the supervisor and gives its process number; None if it was started before."""
    folder = state.pod(pod.name)
    give_up = time.monotonic() + _LOCK_TIMEOUT
    while time.monotonic() < give_up:
        if not folder.is_dir():
            _prepare(folder, pod, command, state)
        try:
            with disk_errors():
                locked_state = pod_folder.try_lock(folder / pod_folder.STATE)
        except BackendUnavailable as error:
            if isinstance(error.__cause__, FileNotFoundError):
                continue  # just released; it may be launched again
            raise
        if locked_state is not None:
            try:
                _mend(folder, pod, command, state)
                return _start_locked(folder, pod, command, locked_state)
            finally:
                os.close(locked_state)
        if was_started(folder):
            return None
        time.sleep(0.002)
    raise BackendUnavailable(
        f"{pod.name} is being started by another process, which takes too long"
    )


def was_started(folder: Path) -> bool:
    """Says whether a pod's supervisor has started, or must never start."""
    reported = pod_folder.read_state(folder)
    if reported is None:
        return False
    return reported.supervisor is not None or pod_folder.stop_deadline(folder) is not None


def _prepare(folder: Path, pod: RunPod, command: SupervisorCommand, state: StateFolder) -> None:
    with state.draft() as draft:
        _fill(draft, pod, command, state)
        try:
            draft.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _fill(folder: Path, pod: RunPod, command: SupervisorCommand, state: StateFolder) -> None:
    document = {
        "run_id": pod.run_id,
        "generation": pod.generation,
        "plan_id": pod.plan_id,
        "image": pod.image,
        "command": [*pod.entrypoint, *pod.args],
        "engine": command.engine,
        "log": str(state.volume(pod.log) / LOG_FILE) if pod.log else None,
        "outputs": {mount.path: str(state.volume(mount.volume)) for mount in pod.outputs},
    }
    (folder / pod_folder.POD).write_text(json.dumps(document, indent=1))
    pod_folder.reserve(folder)


def _mend(folder: Path, pod: RunPod, command: SupervisorCommand, state: StateFolder) -> None:
    """Fills a folder anew that a power cut may have emptied before anything was started."""
    reported = pod_folder.read_state(folder)
    if reported is None or was_started(folder):
        return
    if stopping.is_of_earlier_boot(folder, reported):
        with disk_errors():
            _fill(folder, pod, command, state)


def _start_locked(
    folder: Path, pod: RunPod, command: SupervisorCommand, locked_state: int
) -> int | None:
    if was_started(folder):
        return None
    try:
        return supervisor.spawn_supervisor(
            folder,
            command.script,
            command.arguments,
            state=locked_state,
            private=command.private,
            with_log=pod.log is not None,
            environment=command.environment,
        )
    except OSError as error:
        if error.errno == errno.E2BIG:
            raise BackendRejected(
                "the command line is too long for this machine",
                advice="put long arguments into a file of an input",
            ) from error
        raise BackendUnavailable(
            f"no process can be started: {reason_of(error)}",
            advice=advice_for(error, "raise this machine's limits of processes (ulimit -u)"),
        ) from error
