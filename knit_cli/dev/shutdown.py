"""Ends processes of the stack, each by its id and only if it is still the same process."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import psutil

from knit_cli.dev.child_process import STOP_TIMEOUT
from knit_cli.dev.dev_folder import DevFolder, ProcessIdentity
from knit_cli.dev.services import COMMAND_FORMS, OWNER_VARIABLE, TEMPORAL
from knit_cli.errors import CliError
from knit_workflows.embedded import EmbeddedPostgres

STACK_STOP_TIMEOUT: Final = 60.0
_KILL_TIMEOUT: Final = 10.0


def stop_leftovers(folder: DevFolder) -> int:
    """Ends what an earlier supervisor has left running; gives how many processes that were.

    To be called while the folder is held. Runs are not among them: they outlive knit.
    """
    found = leftovers(folder)
    # First those who use Temporal: without it they cannot end in order.
    servers = [process for process in found if _is_temporal(process)]
    _end([process for process in found if process not in servers])
    _end(servers)
    database = EmbeddedPostgres(folder.postgres)
    found += database.processes()
    database.clear()
    return len(found)


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=STOP_TIMEOUT)
    for process in stubborn:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn, timeout=_KILL_TIMEOUT)


def _is_temporal(process: psutil.Process) -> bool:
    return tuple(process.info["cmdline"][1:3]) == TEMPORAL


def leftovers(folder: DevFolder) -> list[psutil.Process]:
    """Gives our processes, besides PostgreSQL: found by their own marks, no record is needed.

    A supervisor that is killed between a start and its record, or whose record cannot be written,
    leaves processes that stand nowhere.
    """
    owner = str(folder.root)
    return [process for process in psutil.process_iter(["cmdline"]) if _belongs_to(process, owner)]


def stop_supervisor(mark: ProcessIdentity) -> None:
    """Asks a supervisor to end the stack, and waits; one that does not is killed."""
    process = mark.process()
    if process is None:
        return
    try:
        process.terminate()
        process.wait(STACK_STOP_TIMEOUT)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(_KILL_TIMEOUT)
    except psutil.AccessDenied as cause:
        raise CliError(
            "this stack belongs to another user",
            reason=f"its process {mark.pid} may not be ended",
            advice="end it as the user who started it",
        ) from cause
    except psutil.NoSuchProcess:
        return


def _belongs_to(process: psutil.Process, owner: str) -> bool:
    words = tuple(process.info["cmdline"] or ())
    # `python -P -m MODULE …` and `temporal server start-dev …`
    if not any(words[1:3] == form or words[2:4] == form for form in COMMAND_FORMS):
        return False
    try:
        alive = process.status() != psutil.STATUS_ZOMBIE
        return alive and process.environ().get(OWNER_VARIABLE) == owner
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
