"""What the engine costs: latency at both ends of a Run, chains, fan-out, memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from knit_workflows import names
from knit_workflows.compute.local import LocalBackend
from knit_workflows.domain.ids import KnitId, PlanId, RunId
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.domain.volumes import Volume
from knit_workflows.embedded import free_port
from knit_workflows.settings import LocalSettings
from tests.bench import bare
from tests.bench.figures import figure, percentile
from tests.bench.stack import Stack, stack

DATASET = Tag("type", "dataset")


def _plan(image: str, before: str, after: str, **more: object) -> dict[str, object]:
    return {
        "image": image,
        "inputs": [{"path": "/in", "tags": [before]}],
        "outputs": [{"path": "/out", "tags": [after]}],
        **more,
    }


async def latencies(samples: int) -> None:
    """Commits of the last input → process created; container exit → lineage committed."""
    with tempfile.TemporaryDirectory(prefix="knit-local-") as folder:
        settings = {"KNIT_COMPUTE__KIND": "local", "KNIT_COMPUTE__LOCAL__STATE": folder}
        async with stack(settings) as knit:
            clock = ["sh", "-c", "date +%s.%N > /out/begun; date +%s.%N > /out/ended"]
            plan = _plan("host/sh:1", str(DATASET), "type:times", entrypoint=clock)
            plan_id = await knit.apply(plan)
            before, begun, after = [], [], []
            backend = LocalBackend(LocalSettings(state=Path(folder)))
            async with knit.endings() as endings:
                for number in range(samples + 5):
                    knit_id = KnitId(str(uuid.uuid4()))
                    await backend.create_volume(Volume(names.volume(knit_id), knit_id))
                    await knit.commit_data(DATASET, knit_id=knit_id)
                    committed = time.time()
                    run_id, seen = await _ended(knit, endings, plan_id, knit_id)
                    times = await _times(knit, run_id, Path(folder))
                    if number >= 5:  # the first ones warm the worker up
                        before.append((times["created"] - committed) * 1000)
                        begun.append((times["begun"] - committed) * 1000)
                        after.append((seen - times["ended"]) * 1000)
    for name, values, target in (
        ("commit of the last input to process created", before, "p50 <= 60, p99 <= 250"),
        ("commit of the last input to the first line of the user's command", begun, "-"),
        ("container exit to lineage committed", after, "p99 <= 300"),
    ):
        figure(
            name,
            percentile(values, 0.5),
            "ms",
            target,
            p99=round(percentile(values, 0.99), 1),
            samples=len(values),
            back_end="local",
        )


async def _ended(
    knit: Stack, endings: AsyncIterator[RunId], plan_id: PlanId, knit_id: KnitId
) -> tuple[RunId, float]:
    """Waits for the notice that the Plan's Run of this Data is done; gives it and that instant."""
    async for run_id in endings:
        seen = time.time()
        run = await knit.store.runs.get(run_id)
        if run.summary.plan.plan_id == plan_id and run.inputs[0].knit_id == knit_id:
            assert run.summary.status is not RunStatus.FAILED, run.summary.exit
            if run.summary.status is RunStatus.DONE:
                return run_id, seen
    raise AssertionError("notices have no end")


async def _times(knit: Stack, run_id: RunId, folder: Path) -> dict[str, float]:
    run = await knit.store.runs.get(run_id)
    volume = folder / "volumes" / f"data-knitid-{run.outputs[0].knit_id}"
    times = {name: float((volume / name).read_text()) for name in ("begun", "ended")}
    # Recorded once the process has been created: a little late, never early.
    events = await knit.store.runs.events(run_id)
    created = next(e.at for e in events if e.to_status is RunStatus.STARTING)
    return {**times, "created": created.timestamp()}


async def chain(length: int) -> None:
    """Seconds per Run in a chain, no-op executor; beside as many no-op activities in a row."""
    async with stack({"KNIT_COMPUTE__KIND": "memory"}) as knit:
        for step in range(length):
            await knit.apply(_plan("example/step:1", f"step:{step}", f"step:{step + 1}"))
        await knit.settled()
        begun = time.perf_counter()
        await knit.upload(Tag("step", "0"))
        await knit.until_done(length)
        took = time.perf_counter() - begun
        baseline = await bare.one_after_the_other(knit.temporal, 3 * length)
    figure(
        f"chain of {length} Runs",
        took / length,
        "s per Run",
        "<= 0.15",
        baseline=round(baseline / length, 3),
        baseline_is="a bare workflow with three no-op activities per Run",
    )


async def fan_out(width: int) -> None:
    """Runs per second when a Plan finds many Data; beside bare workflows with one activity."""
    async with stack({"KNIT_COMPUTE__KIND": "memory"}) as knit:
        baseline = width / await bare.side_by_side(knit.temporal, width)
        gate = asyncio.Semaphore(16)

        async def upload() -> None:
            async with gate:
                await knit.upload(DATASET)

        await asyncio.gather(*(upload() for _ in range(width)))
        await knit.settled()
        begun = time.perf_counter()
        await knit.apply(_plan("example/fan:1", str(DATASET), "type:model"))
        await knit.until_done(width)
        await knit.until_closed()
        rate = width / (time.perf_counter() - begun)
    figure(
        f"fan-out of {width} Runs",
        rate,
        "Runs/s",
        ">= 60 % of the baseline",
        baseline=round(baseline, 1),
        ratio=round(rate / baseline, 2),
        baseline_is="bare workflows with one no-op activity, per second",
    )


async def memory() -> None:
    """Resident memory of an idle worker (all roles, local back-end) and of an idle API."""
    with tempfile.TemporaryDirectory(prefix="knit-local-") as folder:
        settings = {"KNIT_COMPUTE__KIND": "local", "KNIT_COMPUTE__LOCAL__STATE": folder}
        async with stack(settings) as knit:
            port = free_port()
            command = (sys.executable, "-m", "knit_api", "--port", str(port))
            api = subprocess.Popen(command, env=knit.environment, stderr=subprocess.DEVNULL)
            try:
                await _ready(port)
                await asyncio.sleep(5)
                worker, api_idle = _resident(knit.worker.pid), _resident(api.pid)
            finally:
                api.terminate()
                api.wait()
    figure("worker idle", worker, "MiB", "<= 160", back_end="local")
    figure("API idle", api_idle, "MiB", "<= 120")


async def _ready(port: int) -> None:
    """Waits until the API answers, connected to both servers."""
    async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(60):
        while True:
            with suppress(httpx.HTTPError):
                if (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.1)


def _resident(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 2**20
