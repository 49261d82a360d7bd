"""knit beside Argo Workflows and beside bare pods on the real node, in turns.

The same image and command on all sides, and a claim of the same class for each artifact, the
first of which is bound before. Neither side keeps a log besides the node's. `python -m
tests.bench.argo 1 20 100 chain`: parts of it; `log` among them gives knit's Runs a log Data too.
`bare` leaves Argo out.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import psutil

from knit_workflows import names
from knit_workflows.domain.ids import KnitId, PlanId
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.domain.tags import Tag
from knit_workflows.domain.volumes import Mount, Volume
from knit_workflows.embedded import free_port
from knit_workflows.settings import KubernetesSettings
from tests.bench.argo_side import Argo, argo, workflow
from tests.bench.by_hand import describer, objects_of
from tests.bench.cluster import COMMAND, RESOURCES, Bench, on_the_node
from tests.bench.figures import figure, percentile

CHAIN: Final = 10
MILLISECOND: Final = timedelta(milliseconds=1)
_BARE: Final = """
set -e
kubectl() { command kubectl --kubeconfig="$KUBECONFIG" --namespace="$NAMESPACE" "$@"; }
for file in *.json; do
  kubectl create -f "$file" >/dev/null
  kubectl wait --for=jsonpath='{.status.phase}'=Succeeded pod -l "bench=${file%.json}" \
    --timeout=900s >/dev/null
done
"""
_REQUESTS: Final = "knit_kubernetes_requests_total"
_TARGETS: Final = {
    "1": "<= 1.05 x bare",
    "20": "<= 0.8 x Argo, <= 1.0 x bare",
    "100": "-",
    "chain": "<= 0.6 x Argo, <= 1.15 x bare",
}
_TURNS: Final = {"1": 3, "20": 1, "100": 1, "chain": 1}


@dataclass
class Side:
    """What one side has taken in all its turns."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Of its controller, per task."""
    engine_cpu: list[float] = field(default_factory=list)
    """Of Temporal and PostgreSQL, per task."""
    cluster_cpu: list[float] = field(default_factory=list)
    """Of API server and etcd, per task."""
    requests: list[Counter[str]] = field(default_factory=list)
    most_bytes: int = 0


@dataclass(frozen=True)
class Actor:
    """Who takes a turn: its processes, how many requests they have made, and what it does."""

    name: str
    controller: Sequence[psutil.Process]
    requests: Callable[[], Counter[str]]
    act: Callable[[int, int], Awaitable[float]]


