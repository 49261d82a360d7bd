"""Workers of an earlier build exchanged one by one for those of this one, with Runs under way.

`python -m tests.bench rolling-upgrade` takes `EARLIER` for the earlier build,
`python -m tests.bench.rolling_upgrade PLACE [RUNS]` another commit of this repository or a folder.

Runs are in every phase meanwhile: some wait, some are launched, some run, some end. Each must be
done in the end and have run once, by the count that its own container keeps. The histories of
Runs that both builds have worked on are written to the folder that KNIT_BENCH_HISTORIES names.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
from temporalio.client import Client, WorkflowHistory

from knit_workflows import names
from knit_workflows.testing import embedded_postgres, temporal
from tests.bench.burst import HERE, build_at
from tests.bench.figures import figure
from tests.e2e.oracle import archive
from tests.processes import ApiProcess, WorkerProcess
from tests.workflows.record import without_paths

EARLIER: Final = "ed4c355"
WORKERS: Final = 3
AT_ONCE: Final = 60
"""Fewer than there are, so that some are launched by each mixture of workers."""
BETWEEN: Final = 3.0
"""Seconds for which each mixture of workers works."""
_SCRIPT: Final = (
    "echo x >> /out/counter; while [ ! -e /out/go ]; do sleep 0.3; done; "
    "cat /left/word /right/word > /out/words"
)


@dataclass
class _Upgrade:
    """One database and one Temporal, and the processes that work on them."""

    earlier: Path
    folder: Path
    url: str
    temporal: Client
    api: httpx.AsyncClient
    plan_id: str = ""

    async def counts(self) -> Counter[str]:
        """Gives how many Runs of the Plan have each status."""
        query = "select status, count(*) from run where plan_id = %s group by status"
        return Counter(dict(await self._rows(query, self.plan_id)))

    async def until(self, count: int, *statuses: str) -> None:
        """Waits until so many Runs have one of these statuses; none may have failed."""
        while True:
            found = await self.counts()
            assert not found["failed"], found
            if sum(found[status] for status in statuses) >= count:
                return
            await asyncio.sleep(0.2)

    async def runs(self) -> list[tuple[str, int]]:
        """Gives the id and the generation of each Run."""
        query = "select run_id::text, generation from run where plan_id = %s"
        return await self._rows(query, self.plan_id)

    async def _rows(self, query: str, *values: object) -> list[Any]:
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            return await (await connection.execute(query, values)).fetchall()

    def let_go(self, most: int | None = None) -> None:
        """Lets some of the containers that wait end, or all."""
        volumes = self.folder / "compute" / "volumes"
        waiting = [one.parent for one in volumes.glob("*/counter") if not _goes_on(one.parent)]
        for volume in waiting[:most]:
            (volume / "go").touch()

    async def begin(self, count: int) -> None:
        """Uploads what the Runs read, and registers the Plan that means so many."""
        short = next(n for n in range(int(count**0.5), 0, -1) if count % n == 0)
        for side, number in (("left", short), ("right", count // short)):
            for each in range(number):
                await self._push(f"side:{side}", f"{side} {each}\n")
        sides = ("left", "right")
        plan = {
            "image": "host/sh:1",
            "entrypoint": ["sh", "-c", _SCRIPT],
            "inputs": [{"path": f"/{side}", "tags": [f"side:{side}"]} for side in sides],
            "outputs": [{"path": "/out", "tags": ["type:made"]}],
            "log": {"tags": ["type:log"]},
        }
        answer = await self.api.post("plans", json=plan)
        assert answer.is_success, answer.text
        self.plan_id = answer.json()["planId"]

    async def _push(self, tag: str, word: str) -> None:
        kind = {"Content-Type": "application/x-tar"}
        answer = await self.api.post(
            "data", params={"tag": [tag]}, content=archive(word), headers=kind
        )
        assert answer.is_success, answer.text

    async def once_each(self, count: int) -> None:
        """Sees that there are so many Runs, each of one generation, whose containers ran once."""
        runs = await self.runs()
        assert len(runs) == count
        assert {generation for _, generation in runs} == {1}
        counters = list((self.folder / "compute" / "volumes").glob("*/counter"))
        assert len(counters) == count, f"{len(counters)} containers"
        assert {counter.read_text() for counter in counters} == {"x\n"}

    async def histories(self) -> list[WorkflowHistory]:
        """Gives the history of each Run's workflow."""
        handles = [
            self.temporal.get_workflow_handle(names.run_workflow(run_id, generation))
            for run_id, generation in await self.runs()
        ]
        return [await handle.fetch_history() for handle in handles]


def _goes_on(volume: Path) -> bool:
    return (volume / "go").exists()


def _environment(source: Path) -> dict[str, str]:
    """Gives what a process needs in order to be of this build, and not of the folder it is in."""
    return {"PYTHONPATH": str(source), "PYTHONSAFEPATH": "1"}


def _migrate(source: Path, url: str) -> None:
    command = [sys.executable, "-m", "knit_workflows.store"]
    environment = {**os.environ, **_environment(source), "KNIT_STORE__URL": url}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


