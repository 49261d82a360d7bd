"""What hooks cost: the launch of a Run with a fast one, and many Runs while a receiver hangs."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from knit_workflows import names
from knit_workflows.compute.local import LocalBackend
from knit_workflows.domain.hooks import Hooks
from knit_workflows.domain.ids import KnitId, PlanId
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.domain.volumes import Volume
from knit_workflows.settings import LocalSettings
from tests.bench.figures import figure, percentile
from tests.bench.stack import Stack, stack

DATASET: Final = Tag("type", "dataset")
ALLOWED: Final = {"KNIT_HOOKS__ALLOW_LOOPBACK": "true"}
WARM_UP: Final = 5
TRANSITIONS: Final = 2
"""Of a launch: → ready, → starting."""


@dataclass
class QuickReceiver:
    """Answers at once, except those calls that `hangs` picks: these wait for `go_on`."""

    origin: str
    hangs: Callable[[str, dict[str, Any]], bool] = lambda _, __: False
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the one request of a connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = json.loads(await reader.readexactly(int(fields["content-length"])))
        if self.hangs(head.split()[1], body):
            await self.go_on.wait()
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()


@asynccontextmanager
async def quick_receiver() -> AsyncIterator[QuickReceiver]:
    """Serves on a free port of this machine until left."""
    serving = QuickReceiver("")
    server = await asyncio.start_server(serving.serve, "127.0.0.1", 0, backlog=4096)
    serving.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield serving
    finally:
        serving.go_on.set()
        server.close()


async def launch(samples: int) -> None:
    """Commit of the last input → process created, with one fast hook and without."""
    with tempfile.TemporaryDirectory(prefix="knit-local-") as folder:
        settings = {"KNIT_COMPUTE__KIND": "local", "KNIT_COMPUTE__LOCAL__STATE": folder, **ALLOWED}
        async with stack(settings) as knit, quick_receiver() as receiver:
            plan_id = await knit.apply(_plan("host/sh:1", entrypoint=["sh", "-c", "true"]))
            backend = LocalBackend(LocalSettings(state=Path(folder)))
            url = (f"{receiver.origin}/hook",)
            times = {}
            for name, hooks in (
                ("without", Hooks()),
                ("before", Hooks(before=url)),
                ("after", Hooks(after=url)),
            ):
                await knit.store.hooks.configure(hooks)
                taken = [await _launch(knit, plan_id, backend) for _ in range(samples + WARM_UP)]
                times[name] = percentile(taken[WARM_UP:], 0.5)
    for name in ("before", "after"):
        figure(
            f"launch grows per transition by one fast {name} hook",
            (times[name] - times["without"]) / TRANSITIONS,
            "ms",
            "p50 <= 60",
            baseline=round(times["without"], 1),
            with_hook=round(times[name], 1),
            baseline_is="p50 of the launch without hooks, in ms",
            samples=samples,
            back_end="local",
        )


async def _launch(knit: Stack, plan_id: PlanId, backend: LocalBackend) -> float:
    """Carries out one Run; gives the milliseconds of its launch."""
    knit_id = KnitId(str(uuid.uuid4()))
    await backend.create_volume(Volume(names.volume(knit_id), knit_id))
    await knit.commit_data(DATASET, knit_id=knit_id)
    committed = time.time()
    await knit.run_of(plan_id, knit_id)
    query = RunQuery(plan_ids=frozenset({plan_id}), input_knit_ids=frozenset({str(knit_id)}))
    [run] = await knit.store.runs.find(query)
    events = await knit.store.runs.events(run.summary.run_id)
    created = next(event.at for event in events if event.to_status is RunStatus.STARTING)
    return (created.timestamp() - committed) * 1000


async def hanging(width: int) -> None:
    """Seconds until all other Runs are done, while a receiver hangs; beside one that does not."""
    async with stack({"KNIT_COMPUTE__KIND": "memory", **ALLOWED}) as knit:
        gate = asyncio.Semaphore(16)

        async def upload() -> None:
            async with gate:
                await knit.upload(DATASET)

        await asyncio.gather(*(upload() for _ in range(width)))
        await knit.settled()
        first = await _fan_out(knit, width, width, "nothing")
        one = await _fan_out(knit, width, width - 1, "one Run")
        every = await _fan_out(knit, width, width, "every After hook")
        last = await _fan_out(knit, width, width, "nothing")
    baseline = (first + last) / 2
    for name, took in (("before hook of one Run", one), ("after hook of every Run", every)):
        figure(
            f"{width} Runs while the {name} hangs: the others",
            took,
            "s",
            "<= 1.1 x baseline",
            baseline=round(baseline, 3),
            ratio=round(took / baseline, 3),
            baselines=[round(first, 3), round(last, 3)],
            baseline_is="the same while nothing hangs, once before and once after",
        )


async def _fan_out(knit: Stack, width: int, expected: int, hanging: str) -> float:
    """Has a Plan find all Data; gives the seconds until `expected` of its Runs are done."""
    held: set[str] = set()

    def hangs(path: str, body: dict[str, Any]) -> bool:
        if hanging == "one Run" and path == "/before":
            held.update([body["runId"]] if not held else [])
            return body["runId"] in held
        return hanging == "every After hook" and path == "/after"

    async with quick_receiver() as receiver:
        receiver.hangs = hangs
        await knit.store.hooks.configure(
            Hooks((f"{receiver.origin}/before",), (f"{receiver.origin}/after",))
        )
        begun = time.perf_counter()
        plan_id = await knit.apply(_plan(f"example/fan-{uuid.uuid4().hex}:1"))
        await _until_done(knit, plan_id, expected)
        took = time.perf_counter() - begun
        receiver.go_on.set()
        await _until_done(knit, plan_id, width)
        await knit.until_closed()
    return took


async def _until_done(knit: Stack, plan_id: PlanId, count: int) -> None:
    done = f"select count(*) from run where plan_id = '{plan_id}' and status = 'done'"
    while await knit.scalar(done) < count:
        await asyncio.sleep(0.1)


def _plan(image: str, **more: object) -> dict[str, object]:
    return {
        "image": image,
        "inputs": [{"path": "/in", "tags": [str(DATASET)]}],
        "outputs": [{"path": "/out", "tags": ["type:result"]}],
        **more,
    }