@dataclass
class Beside:
    """Everything that takes turns."""

    bench: Bench
    argo: Argo | None
    worker: psutil.Process
    temporal: list[psutil.Process]
    postgres: psutil.Process
    cluster: list[psutil.Process]
    metrics_port: int
    logged: bool
    phases: list[dict[str, float]] = field(default_factory=list)
    """Where the time of each of knit's Runs went, in ms."""

    def of_knit(self) -> Actor:
        """Gives knit's side."""
        return Actor("knit", [self.worker], self.requests_of_knit, self.knit)

    def of_argo(self, its: Argo) -> Actor:
        """Gives Argo's side."""
        process = psutil.Process(its.process.pid)
        return Actor("argo", [process], its.requests, self.workflows)

    async def knit(self, count: int, length: int) -> float:
        """Has `count` Runs done in each of `length` Plans, one after the other; gives seconds."""
        links = [Tag("link", uuid.uuid4().hex) for _ in range(length + 1)]
        volumes = [KnitId(str(uuid.uuid4())) for _ in range(count)]
        for knit_id in volumes:
            await self.bench.by_hand.volume(Volume(names.volume(knit_id), knit_id))
        plans = [self._plan(given, made) for given, made in pairwise(links)]
        ids: list[PlanId] = []
        if length > 1:
            ids += [await self.bench.knit.apply(plan) for plan in plans]
        await self.bench.knit.settled()
        begun = time.time()
        for knit_id in volumes:
            await self.bench.knit.commit_data(links[0], knit_id=knit_id)
        if length == 1:
            await self.bench.knit.settled()
            begun = time.time()
            ids += [await self.bench.knit.apply(plan) for plan in plans]
        last = await self._until_done(ids, count * length)
        await self.bench.knit.until_closed()
        return last - begun

    async def _until_done(self, plans: Sequence[PlanId], count: int) -> float:
        chosen = ", ".join(f"'{plan_id}'" for plan_id in plans)
        of_plans = f"from run where plan_id in ({chosen}) and status"
        while await self.bench.knit.scalar(f"select count(*) {of_plans} = 'done'") < count:
            log = self.bench.knit.worker.log
            failed = await self.bench.knit.scalar(f"select count(*) {of_plans} = 'failed'")
            assert not failed, log.read_text()[-2000:]
            await asyncio.sleep(0.1)
        runs = await self.bench.knit.store.runs.find(RunQuery(plan_ids=frozenset(plans)))
        ended = []
        for run_id in (run.summary.run_id for run in runs):
            events = await self.bench.knit.store.runs.events(run_id)
            ended += [one.at for one in events if one.to_status is RunStatus.DONE]
            spent = await self.bench.knit.store.execution.timing(RunKey(run_id, 1))
            self.phases.append({str(e.phase): e.duration / MILLISECOND for e in spent.phases})
        return max(ended).timestamp()

    def _plan(self, given: Tag, made: Tag) -> dict[str, object]:
        plan = self.bench.plan(given) | {"outputs": [{"path": "/out", "tags": [str(made)]}]}
        return plan if self.logged else {key: plan[key] for key in plan if key != "log"}

    async def workflows(self, count: int, length: int) -> float:
        """Has `count` workflows of Argo with so many tasks each succeed; gives seconds."""
        assert self.argo is not None
        sources = [await self._volume() for _ in range(count)]
        settings, image = self.bench.settings, self.bench.image
        bodies = [
            workflow(image, COMMAND, RESOURCES, source, length, settings) for source in sources
        ]
        begun = time.time()
        await self.argo.run(bodies)
        took = time.time() - begun
        await asyncio.sleep(1)  # what a workflow leaves to be done is part of its cost
        return took

    async def bare(self, count: int, length: int) -> float:
        """Has pods and claims made by a shell with `kubectl`; gives seconds."""
        describe = describer(self.bench.image, COMMAND, RESOURCES, logged=False)
        settings, given = self.bench.settings, [await self._volume() for _ in range(count)]
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(length):
                label = uuid.uuid4().hex
                pods = [describe() for _ in range(count)]
                things = []
                for pod, volume in zip(pods, given, strict=True):
                    whole_pod = replace(pod, inputs=(Mount("/in", volume),))
                    things += objects_of(whole_pod, "bare", {"bench": label}, settings)
                given = [pod.outputs[0].volume for pod in pods]
                whole = {"apiVersion": "v1", "kind": "List", "items": things}
                Path(folder, f"{label}.json").write_text(json.dumps(whole))
            environment = os.environ | {
                "KUBECONFIG": str(settings.kubeconfig),
                "NAMESPACE": settings.kube_namespace,
            }
            begun = time.time()
            await asyncio.to_thread(
                subprocess.run, ["sh", "-c", _BARE], cwd=folder, env=environment, check=True
            )
            return time.time() - begun

    async def _volume(self) -> Volume:
        knit_id = str(uuid.uuid4())
        volume = Volume(names.volume(knit_id), knit_id)
        await self.bench.by_hand.volume(volume)
        return volume

    def engine_cpu(self) -> float:
        """Gives what Temporal and PostgreSQL have used so far, which only knit needs."""
        ended = self.postgres.cpu_times()
        backends = [self.postgres, *self.postgres.children(recursive=True)]
        of_postgres = ended.children_user + ended.children_system + _cpu(backends)
        return of_postgres + _cpu(self.temporal)

    def requests_of_knit(self) -> Counter[str]:
        """Gives the answers that the worker has had from the API server, as it counts them."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found: Counter[str] = Counter()
        for line in lines:
            if line.startswith(_REQUESTS):
                about = dict(
                    part.split("=") for part in line[len(_REQUESTS) + 1 :].split("}")[0].split(",")
                )
                what = f"{about['verb']} {about['kind']}".replace('"', "")
                found[what] += int(float(line.rpartition(" ")[2]))
        return found


async def _turn(side: Side, beside: Beside, actor: Actor, count: int, length: int) -> None:
    """Adds to a side what one turn of its takes."""
    tasks = count * length
    before, cpu, cluster = actor.requests(), _cpu(actor.controller), _cpu(beside.cluster)
    engine = beside.engine_cpu()
    sampling = asyncio.create_task(_most_memory(actor.controller, side))
    try:
        side.seconds.append(await actor.act(count, length))
    finally:
        sampling.cancel()
    side.cpu.append((_cpu(actor.controller) - cpu) / tasks)
    side.engine_cpu.append((beside.engine_cpu() - engine) / tasks)
    side.cluster_cpu.append((_cpu(beside.cluster) - cluster) / tasks)
    side.requests.append(actor.requests() - before)
    sys.stderr.write(
        f"{count} x {length}, {actor.name}: {side.seconds[-1]:.2f} s, CPU per task "
        f"{side.cpu[-1]:.4f}, of the cluster {side.cluster_cpu[-1]:.4f}, requests "
        f"{_per_task(side.requests[-1:], tasks)}\n"
    )


async def _most_memory(processes: Iterable[psutil.Process], side: Side) -> None:
    while True:
        now = sum(process.memory_info().rss for process in processes)
        side.most_bytes = max(side.most_bytes, now)
        await asyncio.sleep(0.25)


def _cpu(processes: Iterable[psutil.Process]) -> float:
    used = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # a backend of PostgreSQL's
            times = process.cpu_times()
            used += times.user + times.system
    return used


@asynccontextmanager
async def _beside(*, logged: bool, with_argo: bool) -> AsyncIterator[Beside]:
    port = free_port()
    async with AsyncExitStack() as stack:
        bench = await stack.enter_async_context(on_the_node(metrics_port=port))
        other = await stack.enter_async_context(argo(bench.settings)) if with_argo else None
        temporal = [
            process
            for process in psutil.Process().children(recursive=True)
            if "temporal" in process.name()
        ]
        checkpointer = "select pid from pg_stat_activity where backend_type = 'checkpointer'"
        postgres = psutil.Process(await bench.knit.scalar(checkpointer)).parent()
        assert postgres is not None
        worker = psutil.Process(bench.knit.worker.pid)
        cluster = _api_server(bench.settings)
        yield Beside(bench, other, worker, temporal, postgres, cluster, port, logged)


def _api_server(settings: KubernetesSettings) -> list[psutil.Process]:
    """Gives the node's API server and its etcd; none of a cluster elsewhere."""
    assert settings.kubeconfig is not None
    address = json.loads(settings.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    servers = _running("kube-apiserver", f"--secure-port={address.rpartition(':')[2]}")
    of_etcd = [
        word.partition("=")[2]
        for server in servers
        for word in server.cmdline()
        if word.startswith("--etcd-servers=")
    ]
    return [*servers, *(process for url in of_etcd for process in _running("etcd", url))]


def _running(name: str, word: str) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == name
        and any(word in argument for argument in process.info["cmdline"])
    ]


