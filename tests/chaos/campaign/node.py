"""The real node of the tests as a site's back-end: a namespace of its own, and its own faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

import aiohttp
import httpx
import psutil
import psycopg
import yaml
from kubernetes.aio import client

from knit_workflows import names
from knit_workflows.compute.kubernetes.api.credentials import of_kubeconfig
from tests.chaos.campaign.batch import Campaign
from tests.chaos.campaign.faults import Fault, Kind, frozen, kill
from tests.chaos.campaign.http_proxy import ApiServerProxy
from tests.chaos.campaign.invariants import Ledger
from tests.chaos.campaign.parts import BACK
from tests.chaos.campaign.site import Site, site
from tests.chaos.campaign.work import Workload
from tests.contract.compute.kubernetes_adapter import KubernetesAdapter, kubernetes_adapter

_RESOURCES: Final = {"resources": {"cpu": "20m", "memory": "32Mi"}}
_LOOKS: Final = 100
_COMPONENTS: Final = ("kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
_MORTAL: Final = ("kubelet", "kubelet", "kube-apiserver", "kube-apiserver", *_COMPONENTS[2:])
_AGAIN: Final = 0.2
T = TypeVar("T")


_CLAIMS: Final = """
SELECT knit_id::text, data.run_id::text, volume, is_log
  FROM data JOIN plan_output USING (output_id) JOIN run ON run.run_id = data.run_id
 WHERE run.status IN ('ready', 'starting', 'running')
    OR EXISTS (SELECT FROM run_input i JOIN run r USING (run_id) WHERE i.knit_id = data.knit_id
                  AND r.status IN ('waiting', 'ready', 'starting', 'running'))
 ORDER BY knit_id
"""
"""Of what is being made, and of what is about to be read."""
_WAITING: Final = """
SELECT DISTINCT run.run_id::text, holdup
  FROM run LEFT JOIN run_input USING (run_id) LEFT JOIN data ON data.run_id = run.run_id
 WHERE run.status IN ('ready', 'starting') AND holdup IS NOT NULL
   AND (run_input.knit_id::text = ANY(%s) OR data.knit_id::text = ANY(%s))
