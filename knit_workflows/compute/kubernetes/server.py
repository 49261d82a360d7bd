"""The API server: requests as JSON, failures as domain errors.

Without a client library and its models: paths and JSON objects are what the API server documents,
and a watch of many pods need not parse fields that nobody reads.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from knit_workflows.compute.kubernetes.objects import JsonObject
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable
from knit_workflows.settings import KubernetesSettings

if TYPE_CHECKING:
    from knit_workflows.compute.kubernetes.connection import Answer, Connection

_TRANSIENT_STATUS: Final = frozenset({401, 408, 425, 429})
"""Statuses below 500 for which a retry may succeed; 401: credentials are being rotated."""
_PAGE: Final = 500
_WATCH_TIMEOUT: Final = 90.0
"""Seconds without a byte after which a watch counts as broken; bookmarks come about every 60."""
_COLLECTIONS: Final = {
    "Job": "apis/batch/v1/namespaces/{}/jobs",
    "Role": "apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "Pod": "api/v1/namespaces/{}/pods",
    "PersistentVolumeClaim": "api/v1/namespaces/{}/persistentvolumeclaims",
    "Secret": "api/v1/namespaces/{}/secrets",
    "ServiceAccount": "api/v1/namespaces/{}/serviceaccounts",
    "Event": "api/v1/namespaces/{}/events",
}


class ResourceExpired(Exception):
    """410: the resourceVersion from which to watch is too old; list again."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response: its HTTP status and its object."""

    status: int
    body: JsonObject