async def compare(*parts: str) -> None:
    """Prints, for each part (`1`, `20`, `100`, `chain`), a figure with all sides."""
    shapes = [part for part in parts if part in _TURNS] or list(_TURNS)
    # A bench that is told to end, as `timeout` does, leaves nothing behind.
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    loop.add_signal_handler(signal.SIGTERM, lambda: task and task.cancel())
    async with _beside(logged="log" in parts, with_argo="bare" not in parts) as beside:
        await _shape(beside, 1, 1, 1)  # warms up
        for part in shapes:
            count, length = (1, CHAIN) if part == "chain" else (int(part), 1)
            _print(part, await _shape(beside, count, length, _TURNS[part]), count * length, beside)


async def _shape(beside: Beside, count: int, length: int, turns: int) -> dict[str, Side]:
    sides = {name: Side() for name in ("knit", "argo", "bare")}
    beside.phases.clear()
    for _ in range(turns):
        await _turn(sides["knit"], beside, beside.of_knit(), count, length)
        if beside.argo is not None:
            await _turn(sides["argo"], beside, beside.of_argo(beside.argo), count, length)
            await beside.argo.delete_workflows()
        await _turn(sides["bare"], beside, Actor("bare", [], Counter, beside.bare), count, length)
    return sides


def _print(part: str, sides: dict[str, Side], tasks: int, beside: Beside) -> None:
    knit, other, bare = sides["knit"], sides["argo"], sides["bare"]
    middle = percentile(knit.seconds, 0.5)
    about: dict[str, Any] = {"ratio_to_bare": round(middle / percentile(bare.seconds, 0.5), 2)}
    if beside.argo is not None:
        about["ratio_to_argo"] = round(middle / percentile(other.seconds, 0.5), 2)
        cpu = percentile(knit.cpu, 0.5) / percentile(other.cpu, 0.5)
        about["ratio_of_cpu_to_argo"] = round(cpu, 2)
        about["argo_version"] = beside.argo.version
    what = f"a chain of {tasks}" if part == "chain" else f"{part} at once"
    figure(
        f"knit beside Argo and bare pods: {what}{', with a log' if beside.logged else ''}",
        middle,
        "s",
        f"{_TARGETS[part]}; CPU <= 0.5 x Argo",
        **about,
        seconds={name: _rounded(side.seconds) for name, side in sides.items() if side.seconds},
        cpu_s_per_task={name: _rounded(sides[name].cpu, 4) for name in ("knit", "argo")},
        engine_cpu_s_per_task=_rounded(knit.engine_cpu, 4),
        cluster_cpu_s_per_task={
            name: _rounded(side.cluster_cpu, 4) for name, side in sides.items() if side.seconds
        },
        requests_per_task={
            name: _per_task(side.requests, tasks)
            for name, side in sides.items()
            if any(side.requests)
        },
        median_ms={
            phase: round(percentile([each.get(phase, 0) for each in beside.phases], 0.5))
            for phase in beside.phases[0]
        },
        mebibytes={name: round(sides[name].most_bytes / 2**20, 1) for name in ("knit", "argo")},
        engine_is="Temporal's server and PostgreSQL, whose time is not in knit's",
        cluster_is="API server and etcd",
    )


def _per_task(turns: Sequence[Counter[str]], tasks: int) -> dict[str, float]:
    """Gives how many requests of each kind a task takes, in the turn with the fewest."""
    least = min(turns, key=lambda turn: turn.total())
    each = {what: round(count / tasks, 2) for what, count in least.most_common()}
    return {"all": round(least.total() / tasks, 2), **each} if least else {}


def _rounded(values: Iterable[float], digits: int = 2) -> list[float]:
    return [round(each, digits) for each in values]


if __name__ == "__main__":
    asyncio.run(compare(*sys.argv[1:]))
    sys.stdout.flush()
    os._exit(0)
