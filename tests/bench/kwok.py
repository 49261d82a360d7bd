"""Many Runs at once on a control plane whose nodes kwok pretends to have.

The workers, PostgreSQL, Temporal and the API server are real, and so are the counts of requests,
the memory and the delays of the workers; there are no containers. Plans have no log here: nothing
is written that could be read.

`python -m tests.bench.kwok together 10 100`, `… killed 100`, `… waiting 500 20000`: parts of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import isqrt
from pathlib import Path
from typing import Any

import psutil
import psycopg

from knit_workflows import names
from knit_workflows.compute.kubernetes.api.server import ApiServer, ResourceExpired
from knit_workflows.compute.kubernetes.volumes import Volumes
from knit_workflows.domain.errors import BackendUnavailable
from knit_workflows.domain.ids import KnitId, PlanId
from knit_workflows.domain.tags import Tag
from knit_workflows.domain.volumes import Volume
from knit_workflows.settings import EngineSettings, KubernetesSettings
from tests.bench.control_plane import DELAY, ControlPlane, control_plane
from tests.bench.figures import figure, percentile
from tests.bench.stack import Stack, stack
from tests.processes import WorkerProcess

TOGETHER = (10, 100, 500, 2000)
_SAMPLED = 0.25
_MEMORY = {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""As the chart gives them to workers (`knit-app.memoryEnv`)."""


def _sides(width: int) -> tuple[int, int]:
    """Gives how many Data of two kinds make so many pairs, as few as that may be."""
    short = next(n for n in range(isqrt(width), 0, -1) if width % n == 0)
    return short, width // short


class Pods:
    """What becomes of the run pods, as one watch of the bench's own sees it."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self.ended: dict[str, float] = {}
        """By Run: when its container ended, as kwok has written it, in seconds since 1970."""
        self.made: Counter[str] = Counter()
        """By Run: how many pods it has had."""
        self._live: set[str] = set()
        self._seen: set[str] = set()
        self.most_live = 0
        """The most pods that were there and had not ended."""

    async def follow(self) -> None:
        """Watches for ever."""
        query = {"labelSelector": names.LABEL_RUN}
        while True:
            listed, version = await self._server.list("Pod", query)
            for pod in listed:
                self._see("ADDED", pod)
            with suppress(BackendUnavailable, ResourceExpired):
                async for kind, pod in self._server.watch("Pod", query, version):
                    if kind != "BOOKMARK":
                        self._see(kind, pod)

    def _see(self, kind: str, pod: dict[str, Any]) -> None:
        run_id, uid = pod["metadata"]["labels"][names.LABEL_RUN], pod["metadata"]["uid"]
        if uid not in self._seen:
            self._seen.add(uid)
            self.made[run_id] += 1
        status = pod["status"]
        if status.get("phase") == "Succeeded" or kind == "DELETED":
            self._live.discard(uid)
        else:
            self._live.add(uid)
            self.most_live = max(self.most_live, len(self._live))
        if status.get("phase") == "Succeeded" and "message" in status:
            self.ended[run_id] = datetime.fromisoformat(_micros(status["message"])).timestamp()


def _micros(instant: str) -> str:
    """Gives an instant of Go's, of up to nine digits, in the form that Python reads."""
    return re.sub(r"\.(\d+)", lambda found: f".{found[1][:6]:0<6}", instant)


@dataclass
class Workers:
    """Worker processes, and the most memory that each has had."""

    processes: list[WorkerProcess]
    most_bytes: dict[int, int] = field(default_factory=dict)

    async def sample(self) -> None:
        """Looks at their memory for ever."""
        while True:
            for worker in self.processes:
                with suppress(psutil.NoSuchProcess):
                    now = psutil.Process(worker.pid).memory_info().rss
                    self.most_bytes[worker.pid] = max(self.most_bytes.get(worker.pid, 0), now)
            await asyncio.sleep(_SAMPLED)

    def most_mebibytes(self) -> float:
        """Gives what the largest has had since this was asked last."""
        most = max(self.most_bytes.values()) / 2**20
        self.most_bytes.clear()
        return most

    def cpu_seconds(self) -> float:
        """Gives what those alive have used so far, together."""
        times = [psutil.Process(worker.pid).cpu_times() for worker in self.processes]
        return sum(each.user + each.system for each in times)


