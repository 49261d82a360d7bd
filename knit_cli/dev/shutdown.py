"""Stops processes of the stack, each by its id and only if it is still the same process."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import psutil

from knit_cli.dev.child_process import STOP_TIMEOUT
from knit_cli.dev.dev_folder import DevFolder, ProcessIdentity
from knit_cli.dev.services import COMMAND_FORMS, OWNER_VARIABLE, TEMPORAL
from knit_cli.errors import CliError
from knit_workflows.embedded import EmbeddedPostgres, alive_after

STACK_STOP_TIMEOUT: Final = 60.0
_KILL_TIMEOUT: Final = 10.0


def stop_leftovers(folder: DevFolder) -> int:
    """Stops what an earlier supervisor left running; returns the number of processes.

    The caller holds the folder's lock. Runs are not among them: they outlive knit.
    """
    found = leftovers(folder)
    # Temporal last: without it, the others cannot shut down cleanly.
    servers = [process for process in found if _is_temporal(process)]
    _stop([process for process in found if process not in servers])
    _stop(servers)
    database = EmbeddedPostgres(folder.postgres)
    found += database.processes()
    database.clear()
    return len(found)


def _stop(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    stubborn = alive_after(processes, STOP_TIMEOUT)
    for process in stubborn:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    alive_after(stubborn, _KILL_TIMEOUT)


def _is_temporal(process: psutil.Process) -> bool:
    return tuple(process.info["cmdline"][1:3]) == TEMPORAL


def leftovers(folder: DevFolder) -> list[psutil.Process]:
    """Finds our processes except PostgreSQL by a variable in their environment.

    The record is not enough: a supervisor killed between a start and the next write of the record,
    or unable to write it, leaves processes that are recorded nowhere.
    """
    owner = str(folder.root)
    return [process for process in psutil.process_iter(["cmdline"]) if _belongs_to(process, owner)]


def stop_supervisor(mark: ProcessIdentity) -> None:
    """Asks a supervisor to stop the stack and waits; kills it if it does not stop in time.

    Raises:
        CliError: it is another user's, or cannot be killed.
    """
    process = mark.process()
    if process is None:
        return
    try:
        process.terminate()
        if not alive_after([process], STACK_STOP_TIMEOUT):
            return
        process.kill()
        if not alive_after([process], _KILL_TIMEOUT):
            return
    except psutil.AccessDenied as cause:
        raise CliError(
            "this stack belongs to another user",
            reason=f"there is no permission to stop its process {mark.pid}",
            advice="stop it as the user who started it",
        ) from cause
    except psutil.NoSuchProcess:
        return
    raise CliError(
        f"process {mark.pid} of this stack does not end",
        reason=f"it was killed {_KILL_TIMEOUT:g} seconds ago, and waits for a disk or the like",
        advice="repeat this command once the machine is less busy",
    )


def _belongs_to(process: psutil.Process, owner: str) -> bool:
    command = tuple(process.info["cmdline"] or ())
    # `python -P -m MODULE …` and `temporal server start-dev …`
    if not any(command[1:3] == form or command[2:4] == form for form in COMMAND_FORMS):
        return False
    try:
        alive = process.status() != psutil.STATUS_ZOMBIE
        return alive and process.environ().get(OWNER_VARIABLE) == owner
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
