"""Doors to volumes: one pod per transfer, with its token in a Secret that goes with it."""

from __future__ import annotations

from typing import Final

import httpx

from knit_workflows.compute.base import Endpoint, StartFailureKind, Transfer, TransferMode
from knit_workflows.compute.kubernetes import manifests
from knit_workflows.compute.kubernetes.objects import JsonObject, being_deleted, condition_is, now
from knit_workflows.compute.kubernetes.server import ApiServer
from knit_workflows.compute.kubernetes.start_failures import start_failure_of_pod
from knit_workflows.domain.errors import BackendRejected, DataExists, TransferNotReady
from knit_workflows.settings import KubernetesSettings

_SOON: Final = 1.0
"""Seconds for the agent's answer to a question; it answers from memory."""
_SECOND: Final = {"gracePeriodSeconds": 1}
"""The shortest deletion that the kubelet confirms. With 0 the pod vanishes from sight while its
process may go on writing, and its claim could be removed under it."""


class Transfers:
    """The transfer pods of one namespace."""

    def __init__(self, server: ApiServer, settings: KubernetesSettings) -> None:
        self._server = server
        self._settings = settings
        # Pods are asked directly: neither proxies nor certificates are between us.
        self._http = httpx.AsyncClient(timeout=_SOON, trust_env=False, verify=False)

    async def aclose(self) -> None:
        """Closes connections; open doors stay open."""
        await self._http.aclose()

    async def open(self, transfer: Transfer) -> Endpoint:
        """Gives the address of an open door; raises TransferNotReady until there is one."""
        pod = await self._server.get("Pod", transfer.name)
        if pod is None:
            pod = await self._server.create("Pod", manifests.transfer_pod(transfer, self._settings))
            if pod is not None:
                await self._give_token(transfer, pod)
            raise TransferNotReady("the transfer is being opened", see=transfer.name)
        if being_deleted(pod):
            raise TransferNotReady("an earlier door to it is just closing", see=transfer.name)
        phase = pod.get("status", {}).get("phase")
        if phase in ("Succeeded", "Failed"):
            await self._judge_ended(transfer, pod)
        address: str = pod.get("status", {}).get("podIP") or ""
        if phase == "Running" and address:
            url = _url(address, self._settings.transfer_port)
            if await self._answers(url) or condition_is(pod, "Ready"):
                await self._check_empty(transfer, url)
                return Endpoint(url)
        await self._judge_pending(transfer, pod)
        raise TransferNotReady("the transfer is being opened", see=transfer.name)

    async def close(self, transfer: Transfer) -> None:
        """Closes the door; the Secret follows its pod."""
        await self._server.delete("Pod", transfer.name, _SECOND)

    async def _give_token(self, transfer: Transfer, pod: JsonObject) -> None:
        # After the pod, since it is the pod's own; the kubelet asks for it some 100 ms later.
        uid = pod["metadata"]["uid"]
        secret = manifests.transfer_secret(transfer, uid, self._settings)
        await self._server.create("Secret", secret)

    async def _answers(self, url: str) -> bool:
        """Asks the agent itself: the kubelet's probe would tell up to a second later."""
        try:
            return (await self._http.get(f"{url}healthz")).is_success
        except httpx.HTTPError:
            return False  # not up yet, or out of our reach: then the kubelet's probe decides

    async def _check_empty(self, transfer: Transfer, url: str) -> None:
        """Raises DataExists if the door is for writing and there is content behind it.

        Asked by an upload that announces no body: the agent first says whether there may be one
        (409, also while one is on its way), then that this is none (411), and has changed nothing.
        Where it cannot be asked, the upload itself is answered so.
        """
        if transfer.mode is not TransferMode.WRITE:
            return
        headers = {"Authorization": f"Bearer {transfer.token}"}
        upload = self._http.build_request("POST", url, headers=headers)
        del upload.headers["Content-Length"]
        try:
            answer = await self._http.send(upload)
        except httpx.HTTPError:
            return
        if answer.status_code == httpx.codes.CONFLICT:
            raise DataExists(see=transfer.volume.knit_id)

    async def _judge_ended(self, transfer: Transfer, pod: JsonObject) -> None:
        """Makes room for a new door if the old one closed itself; a broken agent is final."""
        status = pod["status"]
        for container in status.get("containerStatuses") or ():
            ended = container.get("state", {}).get("terminated") or {}
            if ended.get("exitCode") and not status.get("reason"):
                words = f"{ended.get('reason')}: {ended.get('message') or 'no message'}".strip()
                raise BackendRejected(f"the transfer pod failed: {words}", see=transfer.name)
        await self._server.delete("Pod", transfer.name, _SECOND)
        raise TransferNotReady("the door was closed and is opened anew", see=transfer.name)

    async def _judge_pending(self, transfer: Transfer, pod: JsonObject) -> None:
        failure = start_failure_of_pod(pod, (), now())
        if failure is None:
            return
        if failure.kind is StartFailureKind.IMAGE:
            raise BackendRejected(
                f"the transfer pod cannot start: {failure.reason}: {failure.message}",
                advice="check the image in KNIT_COMPUTE__KUBERNETES__POD_IMAGE",
                see=transfer.name,
            )
        if failure.reason == "CreateContainerConfigError":
            # Whoever made the pod died before the Secret was there.
            await self._give_token(transfer, pod)
        raise TransferNotReady(
            f"the transfer pod cannot start yet: {failure.reason}: {failure.message}",
            see=transfer.name,
        )


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"
