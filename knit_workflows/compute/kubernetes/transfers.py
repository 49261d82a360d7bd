"""Transfers: one pod per transfer; its token is in a Secret that the pod owns."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Final

from knit_workflows.compute.base import (
    Endpoint,
    StartFailure,
    StartFailureKind,
    Transfer,
    TransferMode,
)
from knit_workflows.compute.kubernetes.adopted_claims import refuse_change
from knit_workflows.compute.kubernetes.api.objects import (
    JsonObject,
    being_deleted,
    condition_is,
    created_at,
    now,
)
from knit_workflows.compute.kubernetes.api.server import ApiServer
from knit_workflows.compute.kubernetes.claim_folders import folder_of
from knit_workflows.compute.kubernetes.pods.looking import why_pending
from knit_workflows.compute.kubernetes.pods.stalled import claims_of
from knit_workflows.compute.kubernetes.pods.start_failures import start_failure_of_pod
from knit_workflows.compute.kubernetes.pods.waking import is_held_unbound, wake_scheduler
from knit_workflows.compute.kubernetes.probe import status_of
from knit_workflows.compute.kubernetes.specs import manifests
from knit_workflows.domain.errors import (
    BackendRejected,
    BackendUnavailable,
    DataExists,
    TransferNotReady,
)
from knit_workflows.domain.volumes import Volume
from knit_workflows.settings import KubernetesSettings

_QUIET: Final = timedelta(seconds=5)
"""For how long it is not asked what a pod waits for: most have started by then."""
_SHORTEST_DELETION: Final = {"gracePeriodSeconds": 1}
"""The shortest deletion that the kubelet confirms. With 0 the pod would vanish while its process
may still be writing, and its claim could be removed meanwhile."""
_DELETION_OF_WRITER: Final[JsonObject] = {}
"""With the grace of the pod itself, in which the agent undoes an upload that was cut. Killed within
it, half an upload would stay, which no later one may replace. Otherwise it ends at once."""


class TransferPods:
    """The transfer pods of one namespace."""

    def __init__(self, server: ApiServer, settings: KubernetesSettings) -> None:
        self._server = server
        self._settings = settings

    async def open(self, transfer: Transfer) -> Endpoint:
        """Gives the endpoint of a transfer; raises TransferNotReady until the agent responds."""
        if transfer.mode is TransferMode.WRITE:
            refuse_change(transfer.volume)
        elif (folder := await self._folder(transfer.volume)) is not None:
            return Endpoint(folder.as_uri())
        pod = await self._server.get("Pod", transfer.name)
        if pod is None:
            await self._create(transfer)
            raise TransferNotReady("the transfer is being opened", see=transfer.name)
        if being_deleted(pod):
            raise TransferNotReady("an earlier transfer pod is being deleted", see=transfer.name)
        phase = pod.get("status", {}).get("phase")
        if phase in ("Succeeded", "Failed"):
            await self._handle_ended(transfer, pod)
        address: str = pod.get("status", {}).get("podIP") or ""
        is_up = phase == "Running" and address
        if is_up and (await self._answers(address) or condition_is(pod, "Ready")):
            await self._check_empty(transfer, address)
            return Endpoint(_url(address, self._settings.transfer_port))
        await self._handle_pending(transfer, pod)
        raise TransferNotReady("the transfer is being opened", see=transfer.name)

    async def _folder(self, volume: Volume) -> Path | None:
        """Gives the folder of a volume where it can be read without a pod."""
        if self._settings.volume_folders is None:
            return None
        claim = await self._server.get("PersistentVolumeClaim", volume.name)
        return None if claim is None else await asyncio.to_thread(folder_of, claim, self._settings)

    async def close(self, transfer: Transfer) -> None:
        """Deletes the pod; the Secret is garbage-collected with it."""
        await self._server.delete("Pod", transfer.name, deletion_of(transfer))

    async def _create(self, transfer: Transfer) -> None:
        """Creates the pod and its Secret; raises BackendRejected where there is no claim."""
        claim = await self._server.get("PersistentVolumeClaim", transfer.volume.name)
        if claim is None or being_deleted(claim):
            raise BackendRejected(
                f"the namespace {self._settings.kube_namespace} has no claim "
                f"{transfer.volume.name}: the content of the Data is gone",
                see=transfer.volume.knit_id,
            )
        uid = claim["metadata"]["uid"]
        manifest = manifests.transfer_pod(transfer, self._settings, claim_uid=uid)
        pod = await self._server.create("Pod", manifest)
        if pod is not None:
            await self._give_token(transfer, pod)

    async def _give_token(self, transfer: Transfer, pod: JsonObject) -> None:
        # After the pod, which owns it; the kubelet reads it some 100 ms later.
        uid = pod["metadata"]["uid"]
        secret = manifests.transfer_secret(transfer, uid, self._settings)
        await self._server.create("Secret", secret)

    async def _answers(self, address: str) -> bool:
        """Asks the agent itself: the kubelet's probe may lag a second behind.

        If it cannot be reached from here, the kubelet's probe decides.
        """
        port = self._settings.transfer_port
        return await status_of("GET", address, port, "/healthz", {}) == HTTPStatus.OK

    async def _check_empty(self, transfer: Transfer, address: str) -> None:
        """Raises DataExists for a write transfer into a volume with content.

        Probes with an upload that declares no body: the agent first checks whether it may write
        (409 if not, also during another upload), then responds 411, and has changed nothing.
        If the agent cannot be reached from here, the upload itself will get the 409.
        """
        if transfer.mode is not TransferMode.WRITE:
            return
        headers = {"Authorization": f"Bearer {transfer.token}"}
        port = self._settings.transfer_port
        if await status_of("POST", address, port, "/", headers) == HTTPStatus.CONFLICT:
            raise DataExists(see=transfer.volume.knit_id)

    async def _handle_ended(self, transfer: Transfer, pod: JsonObject) -> None:
        """Deletes a pod that ended by itself, to create another; a failed agent is final."""
        status = pod["status"]
        for container in status.get("containerStatuses") or ():
            ended = container.get("state", {}).get("terminated") or {}
            if ended.get("exitCode") and not status.get("reason"):
                reason = f"{ended.get('reason')}: {ended.get('message') or 'no message'}".strip()
                raise BackendRejected(f"the transfer pod failed: {reason}", see=transfer.name)
        await self._server.delete("Pod", transfer.name, _SHORTEST_DELETION)
        raise TransferNotReady("the transfer pod had ended and is replaced", see=transfer.name)

    async def _handle_pending(self, transfer: Transfer, pod: JsonObject) -> None:
        failure = start_failure_of_pod(pod, (), now())
        if is_held_unbound(pod) and _is_late(pod):
            with suppress(BackendUnavailable):  # what it waits for is told all the same
                await wake_scheduler(self._server, claims_of(pod))
        if failure is None or failure.kind is StartFailureKind.UNSCHEDULABLE:
            failure = await self._looked_up(pod) or failure
        if failure is None:
            return
        if failure.kind is StartFailureKind.IMAGE:
            raise BackendRejected(
                f"the transfer pod cannot start: {failure.reason}: {failure.message}",
                advice="check the image in KNIT_COMPUTE__KUBERNETES__POD_IMAGE",
                see=transfer.name,
            )
        if failure.reason == "CreateContainerConfigError":
            # Whoever created the pod died before it created the Secret.
            await self._give_token(transfer, pod)
        raise TransferNotReady(
            f"the transfer pod cannot start yet: {failure.reason}: {failure.message}",
            see=transfer.name,
        )

    async def _looked_up(self, pod: JsonObject) -> StartFailure | None:
        """Asks events and claims what a pod waits for; not of one that may have just been slow."""
        if not _is_late(pod):
            return None
        try:
            return await why_pending(self._server, pod)
        except BackendUnavailable:
            return None  # they only explain


def deletion_of(transfer: Transfer) -> JsonObject:
    """Gives the DeleteOptions of the pod of a transfer."""
    return _DELETION_OF_WRITER if transfer.mode is TransferMode.WRITE else _SHORTEST_DELETION


def _is_late(pod: JsonObject) -> bool:
    created = created_at(pod)
    return created is not None and now() - created >= _QUIET


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"
