"""knit as its chart installs it on the real node: idle memory, and one Run beside a bare pod."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from knit_workflows import names
from knit_workflows.compute.kubernetes.api.server import ApiServer
from knit_workflows.domain.ids import PlanId
from knit_workflows.domain.runs.run import RunQuery
from knit_workflows.settings import KubernetesSettings, StoreSettings
from knit_workflows.store import PostgresStore
from tests.bench.by_hand import STEPS, ByHand, Kind, Pods, between, describer
from tests.bench.cluster import COMMAND, RESOURCES
from tests.bench.figures import figure, percentile
from tests.charts.helm import Helm
from tests.charts.installation import Installation, installation

_UP = Path(__file__).parents[1] / "cluster" / "up.py"
_SETTLED = 20.0
"""Seconds after which a process is idle, and the kubelet has measured it since."""
_TURNS = 4


async def memory() -> None:
    """What each pod of an idle installation has in memory, as `kubectl top` would show it.

    Each has been scraped once by then, as by Prometheus.
    """
    with _installed() as knit:
        _scrape(knit)
        await asyncio.sleep(_SETTLED)
        _print_memory(knit, "roles apart")
        await asyncio.to_thread(knit.install, "--set", "workers.together=true")
        _scrape(knit)
        await asyncio.sleep(_SETTLED)
        _print_memory(knit, "workers.together")


async def one_run() -> None:
    """One Run with and without a log, in turns with the same pod and with a bare one by hand."""
    with _installed() as knit:
        await asyncio.sleep(_SETTLED)
        _print_memory(knit, "before its Runs")
        await _compare(knit)


@contextmanager
def _installed() -> Iterator[Installation]:
    up = [sys.executable, str(_UP), "--with-app"]
    found = json.loads(subprocess.run(up, stdout=subprocess.PIPE, check=True).stdout)
    with tempfile.TemporaryDirectory(prefix="knit-installed-") as folder:
        home, beside = Path(folder, "helm"), Path(folder, "beside")
        Path(folder).chmod(0o755)
        for each in (home, beside):
            each.mkdir()
        with installation(Helm("helm-3", home), found, beside) as knit:
            figure("installed, images present", knit.install(), "s", "<= 120")
            yield knit


def _scrape(knit: Installation) -> None:
    sizes = {pod.rsplit("-", 2)[0]: len(knit.metrics(pod).splitlines()) for pod in knit.pods()}
    print(f"lines of metrics: {sizes}", file=sys.stderr)


def _print_memory(knit: Installation, shape: str) -> None:
    (node,) = knit.get("nodes")["items"]
    path = f"/api/v1/nodes/{node['metadata']['name']}/proxy/stats/summary"
    pods = json.loads(knit.kubectl("get", "--raw", path))["pods"]
    ours = knit.pods()
    used: dict[str, dict[str, float]] = {}
    for pod in pods:
        name = pod["podRef"]["name"]
        if pod["podRef"]["namespace"] == knit.helm.namespace and name in ours:
            (container,) = pod["containers"]
            measured = container["memory"]
            used[name.rsplit("-", 2)[0]] = {
                kind: round(measured[f"{kind}Bytes"] / 2**20, 1) for kind in ("workingSet", "rss")
            }
    figure(
        f"the whole installation, idle, {shape}",
        sum(each["workingSet"] for each in used.values()),
        "MiB",
        "<= 400",
        rss=round(sum(each["rss"] for each in used.values()), 1),
        pods={name: each["workingSet"] for name, each in sorted(used.items())},
        without="PostgreSQL and Temporal",
    )


@dataclass
class _Series:
    """The same thing, measured some times."""

    took: list[float] = field(default_factory=list)
    steps: list[dict[str, float]] = field(default_factory=list)

    def add(self, begun: float, took: float, steps: Mapping[str, float]) -> None:
        self.took.append(took)
        self.steps.append({"begun": begun, **steps})

    @property
    def median(self) -> float:
        return percentile(self.took, 0.5)


async def _compare(knit: Installation) -> None:
    settings = KubernetesSettings(
        kubeconfig=knit.helm.kubeconfig,
        kube_namespace=knit.helm.namespace,
        pod_image=knit.images["knit"],
        restricted=True,
    )
    beside = knit.beside
    address = f"{beside.address}:{beside.postgres_port}"
    url = f"postgresql://knit:{beside.passwords['knit']}@{address}/knit"
    store = PostgresStore(StoreSettings(url=SecretStr(url)))
    server = ApiServer(settings)
    await store.open()
    await server.open()
    try:
        async with Pods.of(server) as pods:
            await asyncio.to_thread(knit.push, "type:word", "knit")
            by_hand = ByHand(
                server,
                settings,
                pods,
                describer(knit.images["busybox"], COMMAND, RESOURCES, logged=True),
            )
            found = await _in_turns(knit, store, pods, by_hand)
    finally:
        await server.aclose()
        await store.aclose()
    _print_runs(found)


async def _in_turns(
    knit: Installation, store: PostgresStore, pods: Pods, by_hand: ByHand
) -> dict[str, _Series]:
    kinds: Sequence[Kind] = ("same", "bare")
    found = {name: _Series() for name in ("logged", "unlogged", *kinds)}
    for turn in range(_TURNS + 1):
        measured: dict[str, tuple[float, float, dict[str, float]]] = {}
        for name in ("logged", "unlogged"):
            measured[name] = await _run(knit, store, pods, logged=name == "logged")
        for kind in kinds:
            took, (steps,) = await by_hand.round(1, kind)
            measured[kind] = steps["over"] - took, took, steps
        for name, (begun, took, steps) in measured.items():
            if turn:  # the first of each warms up
                found[name].add(begun, took, steps)
        seconds = {name: round(each[1], 2) for name, each in measured.items()}
        sys.stderr.write(f"turn {turn} of {_TURNS}: {seconds}\n")
    return found


async def _run(
    knit: Installation, store: PostgresStore, pods: Pods, *, logged: bool
) -> tuple[float, float, dict[str, float]]:
    """Applies a Plan for the one Data; gives when, how long its Run took, and the steps of both."""
    plan: dict[str, Any] = {
        "image": knit.images["busybox"],
        "entrypoint": [*COMMAND, uuid.uuid4().hex],
        "inputs": [{"path": "/in", "tags": ["type:word"]}],
        "outputs": [{"path": "/out", "tags": ["type:made"]}],
        "resources": RESOURCES,
    }
    if logged:
        plan["log"] = {"tags": ["type:log"]}
    begun = time.time()
    made = await asyncio.to_thread(knit.ask, "POST", "/api/plans", json=plan)
    plan_id = PlanId(made["planId"])
    (steps,) = await pods.until_over({names.LABEL_PLAN: plan_id}, 1)
    (run,) = await store.runs.find(RunQuery(plan_ids=frozenset({plan_id})))
    run_id = run.summary.run_id
    async with asyncio.timeout(60):
        while not (ended := await store.runs.get(run_id)).summary.status.is_final:
            await asyncio.sleep(0.01)
    assert ended.summary.status == "done", ended
    moves = {str(one.to_status): one.at.timestamp() for one in await store.runs.events(run_id)}
    return begun, moves["done"] - begun, {**steps, **moves}


def _print_runs(found: Mapping[str, _Series]) -> None:
    bare = found["bare"].median
    for name, target in (("logged", "-"), ("unlogged", "<= 1.10 x a bare pod with claim")):
        series = found[name]
        figure(
            f"one Run on the installed system, {name}",
            series.median,
            "s",
            target,
            bare=round(bare, 3),
            same=round(found["same"].median, 3),
            ratio_to_bare=round(series.median / bare, 2),
            ratio_to_same=round(series.median / found["same"].median, 2),
            samples=len(series.took),
            ratio_to_bare_ended=round(series.median / _ended(found["bare"]), 2),
            median_ms=between(
                series.steps, ("begun", "waiting", "ready", "starting", *STEPS[:-1], "done")
            ),
            bare_median_ms=between(found["bare"].steps, ("begun", *STEPS)),
            same_median_ms=between(found["same"].steps, ("begun", *STEPS)),
            same_is="a pod with the containers of a Run that keeps its log",
            bare_ended_is="until its container has ended, a second before the pod is Succeeded",
            all=[round(each, 2) for each in series.took],
            all_bare=[round(each, 2) for each in found["bare"].took],
        )


def _ended(series: _Series) -> float:
    return percentile([each["ended"] - each["begun"] for each in series.steps], 0.5)
