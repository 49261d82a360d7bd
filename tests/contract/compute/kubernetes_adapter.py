"""The Kubernetes back-end under the contract suite: a namespace of its own in a real cluster."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import tarfile
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
import yaml
from kubernetes.aio import client, config

from knit_workflows import names
from knit_workflows.compute.base import ComputeBackend, Endpoint, RunPod, Transfer
from knit_workflows.compute.kubernetes import KubernetesBackend
from knit_workflows.domain.volumes import Volume
from knit_workflows.settings import KubernetesSettings
from tests.contract.compute.adapter import ComputeAdapter, bind_socket, read_folder, write_folder
from tests.waiting import PATIENCE

_UP = Path(__file__).parents[2] / "cluster" / "up.py"


class KubernetesAdapter(ComputeAdapter):
    """Run pods on a node; volumes are looked at in the node's own file system, which is ours."""

    # Containers start and end in whole seconds here, and other builds may take the processors.
    patience: ClassVar[timedelta] = timedelta(seconds=PATIENCE)

    nobodys_image: ClassVar[str] = ""
    """Like `image`, for a user that is not root."""

    def __init__(self, settings: KubernetesSettings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster
        self._backend = KubernetesBackend(settings)

    @property
    def backend(self) -> KubernetesBackend:
        """The back-end under test."""
        return self._backend

    @property
    def settings(self) -> KubernetesSettings:
        """Namespace, images and rights, for another process that works here too."""
        return self._settings

    @property
    def cluster(self) -> Cluster:
        """The cluster, to act behind the back-end's back."""
        return self._cluster

    @asynccontextmanager
    async def another(self) -> AsyncIterator[ComputeBackend]:
        """Gives a second object on the same namespace."""
        backend = KubernetesBackend(self._settings)
        await backend.open()
        try:
            yield backend
        finally:
            await backend.aclose()

    async def write_volume(self, volume: Volume, files: Mapping[str, bytes]) -> None:
        """Writes to the folder behind the claim."""
        folder = await self._cluster.folder(volume)
        await asyncio.to_thread(write_folder, folder, files)

    @asynccontextmanager
    async def foreign_volume(self, files: Mapping[str, bytes]) -> AsyncIterator[str]:
        """Makes a claim without any label of knit."""
        name = f"theirs-{uuid.uuid4().hex[:8]}"
        await self._cluster.create_claim(name)
        folder = await self._cluster.folder(Volume(name, name))
        await asyncio.to_thread(write_folder, folder, files)
        try:
            yield name
        finally:
            await self._cluster.delete_claim(name)

    async def leave_socket(self, volume: Volume, name: str) -> None:
        """Makes it in the folder behind the claim."""
        folder = await self._cluster.folder(volume)
        await asyncio.to_thread(bind_socket, folder / name)

    async def read_volume(self, volume: Volume) -> dict[str, bytes]:
        """Reads the folder behind the claim."""
        folder = await self._cluster.folder(volume)
        return await asyncio.to_thread(read_folder, folder)

    async def send(
        self, endpoint: Endpoint, transfer: Transfer, files: Mapping[str, bytes]
    ) -> None:
        """Posts a tar archive to the transfer pod."""
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text))
        async with _to(transfer) as http:
            (await http.post(endpoint.url, content=content.getvalue())).raise_for_status()

    async def receive(self, endpoint: Endpoint, transfer: Transfer) -> dict[str, bytes]:
        """Gets a tar archive from the transfer pod."""
        async with _to(transfer) as http:
            answer = (await http.get(endpoint.url)).raise_for_status()
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
            members = {each.name: archive.extractfile(each) for each in archive}
        return {name.removeprefix("./"): f.read() for name, f in members.items() if f is not None}


def _to(transfer: Transfer) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {transfer.token}"}
    return httpx.AsyncClient(headers=headers, trust_env=False, timeout=PATIENCE)