@asynccontextmanager
async def _installation(earlier: Path) -> AsyncIterator[tuple[_Upgrade, Mapping[str, str]]]:
    """Starts what stays during an upgrade, on a database of the earlier build."""
    async with AsyncExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="knit-upgrade-"))
        folder = Path(name)
        url = stack.enter_context(embedded_postgres()).url("knit")
        await asyncio.to_thread(_migrate, earlier, url)
        client = await stack.enter_async_context(temporal(database=folder / "temporal.db"))
        environment = {
            "KNIT_STORE__URL": url,
            "KNIT_COMPUTE__KIND": "local",
            "KNIT_COMPUTE__LOCAL__STATE": str(folder / "compute"),
            "KNIT_ENGINE__MAX_ACTIVE_RUNS": str(AT_ONCE),
            "TEMPORAL_ADDRESS": client.service_client.config.target_host,
        }
        with _process(ApiProcess({**environment, **_environment(earlier)}, folder)) as api:
            await api.ready()
            root = f"{api.root}/"
            async with httpx.AsyncClient(base_url=root, trust_env=False, timeout=180) as http:
                yield _Upgrade(earlier, folder, url, client, http), environment


@contextmanager
def _process(process: Any) -> Any:
    process.start()
    try:
        yield process
    finally:
        process.end()


async def rolling_upgrade(place: str = EARLIER, count: int = 100) -> None:
    """Prints how long the exchange took, and how many Runs it has passed through."""
    with build_at(place) as earlier:
        async with _installation(earlier) as (knit, environment), AsyncExitStack() as stack:
            workers = {}
            for build, source in (("earlier", earlier), ("present", HERE)):
                for number in range(WORKERS):
                    folder = knit.folder / f"{build}-{number}"
                    folder.mkdir()
                    whole = {**environment, **_environment(source)}
                    workers[build, number] = WorkerProcess(whole, folder)
            earlier_ones = [workers["earlier", number] for number in range(WORKERS)]
            await asyncio.gather(*(_started(stack, worker) for worker in earlier_ones))
            await knit.begin(count)
            await knit.until(AT_ONCE // 2, "running", "completing", "done")
            begun = time.monotonic()
            at_first = await knit.counts()
            # As the chart does it: the database first. Workers that are older than it end.
            await asyncio.to_thread(_migrate, HERE, knit.url)
            for number in range(WORKERS):
                knit.let_go(AT_ONCE // 3)  # others are launched in their places
                await asyncio.sleep(BETWEEN)
                await _started(stack, workers["present", number])
                await asyncio.to_thread(workers["earlier", number].end)
            took = time.monotonic() - begun
            at_last = await knit.counts()
            await _all_done(knit, count)
            await knit.once_each(count)
            olds = {str(workers["earlier", n].pid) for n in range(WORKERS)}
            crossed = [each for each in await knit.histories() if _has_crossed(each, olds)]
            _keep(crossed)
    figure(
        f"{count} Runs while {WORKERS} workers of an earlier build are exchanged: failed",
        0,
        "",
        "0, each run once",
        earlier=place,
        seconds=round(took, 1),
        at_first=dict(at_first),
        at_last=dict(at_last),
        worked_on_by_both=len(crossed),
    )


async def _all_done(knit: _Upgrade, count: int) -> None:
    """Lets all go on, and those that start later at once."""
    while (await knit.counts())["done"] < count:
        knit.let_go()
        await knit.until(0)
        await asyncio.sleep(0.5)


async def _started(stack: AsyncExitStack, worker: WorkerProcess) -> None:
    stack.enter_context(_process(worker))
    await worker.ready()


def _has_crossed(history: WorkflowHistory, olds: set[str]) -> bool:
    """Says whether processes of both builds have worked on a Run."""
    pids = {who.partition("@")[0] for who in _workers_of(history)}
    return bool(pids & olds) and bool(pids - olds)


def _workers_of(history: WorkflowHistory) -> set[str]:
    """Gives the identities of the workers that have taken a Run's tasks."""
    tasks = [event.workflow_task_completed_event_attributes.identity for event in history.events]
    steps = [event.activity_task_started_event_attributes.identity for event in history.events]
    return {who for who in (*tasks, *steps) if who}


def _keep(histories: list[WorkflowHistory]) -> None:
    """Writes histories to the folder that KNIT_BENCH_HISTORIES names, if it does."""
    if kept := os.environ.get("KNIT_BENCH_HISTORIES"):
        Path(kept).mkdir(parents=True, exist_ok=True)
        for history in histories:
            text = json.dumps(without_paths(json.loads(history.to_json())), indent=2)
            target = Path(kept) / f"{history.workflow_id.replace(':', '-')}.json"
            target.write_text(text + "\n")


if __name__ == "__main__":
    place, *numbers = sys.argv[1:]
    asyncio.run(rolling_upgrade(place, *map(int, numbers)))
    sys.stdout.flush()
    os._exit(0)
