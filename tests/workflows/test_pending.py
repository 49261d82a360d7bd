"""Runs that are pending, on real servers: what they keep from others, which is nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from knit_workflows import names
from knit_workflows.compute.base import Launch, RunPod, StartFailure, StartFailureKind
from knit_workflows.domain.errors import BackendUnavailable
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.testing import QUICK, MemoryBackend, knit_environment
from tests.waiting import PATIENCE


def plan(image: str, kind: str) -> dict[str, object]:
    return {
        "image": image,
        "inputs": [{"path": "/in", "tags": [f"type:{kind}"]}],
        "outputs": [{"path": "/out", "tags": [f"of:{kind}"]}],
    }


async def test_pending_runs_keep_no_other_from_running(
    postgres: EmbeddedPostgres,
) -> None:
    """One limit, and twice as many Runs that wait for a daemon or for room: the others go on.

    Nobody waits until the Projector looks by itself; and what was pending ends well, too.
    """

    class Stuck(MemoryBackend):
        away = True

        async def launch(self, pod: RunPod) -> Launch:
            if "daemon" in pod.image and self.away:
                raise BackendUnavailable("the daemon does not answer")
            if "full" in pod.image and self.away:
                full = StartFailure(
                    StartFailureKind.UNSCHEDULABLE, "Unschedulable", "no node has room"
                )
                self.set_start_failure(pod.name, full)
            return await super().launch(pod)

    backend = Stuck()
    engine = QUICK.model_copy(update={"max_active_runs": 2, "fallback": timedelta(hours=1)})
    async with knit_environment(postgres=postgres, backend=backend, engine=engine) as knit:
        pending = [await knit.apply(plan(f"{kind}:1", kind)) for kind in ("daemon", "full")]
        other = await knit.apply(plan("well:1", "well"))
        for kind in ("daemon", "full"):
            for _ in range(2):
                await knit.push({"type": kind})
        for _ in range(3):
            await knit.push({"type": "well"})
        runs = await knit.runs_of(other.summary.plan_id, 3)
        assert {run.summary.status for run in runs} == {RunStatus.DONE}
        query = RunQuery(plan_ids=frozenset(one.summary.plan_id for one in pending))
        async with asyncio.timeout(PATIENCE):
            while (
                sorted(one.waiting.code for one in await knit.store.runs.find(query) if one.waiting)
                != ["BackendUnavailable"] * 2 + ["Unschedulable"] * 2
            ):
                await asyncio.sleep(0.05)
        backend.away = False
        for run in await knit.store.runs.find(query):
            backend.set_start_failure(names.run_pod(run.summary.run_id, 1), None)
        for one in pending:
            runs = await knit.runs_of(one.summary.plan_id, 2)
            assert {run.summary.status for run in runs} == {RunStatus.DONE}