class ApiServer:
    """One namespace of a cluster's API.

    Every call raises BackendUnavailable when there is no response or a retry may succeed, and
    BackendRejected with the server's message when it refuses for good.
    """

    def __init__(self, settings: KubernetesSettings) -> None:
        self._settings = settings
        self._connection: Connection | None = None
        self._renewing = asyncio.Lock()
        self._renewed_at = float("-inf")

    async def open(self) -> None:
        """Loads the credentials; connections are made when needed."""
        if self._connection is None:
            # Here, since roles that never open it need no HTTP client, which takes 5 MiB.
            from knit_workflows.compute.kubernetes.connection import Connection

            self._connection = await Connection.open(self._settings)

    async def _renew_credentials(self, refused: float) -> None:
        """Reloads the credentials, once for all requests that were refused with the old ones."""
        async with self._renewing:
            if self._renewed_at < refused and self._connection is not None:
                await self._connection.renew_credentials()
                self._renewed_at = time.monotonic()

    async def aclose(self) -> None:
        """Closes all connections."""
        if self._connection is not None:
            await self._connection.aclose()
            self._connection = None

    async def get(self, kind: str, name: str) -> JsonObject | None:
        """Gives one object, or None if it does not exist."""
        response = await self._call("GET", kind, name, accept={404})
        return None if response.status == 404 else response.body

    async def create(self, kind: str, manifest: JsonObject) -> JsonObject | None:
        """Creates an object and gives it; None on a conflict with an existing one."""
        response = await self._call("POST", kind, body=manifest, accept={409})
        return None if response.status == 409 else response.body

    async def delete(self, kind: str, name: str, options: JsonObject) -> bool:
        """Requests the deletion of an object with DeleteOptions; False if it does not exist."""
        response = await self._call("DELETE", kind, name, body=options, accept={404})
        return response.status != 404

    async def delete_all(self, kind: str, selector: str, options: JsonObject) -> None:
        """Requests the deletion of all objects that a label selector selects."""
        await self._call("DELETE", kind, query={"labelSelector": selector}, body=options)

    async def list(self, kind: str, query: Mapping[str, str]) -> tuple[list[JsonObject], str]:
        """Gives all objects that `query` selects, and the version from which to watch them."""
        items: list[JsonObject] = []
        page = {**query, "limit": str(_PAGE)}
        while True:
            response = await self._call("GET", kind, query=page, accept={410})
            if response.status == 410:  # the list changed too much between two pages
                raise BackendUnavailable("the list of objects has to be read again")
            items += response.body.get("items") or ()
            about = response.body["metadata"]
            if not about.get("continue"):
                return items, about.get("resourceVersion", "")
            page["continue"] = about["continue"]

    async def watch(
        self, kind: str, query: Mapping[str, str], version: str
    ) -> AsyncIterator[tuple[str, JsonObject]]:
        """Yields (type, object) of each change after `version`, bookmarks included.

        The server ends it after some minutes.

        Raises:
            ResourceExpired: the version is too old.
        """
        # Random, so that not all watches of all workers are renewed in the same second.
        lifetime = str(random.randint(240, 300))
        watched = {
            **query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": lifetime,
        }
        try:
            answer = await self._send("GET", self._path(kind, None), watched, None, _WATCH_TIMEOUT)
            try:
                if answer.status == 410:
                    raise ResourceExpired
                if answer.status != 200:
                    _raise_for_status(answer.status, await answer.read())
                async for line in answer.lines():
                    yield _change(line)
            finally:
                answer.close()
        except (OSError, ValueError) as error:
            raise BackendUnavailable(f"the watch broke: {_text(error)}") from error

    async def _call(
        self,
        method: str,
        kind: str,
        name: str | None = None,
        *,
        query: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        accept: Collection[int] = (),
    ) -> Response:
        silence = self._settings.request_timeout.total_seconds()
        path, sent_at = self._path(kind, name), time.monotonic()
        try:
            answer = await self._send(method, path, query, body, silence)
            if answer.status == 401:  # expired or rotated: reload the credentials, once
                answer.close()
                await self._renew_credentials(refused=sent_at)
                answer = await self._send(method, path, query, body, silence)
            text = await answer.read()
        except OSError as error:
            raise BackendUnavailable(
                f"the Kubernetes API server does not answer: {_text(error)}"
            ) from error
        if answer.status >= 300 and answer.status not in accept:
            _raise_for_status(answer.status, text, reading=method in ("GET", "DELETE"))
        return Response(answer.status, _parsed(text))

    def _path(self, kind: str, name: str | None) -> str:
        collection = "/" + _COLLECTIONS[kind].format(self._settings.kube_namespace)
        return collection if name is None else f"{collection}/{name}"

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: JsonObject | None,
        silence: float,
    ) -> Answer:
        if self._connection is None:
            raise BackendUnavailable("the Kubernetes back-end is not open")
        headers = {"Accept": "application/json"}
        return await self._connection.send(
            method, path, query, body, headers=headers, silence=silence
        )


def _change(line: bytes) -> tuple[str, JsonObject]:
    change = json.loads(line)
    if change["type"] == "ERROR":
        status = change["object"]
        if status.get("code") == 410:
            raise ResourceExpired
        raise BackendUnavailable(f"the watch broke: {status.get('message')}")
    return change["type"], change["object"]


def _raise_for_status(status: int, text: bytes, *, reading: bool = True) -> None:
    """Raises the domain error for an unexpected status."""
    message = _parsed(text).get("message") or f"HTTP {status}"
    if status >= 500 or status in _TRANSIENT_STATUS:
        raise BackendUnavailable(f"the Kubernetes API server cannot do it now: {message}")
    if status == 403 and reading:
        # A revoked right may be granted again; running Runs must not fail because of it.
        raise BackendUnavailable(
            f"the Kubernetes API server forbids knit to look: {message}",
            advice="give knit's service account the rights that docs/how-to/kubernetes.md lists",
        )
    raise BackendRejected(f"the Kubernetes API server refuses: {message}")


def _parsed(text: bytes) -> JsonObject:
    try:
        parsed = json.loads(text)
    except ValueError:  # the error page of a proxy
        return {"message": text[:200].decode(errors="replace")}
    return parsed if isinstance(parsed, dict) else {}


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
