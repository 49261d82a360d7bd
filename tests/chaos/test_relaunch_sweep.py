"""A Run whose pod was disrupted survives kill -9 of the worker that launches it again.

Around `knit.relaunch_run`: after each event of the history from the disruption on, and as soon as
the next generation is committed, of which the worker's workflow has not heard yet.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
from temporalio.client import Client

from knit_workflows import names
from knit_workflows.compute.local import LocalBackend
from knit_workflows.compute.local.pod_folder import STATE, read_state
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.runs.run import RunDetail, RunStatus
from knit_workflows.domain.volumes import Volume
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.settings import LocalSettings
from tests.chaos.moments import MOST, chosen, reached
from tests.chaos.run_sweep import sweep
from tests.chaos.sweep import WITHIN, Remains, Sweep

NEXT_GENERATION: Final = "the next generation is made"
RESYNC: Final = timedelta(seconds=1)


@dataclass
class Machine:
    """Where the Runs are: they go on only when `go` is there."""

    state: Path
    go: Path

    async def restart(self, run: RunDetail) -> None:
        """Leaves what a restart of the machine leaves of the Run's pod: its folder, of earlier."""
        folder = self.state / "pods" / names.run_pod(run.summary.run_id, run.generation)
        reported = read_state(folder)
        assert reported is not None and reported.boot is not None and reported.supervisor
        # In place, as long as it was: the supervisor has the file open, and locked.
        with (folder / STATE).open("r+b") as file:
            text = file.read()
            file.seek(text.index(reported.boot.encode()))
            file.write(b"x")
        # The supervisor first: it would report the end of its sandbox.
        for pid in (reported.supervisor[0], reported.sandbox):
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


async def until_running(swept: Sweep, run_id: RunId) -> RunDetail:
    """Also in its container, whose numbers the supervisor has reported by then."""
    async with asyncio.timeout(WITHIN.total_seconds()):
        while True:
            run = await swept.store.runs.get(run_id)
            if run.summary.status is RunStatus.RUNNING:
                return run
            assert not run.summary.status.is_final, run.summary.exit
            await asyncio.sleep(0.02)


async def until_next_generation(swept: Sweep, run_id: RunId) -> None:
    async with asyncio.timeout(WITHIN.total_seconds()):
        while (await swept.store.runs.get(run_id)).generation == 1:
            await asyncio.sleep(0.001)


async def disrupted(
    swept: Sweep, machine: Machine, moment: int | str | None
) -> tuple[Remains, int, int]:
    """Carries a Run through a disruption, and kills the worker at a moment after it.

    Gives what is left, and the numbers of the events of the first generation: when its pod ran, and
    in all.
    """
    machine.go.unlink(missing_ok=True)
    run_id = await swept._run_of(await swept.push())
    run = await until_running(swept, run_id)
    first = swept.temporal.get_workflow_handle(names.run_workflow(run_id, 1))
    before = len((await first.fetch_history()).events)
    await machine.restart(run)
    machine.go.touch()
    if moment is not None:
        if isinstance(moment, int):
            await reached(first, moment)
        else:
            await until_next_generation(swept, run_id)
        swept.worker.kill()
        swept.worker.start()
    async with asyncio.timeout(WITHIN.total_seconds()):
        await swept.store.runs.wait_final(run_id, fallback=RESYNC)
        for generation in (1, 2):
            workflow = names.run_workflow(run_id, generation)
            ended = await swept.temporal.get_workflow_handle(workflow).result()
            assert ended["status"] == ("superseded" if generation == 1 else "done")
    run = await swept.store.runs.get(run_id)
    assert run.generation == 2, "launched again once, whoever died"
    whole = len((await first.fetch_history()).events)
    return await swept.remains(run), before, whole


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_a_run_is_launched_again_once_whoever_dies(
    postgres: EmbeddedPostgres, temporal_client: Client, tmp_path: Path
) -> None:
    """It ends as one whose worker lives, and its container has written to the new Data alone."""
    signs = tmp_path / "signs"
    signs.mkdir()
    machine = Machine(tmp_path / "state", signs / "go")
    compute = {
        "KNIT_COMPUTE__KIND": "local",
        "KNIT_COMPUTE__LOCAL__STATE": str(machine.state),
        "KNIT_COMPUTE__LOCAL__HOST_PATHS": json.dumps([str(signs)]),
        "KNIT_COMPUTE__LOCAL__RESYNC_PERIOD": "PT1S",
    }
    backend = LocalBackend(LocalSettings(state=machine.state))

    async def folder_of(volume: Volume) -> Path:
        return machine.state / "volumes" / volume.name

    waits = f"0.1; until [ -e {machine.go} ]; do sleep 0.1; done"
    async with sweep(
        *(postgres, temporal_client, compute, tmp_path, backend, folder_of, "host/sh:1"), waits
    ) as swept:
        expected, before, whole = await disrupted(swept, machine, None)
        assert (expected.status, expected.starts, expected.pods) == ("done", 1, 0)
        events = range(before + 1, whole + 1)
        for moment in (NEXT_GENERATION, *chosen(events, MOST)):
            found, *_ = await disrupted(swept, machine, moment)
            assert found == expected, f"killed after {moment}"
