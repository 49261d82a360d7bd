"""What Runs cost on the real node, beside the same pods and claims made by hand."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from knit_workflows import names
from knit_workflows.compute.kubernetes.api.server import ApiServer
from knit_workflows.domain.ids import KnitId
from knit_workflows.domain.tags import Tag
from knit_workflows.domain.volumes import Volume
from knit_workflows.settings import KubernetesSettings
from tests.bench.by_hand import STEPS, ByHand, Kind, Pods, between, describer
from tests.bench.figures import figure, percentile
from tests.bench.stack import Stack, stack
from tests.contract.compute.kubernetes_adapter import kubernetes_adapter

COMMAND = ("sh", "-c", "echo made > /out/file")
RESOURCES = {"cpu": "0", "memory": "32Mi"}
"""So little that all pods of a bench fit on the node at once. No CPU, where a Plan that names none
asks for a core: the start of a container is within its limit, and a tenth makes seconds of it."""


@dataclass(frozen=True)
class Bench:
    """A stack whose worker runs Plans on the node, and somebody who makes pods by hand there."""

    knit: Stack
    settings: KubernetesSettings
    by_hand: ByHand
    pods: Pods
    image: str

    async def commit_data(self, tag: Tag) -> KnitId:
        """Commits Data whose volume really exists and is bound, as those of uploads do."""
        knit_id = KnitId(str(uuid.uuid4()))
        await self.by_hand.volume(Volume(names.volume(knit_id), knit_id))
        return await self.knit.commit_data(tag, knit_id=knit_id)

    def plan(self, tag: Tag) -> dict[str, object]:
        """Gives a Plan that takes Data with this tag."""
        return {
            "image": self.image,
            "entrypoint": list(COMMAND),
            "inputs": [{"path": "/in", "tags": [str(tag)]}],
            "outputs": [{"path": "/out", "tags": ["type:made"]}],
            "log": {"tags": ["type:log"]},
            "resources": RESOURCES,
        }


@asynccontextmanager
async def on_the_node(
    more: Mapping[str, str] | None = None, *, metrics_port: int | None = None
) -> AsyncIterator[Bench]:
    """Gives a stack whose worker runs Plans in a fresh namespace of the node.

    `more` are settings of knit besides those that say where that is; the worker serves its metrics
    on `metrics_port`, if there is one.
    """
    async with kubernetes_adapter() as adapter:
        settings: KubernetesSettings = adapter.settings
        environment = {
            "KNIT_COMPUTE__KIND": "kubernetes",
            "KNIT_COMPUTE__KUBERNETES__KUBECONFIG": str(settings.kubeconfig),
            "KNIT_COMPUTE__KUBERNETES__KUBE_NAMESPACE": settings.kube_namespace,
            "KNIT_COMPUTE__KUBERNETES__POD_IMAGE": settings.pod_image,
            **(more or {}),
        }
        server = ApiServer(settings)
        await server.open()
        try:
            async with stack(environment, metrics_port) as knit, Pods.of(server) as pods:
                describe = describer(adapter.image, COMMAND, RESOURCES, logged=True)
                by_hand = ByHand(server, settings, pods, describe)
                yield Bench(knit, settings, by_hand, pods, adapter.image)
        finally:
            await server.aclose()


async def one_run(samples: int) -> None:
    """One Run, from the commit of its input to done, in turns with the same pod by hand."""
    ours, same, bare = [], [], []
    tag = Tag("type", "dataset")
    async with on_the_node() as bench:
        plan_id = await bench.knit.apply(bench.plan(tag))
        for number in range(samples + 1):
            knit_id = await bench.commit_data(tag)
            begun = time.perf_counter()
            await bench.knit.run_of(plan_id, knit_id)
            took = time.perf_counter() - begun
            beside, _ = await bench.by_hand.round(1, "same")
            alone, _ = await bench.by_hand.round(1, "bare")
            if number:  # the first of each warms up
                ours.append(took)
                same.append(beside)
                bare.append(alone)
    _compared("one Run on the real node", ours, same, bare, "<= 1.15 x the same pod")


async def many_runs(count: int, rounds: int = 3) -> None:
    """A Plan that finds so many Data, in turns with as many pods and claims made at once by hand.

    All three are watched from the first request to the end of the last; inputs are bound before.
    """
    ours: list[float] = []
    by_hand: dict[Kind, list[float]] = {"same": [], "bare": []}
    steps: dict[str, list[dict[str, float]]] = {"runs": [], "same": [], "bare": []}
    moves: list[dict[str, float]] = []
    async with on_the_node() as bench:
        for number in range(rounds):
            tag = Tag("round", str(number))
            for _ in range(count):
                await bench.commit_data(tag)
            begun = time.time()
            plan_id = await bench.knit.apply(bench.plan(tag))
            label = {names.LABEL_PLAN: str(plan_id)}
            of_runs = await bench.pods.until_over(label, count)
            await bench.knit.until_done(count * (number + 1))
            ours.append(time.time() - begun)
            steps["runs"] += [{"begun": begun, **each} for each in of_runs]
            moves += [{"begun": begun, **each} for each in await bench.knit.moves_of(plan_id)]
            for kind, took in by_hand.items():
                seconds, found = await bench.by_hand.round(count, kind)
                took.append(seconds)
                began = max(each["over"] for each in found) - seconds
                steps[kind] += [{"begun": began, **each} for each in found]
    _compared(
        f"{count} Runs at once on the real node",
        ours,
        by_hand["same"],
        by_hand["bare"],
        "<= 1.5 x the same pods",
        median_ms={kind: between(each, ("begun", *STEPS)) for kind, each in steps.items()},
        median_ms_of_runs=between(moves, ("begun", "waiting", "ready", "starting", "done")),
        all={"runs": _rounded(ours)} | {kind: _rounded(took) for kind, took in by_hand.items()},
    )


def _compared(
    name: str,
    ours: list[float],
    same: list[float],
    bare: list[float],
    target: str,
    **beside: object,
) -> None:
    middle, same_middle, bare_middle = (percentile(each, 0.5) for each in (ours, same, bare))
    figure(
        name,
        middle,
        "s",
        target,
        same=round(same_middle, 3),
        bare=round(bare_middle, 3),
        ratio_to_same=round(middle / same_middle, 2),
        ratio_to_bare=round(middle / bare_middle, 2),
        same_is="pods with the same containers, and their claims, made at once and watched",
        bare_is="pods with the user's container alone, and their claims",
        samples=len(ours),
        **beside,
    )


def _rounded(values: list[float]) -> list[float]:
    return [round(each, 1) for each in values]