class Cluster:
    """The cluster seen past the back-end: its namespaces, and the folders behind its claims."""

    def __init__(self, api: Any, namespace: str) -> None:
        self._core = client.CoreV1Api(api)
        self._batch = client.BatchV1Api(api)
        self._scheduling = client.SchedulingV1Api(api)
        self._storage = client.StorageV1Api(api)
        self._namespace = namespace

    async def create(self, standard: str) -> None:
        """Makes the namespace, closed to pods below a Pod Security Standard."""
        enforced = {"pod-security.kubernetes.io/enforce": standard}
        about = client.V1ObjectMeta(name=self._namespace, labels=enforced)
        await self._core.create_namespace(client.V1Namespace(metadata=about))

    async def remove(self) -> None:
        """Removes the namespace with all that is in it: the next test has the node alone."""
        await self._core.delete_namespace(self._namespace)
        async with asyncio.timeout(KubernetesAdapter.patience.total_seconds()):
            while await self._is_there():
                await asyncio.sleep(0.5)

    async def _is_there(self) -> bool:
        try:
            await self._core.read_namespace(self._namespace)
        except client.ApiException as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return True

    async def delete_pod(self, run_id: str) -> None:
        """Deletes a Run's pod as an operator does, with the pod's own grace."""
        mine = f"{names.LABEL_RUN}={run_id}"
        await self._core.delete_collection_namespaced_pod(self._namespace, label_selector=mine)

    async def evict(self, run_id: str) -> None:
        """Evicts a Run's pod through the eviction API, as `kubectl drain` does."""
        name = await self._name_of(run_id)
        body = client.V1Eviction(metadata=client.V1ObjectMeta(name=name))
        await self._core.create_namespaced_pod_eviction(name, self._namespace, body)

    async def pod_of(self, run_id: str) -> Any:
        """Gives the pod of a Run; raises ValueError if there is none, or a second one."""
        mine = f"{names.LABEL_RUN}={run_id}"
        [found] = (await self._core.list_namespaced_pod(self._namespace, label_selector=mine)).items
        return found

    async def _name_of(self, run_id: str) -> str:
        return str((await self.pod_of(run_id)).metadata.name)

    async def has_succeeded(self, pod: RunPod) -> bool:
        """Says whether Kubernetes calls a run pod `Succeeded`."""
        found = await self._core.read_namespaced_pod(
            await self._name_of(pod.run_id), self._namespace
        )
        return bool(found.status.phase == "Succeeded")

    async def run_job(self, manifest: dict[str, Any]) -> None:
        """Creates a Job as it is, such as an admission webhook would have made it."""
        await self._batch.create_namespaced_job(self._namespace, manifest)

    @asynccontextmanager
    async def priority_class(self, value: int) -> AsyncIterator[str]:
        """Makes a PriorityClass of that value."""
        name = f"knit-contract-{uuid.uuid4().hex[:8]}"
        about = client.V1ObjectMeta(name=name)
        await self._scheduling.create_priority_class(
            client.V1PriorityClass(metadata=about, value=value)
        )
        try:
            yield name
        finally:
            await self._scheduling.delete_priority_class(name)

    async def create_rival(self, pod: RunPod, image: str, priority_class: str) -> None:
        """Makes a pod that cannot be on a node with that run pod, and asks for nothing else."""
        apart = {
            "labelSelector": {"matchLabels": {names.LABEL_RUN: pod.run_id}},
            "topologyKey": "kubernetes.io/hostname",
        }
        spec = {
            "priorityClassName": priority_class,
            "restartPolicy": "Never",
            "containers": [{"name": "rival", "image": image, "command": ["true"]}],
            "affinity": {
                "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}
            },
        }
        body = {"metadata": {"name": f"rival-{uuid.uuid4().hex[:8]}"}, "spec": spec}
        await self._core.create_namespaced_pod(self._namespace, body)

    async def create_claim(self, name: str) -> None:
        """Makes a claim of the default class, as any user may."""
        spec = client.V1PersistentVolumeClaimSpec(
            access_modes=["ReadWriteMany"],
            resources=client.V1VolumeResourceRequirements(requests={"storage": "1Mi"}),
        )
        about = client.V1ObjectMeta(name=name)
        claim = client.V1PersistentVolumeClaim(metadata=about, spec=spec)
        await self._core.create_namespaced_persistent_volume_claim(self._namespace, claim)

    async def claims(self) -> set[str]:
        """Gives the names of the claims that are there and not about to go."""
        found = await self._core.list_namespaced_persistent_volume_claim(self._namespace)
        return {one.metadata.name for one in found.items if one.metadata.deletion_timestamp is None}

    async def folders(self) -> dict[str, Path]:
        """Gives the folders behind the bound claims that are not about to go, by their names."""
        found = await self._core.list_persistent_volume()
        behind = {
            one.spec.claim_ref.name: Path((one.spec.host_path or one.spec.local).path)
            for one in found.items
            if one.spec.claim_ref and one.spec.claim_ref.namespace == self._namespace
        }
        return {name: behind[name] for name in await self.claims() if name in behind}

    async def jobs(self) -> list[str]:
        """Gives the names of the Jobs that are there."""
        found = await self._batch.list_namespaced_job(self._namespace)
        return [one.metadata.name for one in found.items]

    async def workload(self) -> list[str]:
        """Gives all Jobs and Pods that are there, those that are about to go too."""
        pods = await self._core.list_namespaced_pod(self._namespace)
        jobs = [f"Job {name}" for name in await self.jobs()]
        return jobs + [f"Pod {one.metadata.name} {one.status.phase}" for one in pods.items]

    async def delete_job(self, run_id: str) -> None:
        """Deletes a Run's Job, and its pods with it, as an operator does."""
        mine = f"{names.LABEL_RUN}={run_id}"
        await self._batch.delete_collection_namespaced_job(
            self._namespace, label_selector=mine, propagation_policy="Background"
        )

    async def delete_claim(self, name: str) -> None:
        """Deletes a claim."""
        await self._core.delete_namespaced_persistent_volume_claim(name, self._namespace)

    async def pods_of(self, pod: RunPod) -> list[Any]:
        """Gives the pods of a Run as the API server has them."""
        mine = f"{names.LABEL_RUN}={pod.run_id}"
        return (await self._core.list_namespaced_pod(self._namespace, label_selector=mine)).items

    async def suspend(self, pod: RunPod, suspended: bool) -> None:
        """Does to a Job what Kueue does."""
        patch = {"spec": {"suspend": suspended}}
        await self._batch.patch_namespaced_job(pod.name, self._namespace, patch)

    @asynccontextmanager
    async def waiting_class(self, kubeconfig: Path, folder: Path) -> AsyncIterator[str]:
        """Makes a StorageClass whose volumes are made when a pod needs them, in this folder."""
        name = f"knit-test-{uuid.uuid4().hex[:8]}"
        await self._storage.create_storage_class(
            client.V1StorageClass(
                metadata=client.V1ObjectMeta(name=name),
                provisioner="knit.test/folders",
                volume_binding_mode="WaitForFirstConsumer",
            )
        )
        [cluster] = yaml.safe_load(kubeconfig.read_text())["clusters"]
        url = cluster["cluster"]["server"]
        certificates = kubeconfig.parent / "certificates"
        provisioner = await asyncio.create_subprocess_exec(
            sys.executable, _UP.with_name("provisioner.py"), url, certificates, folder, name
        )
        try:
            yield name
        finally:
            provisioner.terminate()
            await provisioner.wait()
            await self._storage.delete_storage_class(name)

    @asynccontextmanager
    async def expandable_class(self) -> AsyncIterator[str]:
        """Makes a StorageClass whose claims may grow, and one volume of it of 1 Gi."""
        name = f"knit-test-{uuid.uuid4().hex[:8]}"
        about = client.V1ObjectMeta(name=name)
        await self._storage.create_storage_class(
            client.V1StorageClass(
                metadata=about,
                provisioner="kubernetes.io/no-provisioner",
                allow_volume_expansion=True,
            )
        )
        spec = client.V1PersistentVolumeSpec(
            access_modes=["ReadWriteMany"],
            capacity={"storage": "1Gi"},
            storage_class_name=name,
            persistent_volume_reclaim_policy="Retain",
            host_path=client.V1HostPathVolumeSource(path="/nonexistent"),
        )
        await self._core.create_persistent_volume(
            client.V1PersistentVolume(metadata=about, spec=spec)
        )
        try:
            yield name
        finally:
            await self._core.delete_persistent_volume(name)
            await self._storage.delete_storage_class(name)

    async def node(self) -> str:
        """Gives the name of a node."""
        name: str = (await self._core.list_node()).items[0].metadata.name
        return name

    async def requested(self, volume: Volume) -> tuple[str, str]:
        """Gives the phase of a claim, and what it requests."""
        claim = await self._core.read_namespaced_persistent_volume_claim(
            volume.name, self._namespace
        )
        return claim.status.phase, claim.spec.resources.requests["storage"]

    async def limit_pods(self, hard: dict[str, str]) -> None:
        """Makes a quota."""
        quota = client.V1ResourceQuota(
            metadata=client.V1ObjectMeta(name="quota"), spec=client.V1ResourceQuotaSpec(hard=hard)
        )
        await self._core.create_namespaced_resource_quota(self._namespace, quota)

    async def delete_account(self, name: str) -> None:
        """Deletes a service account."""
        await self._core.delete_namespaced_service_account(name, self._namespace)

    async def secrets_of(self, pod: RunPod) -> set[str]:
        """Gives the names of the Secrets of a Run."""
        mine = f"{names.LABEL_RUN}={pod.run_id}"
        found = await self._core.list_namespaced_secret(self._namespace, label_selector=mine)
        return {one.metadata.name for one in found.items}

    async def until_no_secrets(self, pod: RunPod) -> None:
        """Waits until they are gone."""
        async with asyncio.timeout(KubernetesAdapter.patience.total_seconds()):
            while await self.secrets_of(pod):
                await asyncio.sleep(0.05)

    async def set_quota(self, name: str, **hard: str) -> None:
        """Makes a quota, and waits until the cluster has counted what it covers."""
        spec = client.V1ResourceQuotaSpec(hard=hard)
        about = client.V1ObjectMeta(name=name)
        quota = client.V1ResourceQuota(metadata=about, spec=spec)
        await self._core.create_namespaced_resource_quota(self._namespace, quota)
        read = self._core.read_namespaced_resource_quota
        async with asyncio.timeout(KubernetesAdapter.patience.total_seconds()):
            while (await read(name, self._namespace)).status.used is None:
                await asyncio.sleep(0.05)

    async def delete_quota(self, name: str) -> None:
        """Deletes a quota."""
        await self._core.delete_namespaced_resource_quota(name, self._namespace)

    async def names_of(self, volume: Volume) -> dict[str, str]:
        """Gives the names that a bound claim's folder may have, and what stands for each."""
        claim = await self._core.read_namespaced_persistent_volume_claim(
            volume.name, self._namespace
        )
        fields = {claim.spec.volume_name: "{pv}", volume.name: "{claim}"}
        return fields | {self._namespace: "{namespace}"}

    async def folder(self, volume: Volume) -> Path:
        """Gives the folder of a bound claim; skips where it is not on this machine."""
        claims = self._core.read_namespaced_persistent_volume_claim
        async with asyncio.timeout(KubernetesAdapter.patience.total_seconds()):
            while (claim := await claims(volume.name, self._namespace)).status.phase != "Bound":
                await asyncio.sleep(0.05)
        spec = (await self._core.read_persistent_volume(claim.spec.volume_name)).spec
        source = spec.host_path or spec.local
        if source is None or not Path(source.path).is_dir():
            pytest.skip("the cluster's volumes are not on this machine")
        return Path(source.path)

    async def log(self, pod: RunPod) -> str:
        """Gives what `kubectl logs` of the pod's main container shows."""
        mine = f"{names.LABEL_RUN}={pod.run_id}"
        (found,) = (
            await self._core.list_namespaced_pod(self._namespace, label_selector=mine)
        ).items
        shown: str = await self._core.read_namespaced_pod_log(
            found.metadata.name, self._namespace, container="main"
        )
        return shown