"""


class NodeCompute:
    """What is in the namespace."""

    def __init__(self, adapter: KubernetesAdapter, proxy: ApiServerProxy) -> None:
        self.image = adapter.image
        self.settings = adapter.settings
        self.proxy = proxy
        self.cluster = adapter.cluster

    async def volumes(self) -> Mapping[str, Path]:
        """Gives the folders behind claims."""
        return await _answered(self.cluster.folders)

    async def remains(self) -> list[str]:
        """Gives Jobs and Pods."""
        return await _answered(self.cluster.workload)

    async def relieve(self, site: Site, ledger: Ledger) -> None:
        """Aborts Runs that say that they wait for a claim which was deleted."""
        if not ledger.lost:
            return
        with suppress(psycopg.OperationalError, httpx.TransportError):
            for one in await site.ask(_WAITING, *[list(ledger.lost)] * 2):
                if "claim" in json.dumps(one["holdup"]):
                    ledger.disturbed.setdefault(one["run_id"], "its claim was deleted")
                    await site.http.put(f"/runs/{one['run_id']}/abort")

    def kinds(self, site: Site, ledger: Ledger, random: Random) -> list[Kind]:
        """Gives the faults that only this back-end has."""
        faults = _NodeFaults(self, site, ledger, random)
        api = ["API server"]
        return [
            Kind("API server answers 429", api, 3.0, 2, faults.refuse),
            Kind("API server answers 500", api, 3.0, 2, faults.refuse),
            Kind("API server answers 503", api, 3.0, 1, faults.refuse),
            Kind("watches cut", api, 0.1, 4, faults.cut_watches),
            Kind("API server does not answer", api, 4.0, 2, faults.stall),
            Kind("API server slow", api, 4.0, 2, faults.slow),
            Kind("SIGSTOP of the node's", _COMPONENTS, 4.0, 3, faults.freeze),
            Kind("kill -9 of the node's", _MORTAL, 0.1, 3, faults.kill),
            Kind("SIGSTOP of a pod", ["Pod"], 3.0, 2, faults.freeze_pod),
            Kind("deleted by hand", ["Pod", "Job"], 0.1, 2, faults.delete),
            Kind("deleted by hand", ["claim"], 0.1, 2, faults.delete_claim),
            Kind("Pod evicted", ["Pod"], 0.1, 1, faults.evict),
        ]


class _NodeFaults:
    def __init__(self, compute: NodeCompute, site: Site, ledger: Ledger, random: Random) -> None:
        self._site = site
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

    async def kill(self, fault: Fault) -> str:
        """A component dies; the node starts it again, and nobody else has to do anything."""
        async with self._lock:
            before = _component(fault.target)
            for pid in before:
                kill(pid)
            async with asyncio.timeout(BACK):
                while before and set(_component(fault.target)) <= set(before):
                    await asyncio.sleep(_AGAIN)
                await _answered(self._cluster.node)
        return fault.target if before else ""

    async def freeze_pod(self, fault: Fault) -> str:
        """All processes of a Run's pod stand still: its end comes later, and nothing else."""
        run_id = await self._some_run()
        with suppress(client.ApiException, ValueError):  # it is gone, or has no pod
            if run_id:
                pids = _in_pod(await _answered(lambda: self._cluster.pod_of(run_id)))
                with frozen(pids):
                    await asyncio.sleep(fault.seconds if pids else 0)
                return run_id if pids else ""
        return ""

    async def delete_claim(self, fault: Fault) -> str:
        """An operator deletes the claim of a Data that is being made, or about to be read."""
        found: list[dict[str, Any]] = []
        for _ in range(_LOOKS):
            there = await self._site.ask_patiently(_CLAIMS)
            if found := [one for one in there if one["knit_id"] not in self._ledger.lost]:
                break
            await asyncio.sleep(_AGAIN)
        else:
            return ""
        one = self._random.choice(found)
        # First, since its Run may fail before the answer is here.
        self._ledger.disturbed.setdefault(one["run_id"], "its claim was deleted")
        self._ledger.lost.setdefault(one["knit_id"], False)
        try:
            await self._cluster.delete_claim(one["volume"])
            # What runs now has ended later, so that whoever has looked then has seen it.
            pod = await self._cluster.pod_of(one["run_id"])
        except (*_AWAY, client.ApiException, ValueError) as error:
            if not _is_unknown(error):
                return str(one["knit_id"])
            self._ledger.lost.pop(one["knit_id"])
            return ""
        self._ledger.lost[one["knit_id"]] = not one["is_log"] and _is_under_way(pod)
        return str(one["knit_id"])

    async def delete(self, fault: Fault) -> str:
        """An operator deletes a Run's Pod or Job."""
        cluster = self._cluster
        do = cluster.delete_pod if fault.target == "Pod" else cluster.delete_job
        return await self._to_some_run(fault, do)

    async def evict(self, fault: Fault) -> str:
        """As `kubectl drain` does."""
        return await self._to_some_run(fault, self._cluster.evict)

    async def _to_some_run(self, fault: Fault, do: Any) -> str:
        if not (run_id := await self._some_run()):
            return ""
        self._ledger.disturbed[run_id] = fault.kind
        with suppress(*_AWAY, client.ApiException, ValueError):  # it is gone, or has no pod
            await do(run_id)
            return run_id
        return ""

    async def _some_run(self) -> str:
        """Waits a little for a Run that has a Job."""
        for _ in range(_LOOKS):
            jobs = sorted(await _answered(self._cluster.jobs))
            if runs := [of[0] for of in map(names.run_of_pod, jobs) if of]:
                return self._random.choice(runs)
            await asyncio.sleep(_AGAIN)
        return ""


_AWAY: Final = (aiohttp.ClientError, OSError)


async def _answered(ask: Callable[[], Awaitable[T]]) -> T:
    """Asks until the API server answers: a fault may have killed it."""
    async with asyncio.timeout(BACK):
        while True:
            try:
                return await ask()
            except _AWAY:
                pass
            except client.ApiException as error:
                if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise
            await asyncio.sleep(_AGAIN)


def _is_unknown(error: Exception) -> bool:
    return isinstance(error, client.ApiException) and error.status == HTTPStatus.NOT_FOUND


def _is_under_way(pod: Any) -> bool:
    """Says whether the program of a pod has not ended yet."""
    if pod.status.phase not in ("Pending", "Running"):
        return False
    own = [one for one in pod.status.container_statuses or () if one.name == "main"]
    return all(one.state.terminated is None for one in own)


def _in_pod(pod: Any) -> list[int]:
    """Gives the processes of a pod, which the node keeps in a cgroup with its uid."""
    mine, found = f"/pod{pod.metadata.uid}/", []
    for process in psutil.process_iter(["pid"]):
        with suppress(OSError):
            if mine in Path(f"/proc/{process.pid}/cgroup").read_text():
                found.append(process.pid)
    return found


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
        yield Campaign(built, compute, work, seed, "node", pushes=10, spread=30.0)