@dataclass
class Bench:
    """A stack whose workers run Plans on the control plane."""

    plane: ControlPlane
    knit: Stack
    pods: Pods
    volumes: Volumes
    workers: Workers
    read_to: int = 0

    async def apply(self, width: int, delay: float) -> PlanId:
        """Registers a Plan for which so many Runs are found at once, after their Data are there."""
        kinds = [Tag(kind, uuid.uuid4().hex) for kind in ("left", "right")]
        for tag, count in zip(kinds, _sides(width), strict=True):
            for _ in range(count):
                knit_id = KnitId(str(uuid.uuid4()))
                await self.volumes.create(Volume(names.volume(knit_id), knit_id))
                await self.knit.commit_data(tag, knit_id=knit_id)
        await self.knit.settled()
        inputs = [{"path": f"/{tag.key}", "tags": [str(tag)]} for tag in kinds]
        plan = {
            "image": f"example.org/nothing-{uuid.uuid4().hex[:8]}:1",
            "inputs": inputs,
            "outputs": [{"path": "/out", "tags": ["type:made"]}],
            "pod": {"annotations": {DELAY: f"{delay:g}s"}},
        }
        return await self.knit.apply(plan)

    async def until_done(self, plan_id: PlanId, count: int) -> None:
        """Waits until so many Runs of a Plan are done; none may have failed."""
        while True:
            self.plane.still_alive()
            found = await self.statuses(plan_id)
            assert not found["failed"], (found, self.workers.processes[0].log)
            if found["done"] >= count:
                return
            await asyncio.sleep(0.5)

    async def statuses(self, plan_id: PlanId) -> Counter[str]:
        """Gives how many Runs of a Plan have each status."""
        query = "select status, count(*) from run where plan_id = %s group by status"
        return Counter(dict(await self._rows(query, plan_id)))

    async def have_started(self, plan_id: PlanId, count: int) -> bool:
        """Says whether the containers of so many Runs of a Plan have started."""
        found = await self.statuses(plan_id)
        return sum(found[status] for status in ("running", "completing", "done")) >= count

    async def observed(self, plan_id: PlanId) -> dict[str, float]:
        """Gives when the end of each Run's pod was recorded, in seconds since 1970."""
        query = (
            "select run_id::text, extract(epoch from min(at))::float8 "
            "from run_event join run using (run_id) "
            "where plan_id = %s and to_status = 'completing' group by run_id"
        )
        return dict(await self._rows(query, plan_id))

    async def _rows(self, query: str, *values: object) -> list[Any]:
        async with await psycopg.AsyncConnection.connect(self.knit.url) as connection:
            return await (await connection.execute(query, values)).fetchall()

    def requests(self) -> tuple[Counter[str], Counter[int]]:
        """Gives the workers' requests since this was asked last: by what they do, and by status."""
        kinds: Counter[str] = Counter()
        codes: Counter[int] = Counter()
        with self.plane.audit_log.open() as log:
            log.seek(self.read_to)
            for line in log:
                event = json.loads(line)
                about = event.get("objectRef") or {}
                what = about.get("resource", event["requestURI"].partition("?")[0])
                if event["verb"] == "list" and what == "pods" and "instance" not in str(event):
                    what = "all pods"
                kinds[f"{event['verb']} {what}"] += 1
                codes[event["responseStatus"]["code"]] += 1
            self.read_to = log.tell()
        return kinds, codes

    async def delays(self, plan_id: PlanId) -> list[float]:
        """Gives by how many milliseconds each Run's end was recorded after its container's."""
        observed = await self.observed(plan_id)
        return [(at - self.pods.ended[run_id]) * 1000 for run_id, at in observed.items()]


