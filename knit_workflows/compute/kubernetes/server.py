"""The API server over `kubernetes.aio`: requests as JSON, failures as domain errors.

The untyped client library is used only here, and without its models: paths and JSON objects are
what the API server documents, and a watch of many pods need not parse fields that nobody reads.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from kubernetes.aio import client, config

from knit_workflows.compute.kubernetes.objects import JsonObject
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable
from knit_workflows.settings import KubernetesSettings

_TRANSIENT_STATUS: Final = frozenset({401, 408, 425, 429})
"""Statuses below 500 for which a retry may succeed; 401: credentials are being rotated."""
_CONNECTIONS: Final = 32
_PAGE: Final = 500
_WARNING: Final = re.compile(r'\d{3} \S+ "((?:[^"\\]|\\.)*)"')
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
    """A response: its HTTP status, its object, and what the server warns of."""

    status: int
    body: JsonObject
    warnings: tuple[str, ...] = ()
    """What the server's `Warning` headers say."""


class ApiServer:
    """One namespace of a cluster's API.

    Every call raises BackendUnavailable when there is no response or a retry may succeed, and
    BackendRejected with the server's message when it refuses for good.
    """

    def __init__(self, settings: KubernetesSettings) -> None:
        self._settings = settings
        self._client: Any = None
        self._renewing = asyncio.Lock()
        self._renewed_at = float("-inf")

    async def open(self) -> None:
        """Loads the credentials; connections are made when needed."""
        if self._client is None:
            # More would only queue in the server, and each costs a third of a MiB.
            configuration = client.Configuration(connection_pool_maxsize=_CONNECTIONS)
            await self._load_credentials(configuration)
            self._client = client.ApiClient(configuration)

    async def _load_credentials(self, configuration: Any) -> None:
        try:
            if self._settings.kubeconfig is None:
                config.load_incluster_config(configuration)
            else:
                await config.load_kube_config(
                    str(self._settings.kubeconfig),
                    client_configuration=configuration,
                    persist_config=False,
                )
        except (config.ConfigException, OSError) as error:
            raise BackendRejected(
                f"no credentials for the cluster: {error}",
                advice="set KNIT_COMPUTE__KUBERNETES__KUBECONFIG, or run in a pod with rights",
            ) from error

    async def _renew_credentials(self, refused: float) -> None:
        """Reloads the credentials, once for all requests that were refused with the old ones."""
        async with self._renewing:
            if self._renewed_at < refused and self._client is not None:
                await self._load_credentials(self._client.configuration)
                self._renewed_at = time.monotonic()

    async def aclose(self) -> None:
        """Closes all connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def get(self, kind: str, name: str) -> JsonObject | None:
        """Gives one object, or None if it does not exist."""
        response = await self._call("GET", kind, name, accept={404})
        return None if response.status == 404 else response.body

    async def create(self, kind: str, manifest: JsonObject) -> JsonObject | None:
        """Creates an object and gives it; None on a conflict with an existing one."""
        response = await self._call("POST", kind, body=manifest, accept={409})
        return None if response.status == 409 else response.body

    async def try_create(self, kind: str, manifest: JsonObject) -> tuple[str, ...]:
        """Has all checks made that a creation has, admission too, and creates nothing.

        Gives the server's warnings; raises BackendRejected as a creation would. That an object of
        this name is there already is fine.
        """
        response = await self._call(
            "POST", kind, query={"dryRun": "All"}, body=manifest, accept={409}
        )
        return response.warnings

    async def patch(self, kind: str, name: str, change: JsonObject) -> None:
        """Merges a change into an object (RFC 7396)."""
        await self._call("PATCH", kind, name, body=change)

    async def node_metrics(self, node: str) -> str:
        """Gives the metrics of a node's kubelet, as text for Prometheus."""
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=5, sock_read=self._settings.request_timeout.total_seconds()
        )
        path = f"/api/v1/nodes/{node}/proxy/metrics"
        try:
            response = await self._send("GET", path, None, None, limits, accept="text/plain")
            text = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise BackendUnavailable(f"the node {node} does not answer: {_text(error)}") from error
        if response.status != 200:
            _raise_for_status(response.status, text)
        return text.decode(errors="replace")

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
        limits = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_WATCH_TIMEOUT)
        try:
            response = await self._send("GET", self._path(kind, None), watched, None, limits)
            try:
                if response.status == 410:
                    raise ResourceExpired
                if response.status != 200:
                    _raise_for_status(response.status, await response.read())
                async for line in response.content:
                    yield _change(line)
            finally:
                response.close()
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
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
        # No total timeout: waiting for one of our own connections says nothing about the server.
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=5, sock_read=self._settings.request_timeout.total_seconds()
        )
        path, sent_at = self._path(kind, name), time.monotonic()
        try:
            response = await self._send(method, path, query, body, limits)
            if response.status == 401:  # expired or rotated: reload the credentials, once
                response.release()
                await self._renew_credentials(refused=sent_at)
                response = await self._send(method, path, query, body, limits)
            text = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise BackendUnavailable(
                f"the Kubernetes API server does not answer: {_text(error)}"
            ) from error
        if response.status >= 300 and response.status not in accept:
            _raise_for_status(response.status, text, reading=method in ("GET", "DELETE"))
        return Response(response.status, _parsed(text), _warnings(response))

    def _path(self, kind: str, name: str | None) -> str:
        collection = "/" + _COLLECTIONS[kind].format(self._settings.kube_namespace)
        return collection if name is None else f"{collection}/{name}"

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: JsonObject | None,
        limits: aiohttp.ClientTimeout,
        *,
        accept: str = "application/json",
    ) -> aiohttp.ClientResponse:
        if self._client is None:
            raise BackendUnavailable("the Kubernetes back-end is not open")
        _, url, headers, *_ = await self._client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=_headers(method, accept),
            auth_settings=["BearerToken"],
        )
        result = await self._client.call_api(
            method, url, headers, body=body, _request_timeout=limits
        )
        response: aiohttp.ClientResponse = result.response
        return response


def _headers(method: str, accept: str) -> dict[str, str]:
    merged = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
    return {"Accept": accept, **merged}


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


def _warnings(response: aiohttp.ClientResponse) -> tuple[str, ...]:
    """Gives the texts of `Warning: 299 - "text"` headers (RFC 7234, 5.5), each once."""
    found = (_WARNING.findall(header) for header in response.headers.getall("Warning", []))
    texts = (re.sub(r"\\(.)", r"\1", text) for texts in found for text in texts)
    return tuple(dict.fromkeys(texts))


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
