"""How Runs move from status to status, whoever moves them."""

from __future__ import annotations

from knit_workflows.domain.runs.run import KNIT, Exit, RunEvent, RunStatus
from tests.memory_store.matching import project_data
from tests.memory_store.memory import Memory, RunRow


def move(
    memory: Memory,
    run: RunRow,
    target: RunStatus,
    *,
    cause: str,
    exit: Exit | None = None,
    touch: bool = True,
    actor: str = KNIT,
) -> None:
    """Moves a Run and writes its history; whether that is legal is its caller's to know."""
    at = memory.now()
    run.events.append(RunEvent(at, run.generation, run.status, target, cause, exit, actor))
    run.status, run.exit, run.waiting = target, exit or run.exit, None
    if target not in (RunStatus.WAITING, RunStatus.READY):
        run.environment = {}
    if touch:
        run.updated_at = at


def finish(memory: Memory, run: RunRow) -> None:
    """Gives the Data of a Run that has ended their timestamp, and makes the Runs they mean."""
    made = [memory.data[knit_id] for knit_id in run.outputs.values()]
    for one in made:
        one.timestamp = run.updated_at
    if run.status is RunStatus.DONE:
        for one in made:
            project_data(memory, one)