@asynccontextmanager
async def kubernetes_adapter(
    folder: Path | None = None, **changed: Any
) -> AsyncIterator[KubernetesAdapter]:
    """Gives the adapter on a fresh namespace; skips with the reason when there is no cluster.

    `changed` are settings other than the default; `folder` is for other adapters.
    """
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, str(_UP)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip((done.stderr.strip() or "tests/cluster/up.py failed").splitlines()[-1])
    found = json.loads(done.stdout)
    if "knit" not in found["images"]:
        pytest.skip("the cluster has no registry for the tests' images")
    KubernetesAdapter.image = found["images"]["busybox"]
    KubernetesAdapter.nobodys_image = found["images"]["nobody"]
    KubernetesAdapter.missing_image = f"{found['registry']}/knit-contract/never-made:1"
    settings = KubernetesSettings(
        kubeconfig=Path(found["kubeconfig"]),
        kube_namespace=f"knit-contract-{uuid.uuid4().hex[:8]}",
        pod_image=found["images"]["knit"],
        **changed,
    )
    api = await config.new_client_from_config(found["kubeconfig"], persist_config=False)
    cluster = Cluster(api, settings.kube_namespace)
    async with api:
        await cluster.create("restricted" if settings.restricted else "baseline")
        try:
            adapter = KubernetesAdapter(settings, cluster)
            await adapter.backend.open()
            await adapter.backend.ensure_prerequisites()
            yield adapter
            await adapter.backend.aclose()
        finally:
            await cluster.remove()