@asynccontextmanager
async def _bench(workers: int, **settings: str) -> AsyncIterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="knit-kwok-") as name:
        folder = Path(name)
        (folder / "plane").mkdir()
        async with control_plane(folder / "plane") as plane:
            environment = {
                "KNIT_COMPUTE__KIND": "kubernetes",
                "KNIT_COMPUTE__KUBERNETES__KUBECONFIG": str(plane.kubeconfig),
                **_MEMORY,
                **settings,
            }
            own = KubernetesSettings(kubeconfig=plane.folder / "admin.kubeconfig")
            server = ApiServer(own)
            await server.open()
            async with stack(environment) as knit:
                further = [_further(knit, folder / str(n)) for n in range(1, workers)]
                all_workers = Workers([knit.worker, *further])
                pods = Pods(server)
                tasks = [asyncio.create_task(t) for t in (pods.follow(), all_workers.sample())]
                try:
                    for worker in further:
                        await worker.ready()
                    yield Bench(plane, knit, pods, Volumes(server, own), all_workers)
                finally:
                    _keep_logs(folder, plane, all_workers)
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                    for worker in further:
                        worker.end()
                    await server.aclose()


def _keep_logs(folder: Path, plane: ControlPlane, workers: Workers) -> None:
    """Copies all logs to the folder that KNIT_BENCH_LOGS names, if it does."""
    if not (kept := os.environ.get("KNIT_BENCH_LOGS")):
        return
    Path(kept).mkdir(parents=True, exist_ok=True)
    for number, worker in enumerate(workers.processes):
        (Path(kept) / f"worker-{number}.log").write_bytes(worker.log.read_bytes())
    for log in plane.folder.glob("*.log"):
        (Path(kept) / log.name).write_bytes(log.read_bytes())


def _further(knit: Stack, folder: Path) -> WorkerProcess:
    folder.mkdir()
    worker = WorkerProcess(knit.environment, folder)
    worker.start()
    return worker


async def together(widths: Sequence[int] = TOGETHER) -> None:
    """So many Runs active at once, one worker: requests, memory, delays."""
    first: float | None = None
    async with _bench(1, KNIT_ENGINE__MAX_ACTIVE_RUNS="5000") as bench:
        for width in widths:
            # Long enough that all are there at once.
            delay = 5 if width <= 100 else width / 12
            bench.requests()
            bench.workers.most_bytes.clear()
            bench.pods.most_live = 0
            cpu = bench.workers.cpu_seconds()
            served = bench.plane.cpu_seconds("apiserver")
            plan_id = await bench.apply(width, delay)
            applied = time.monotonic()
            await bench.until_done(plan_id, width)
            await bench.knit.until_closed()
            took = time.monotonic() - applied
            kinds, codes = bench.requests()
            beside = {
                "pods_at_once": bench.pods.most_live,
                "seconds": round(took, 1),
                "pods_live_for": delay,
                "worker_cpu_s_per_run": round((bench.workers.cpu_seconds() - cpu) / width, 4),
                "api_server_cpu_s_per_run": round(
                    (bench.plane.cpu_seconds("apiserver") - served) / width, 4
                ),
            }
            assert max(bench.pods.made.values()) == 1, "a Run has had two pods"
            delays = await bench.delays(plan_id)
            first = first or percentile(delays, 0.5)
            _print(width, kinds, codes, delays, first, bench.workers.most_mebibytes(), beside)


