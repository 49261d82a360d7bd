"""The real node of the tests as a site's back-end: a namespace of its own, and its own faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, Final

import psutil
import yaml
from kubernetes.aio import client

from knit_workflows import names
from knit_workflows.compute.kubernetes.api.credentials import of_kubeconfig
from tests.chaos.campaign.batch import Campaign
from tests.chaos.campaign.faults import Fault, Kind, frozen
from tests.chaos.campaign.http_proxy import ApiServerProxy
from tests.chaos.campaign.invariants import Ledger
from tests.chaos.campaign.site import site
from tests.chaos.campaign.work import Workload
from tests.contract.compute.kubernetes_adapter import KubernetesAdapter, kubernetes_adapter

_RESOURCES: Final = {"resources": {"cpu": "20m", "memory": "32Mi"}}
_LOOKS: Final = 100
_COMPONENTS: Final = ("kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


class NodeCompute:
    """What is in the namespace."""

    def __init__(self, adapter: KubernetesAdapter, proxy: ApiServerProxy) -> None:
        self.image = adapter.image
        self.settings = adapter.settings
        self.proxy = proxy
        self.cluster = adapter.cluster

    async def volumes(self) -> Mapping[str, Path]:
        """Gives the folders behind claims."""
        return await self.cluster.folders()

    async def remains(self) -> list[str]:
        """Gives Jobs and Pods."""
        return await self.cluster.workload()

    def kinds(self, ledger: Ledger, random: Random) -> list[Kind]:
        """Gives the faults that only this back-end has."""
        faults = _NodeFaults(self, ledger, random)
        api = ["API server"]
        return [
            Kind("API server answers 429", api, 3.0, 2, faults.refuse),
            Kind("API server answers 500", api, 3.0, 2, faults.refuse),
            Kind("API server answers 503", api, 3.0, 1, faults.refuse),
            Kind("watches cut", api, 0.1, 4, faults.cut_watches),
            Kind("API server does not answer", api, 4.0, 2, faults.stall),
            Kind("API server slow", api, 4.0, 2, faults.slow),
            Kind("SIGSTOP of the node's", _COMPONENTS, 4.0, 3, faults.freeze),
            Kind("deleted by hand", ["Pod", "Job"], 0.1, 2, faults.delete),
            Kind("Pod evicted", ["Pod"], 0.1, 1, faults.evict),
        ]


class _NodeFaults:
    def __init__(self, compute: NodeCompute, ledger: Ledger, random: Random) -> None:
        self._proxy = compute.proxy
        self._cluster = compute.cluster
        self._ledger = ledger
        self._random = random
        self._lock = asyncio.Lock()

    async def refuse(self, fault: Fault) -> str:
        """Most requests, or all, are refused."""
        async with self._lock:
            share = self._random.choice((0.5, 0.8, 1.0))
            self._proxy.storm = (int(fault.kind.split()[-1]), share)
            await asyncio.sleep(fault.seconds)
            self._proxy.storm = None
        return fault.target

    async def cut_watches(self, fault: Fault) -> str:
        """Whoever watches has to ask again."""
        return fault.target if self._proxy.cut_watches() else ""

    async def stall(self, fault: Fault) -> str:
        """Requests wait."""
        self._proxy.hold()
        await asyncio.sleep(fault.seconds)
        self._proxy.let_go()
        return fault.target

    async def slow(self, fault: Fault) -> str:
        """Each request takes half a second longer."""
        self._proxy.delay = 0.5
        await asyncio.sleep(fault.seconds)
        self._proxy.delay = 0.0
        return fault.target

    async def freeze(self, fault: Fault) -> str:
        """A component of the node stands still; whatever happens, it is let go."""
        async with self._lock:
            pids = _component(fault.target)
            with frozen(pids):
                await asyncio.sleep(fault.seconds)
        return fault.target if pids else ""

    async def delete(self, fault: Fault) -> str:
        """An operator deletes a Run's Pod or Job."""
        cluster = self._cluster
        do = cluster.delete_pod if fault.target == "Pod" else cluster.delete_job
        return await self._to_some_run(fault, do)

    async def evict(self, fault: Fault) -> str:
        """As `kubectl drain` does."""
        return await self._to_some_run(fault, self._cluster.evict)

    async def _to_some_run(self, fault: Fault, do: Any) -> str:
        for _ in range(_LOOKS):
            jobs = sorted(await self._cluster.jobs())
            runs = [of[0] for of in map(names.run_of_pod, jobs) if of]
            if runs:
                break
            await asyncio.sleep(0.2)
        else:
            return ""
        run_id = self._random.choice(runs)
        self._ledger.disturbed[run_id] = fault.kind
        with suppress(client.ApiException, ValueError):  # it is gone, or has no pod
            await do(run_id)
            return run_id
        return ""


def _component(name: str) -> list[int]:
    """Gives the process of the test node that has this name; others' nodes have other parents."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        with suppress(psutil.Error):
            parent = process.parent()
            words = process.info["cmdline"] or [""]
            of_node = parent is not None and any(
                word.endswith("tests/cluster/node.py") for word in parent.cmdline()
            )
            if of_node and words[0].endswith(f"/{name}"):
                found.append(process.pid)
    return found


def _kubeconfig(url: str) -> str:
    named = {"name": "proxy"}
    context = {"cluster": "proxy", "user": "proxy"}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "proxy",
            "clusters": [{**named, "cluster": {"server": url}}],
            "users": [{**named, "user": {}}],
            "contexts": [{**named, "context": context}],
        }
    )


@asynccontextmanager
async def node_campaign(folder: Path, seed: int) -> AsyncIterator[Campaign]:
    """Has a site whose Runs are pods, and reaches the cluster through a proxy."""
    async with AsyncExitStack() as stack:
        adapter = await stack.enter_async_context(kubernetes_adapter())
        settings = adapter.settings
        assert settings.kubeconfig is not None
        known = await of_kubeconfig(settings.kubeconfig)
        proxy = ApiServerProxy(known.server, known.tls, Random(seed))
        await proxy.open()
        stack.push_async_callback(proxy.aclose)
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(_kubeconfig(proxy.url))
        environment = {
            "KNIT_COMPUTE__KIND": "kubernetes",
            "KNIT_COMPUTE__KUBERNETES__KUBECONFIG": str(kubeconfig),
            "KNIT_COMPUTE__KUBERNETES__KUBE_NAMESPACE": settings.kube_namespace,
            "KNIT_COMPUTE__KUBERNETES__POD_IMAGE": settings.pod_image,
            "KNIT_ENGINE__GC_GRACE_PERIOD": "PT10S",
            "KNIT_ENGINE__TRANSFER_LEASE": "PT15S",
        }
        built = await stack.enter_async_context(site(folder, environment))
        compute = NodeCompute(adapter, proxy)
        work = Workload(built)
        await work.register(compute.image, _RESOURCES)
        yield Campaign(built, compute, work, seed, "node", pushes=4, spread=8.0)