def _print(
    width: int,
    kinds: Counter[str],
    codes: Counter[int],
    delays: Sequence[float],
    first: float,
    mebibytes: float,
    beside: dict[str, object],
) -> None:
    name = f"{width} Runs at once over kwok"
    figure(
        f"{name}: requests to the API server per Run",
        kinds.total() / width,
        "",
        "<= 12",
        least=3,
        least_is="one that makes the claim, one the Job, one that deletes it",
        per_run={kind: round(count / width, 3) for kind, count in kinds.most_common()},
        lists_of_all_pods=kinds["list all pods"],
        refused=sum(count for code, count in codes.items() if code >= 400 and code != 404),
        **beside,
    )
    figure(f"{name}: worker's memory", mebibytes, "MiB", "<= 300", workers=1)
    figure(
        f"{name}: from a container's end to its record",
        percentile(delays, 0.5),
        "ms",
        "as with the first of the widths",
        p99=round(percentile(delays, 0.99), 1),
        most=round(max(delays), 1),
        first=round(first, 1),
        samples=len(delays),
    )


async def killed(width: int = 500, workers: int = 4) -> None:
    """Some workers, of which one is killed while all Runs are active."""
    heartbeat = EngineSettings(max_active_runs=width).run_heartbeat
    async with _bench(workers, KNIT_ENGINE__MAX_ACTIVE_RUNS=str(width)) as bench:
        plan_id = await bench.apply(width, max(60.0, width / 5))
        while not await bench.have_started(plan_id, width):
            await asyncio.sleep(0.25)
        victim = bench.workers.processes.pop()
        victim.kill()
        at = time.time()
        await bench.until_done(plan_id, width)
        observed = await bench.observed(plan_id)
        over = max(observed.values()) - max(bench.pods.ended.values())
        late = [
            observed[run_id] - max(at, ended)
            for run_id, ended in bench.pods.ended.items()
            if run_id in observed
        ]
        assert max(bench.pods.made.values()) == 1, "a Run has had two pods"
    figure(
        f"{width} Runs, {workers} workers, one killed: the latest record of an end",
        max(late),
        "s",
        f"<= {heartbeat / timedelta(seconds=1):g}, the heartbeat, and a moment",
        p50=round(percentile(late, 0.5), 3),
        p99=round(percentile(late, 0.99), 3),
        after_the_last_end=round(over, 3),
        more_than_a_second=sum(each > 1 for each in late),
    )


async def waiting(*queues: int, at_once: int = 100, seen: int = 500) -> None:
    """The same number of Runs admitted and done, while few and while many are waiting."""
    rates: dict[int, float] = {}
    for queued in queues or (500, 20_000):
        async with _bench(1, KNIT_ENGINE__MAX_ACTIVE_RUNS=str(at_once)) as bench:
            begun = time.monotonic()
            plan_id = await bench.apply(queued, 1)
            await bench.until_done(plan_id, 1)
            applied, cpu = time.monotonic(), bench.workers.cpu_seconds()
            marks = []
            for part in range(1, 5):
                await bench.until_done(plan_id, part * seen // 4)
                marks.append(time.monotonic())
            took = marks[-1] - applied
            rates[queued] = seen / took
            spent = bench.workers.cpu_seconds() - cpu
            first = next(iter(rates.values()))
            figure(
                f"{seen} Runs, {at_once} at once, {queued} waiting at first",
                rates[queued],
                "Runs/s",
                "as with few that wait",
                few=round(first, 2),
                ratio=round(rates[queued] / first, 2),
                seconds_per_quarter=[
                    round(b - a, 1) for a, b in zip([applied, *marks], marks, strict=False)
                ],
                worker_cpu_s_per_run=round(spent / seen, 4),
                until_the_first_was_done=round(applied - begun, 1),
                memory_mebibytes=round(bench.workers.most_mebibytes(), 1),
            )


if __name__ == "__main__":
    _PARTS = {"together": lambda *n: together(n), "killed": killed, "waiting": waiting}
    asyncio.run(_PARTS[sys.argv[1]](*map(int, sys.argv[2:])))
    sys.stdout.flush()
    os._exit(0)
