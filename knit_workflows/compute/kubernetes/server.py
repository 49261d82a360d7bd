"""The API server over `kubernetes.aio`: requests as JSON, failures as domain errors.

The client library is untyped and ends here. Its models are passed by: paths and JSON objects are
what the API server documents, and a watch of many pods need not parse what nobody reads.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from kubernetes.aio import client, config

from knit_workflows.compute.kubernetes.objects import JsonObject
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable
from knit_workflows.settings import KubernetesSettings

_PASSING: Final = frozenset({401, 408, 425, 429})
"""Answers below 500 that may be another one next time; 401: credentials are being renewed."""
_CONNECTIONS: Final = 32
_PAGE: Final = 500
_QUIET: Final = 90.0
"""Seconds without a byte after which a watch counts as broken; bookmarks come every minute."""
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


class VersionGone(Exception):
    """The server has forgotten the version a watch wanted to go on from; list again."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its HTTP status and its object."""

    status: int
    body: JsonObject


class ApiServer:
    """One namespace of a cluster's API.

    Every call raises BackendUnavailable when there is no answer or one that may pass, and
    BackendRejected with the server's own words when it refuses for good.
    """

    def __init__(self, settings: KubernetesSettings) -> None:
        self._settings = settings
        self._client: Any = None
        self._renewing = asyncio.Lock()
        self._renewed_at = float("-inf")

    async def open(self) -> None:
        """Loads the credentials. No connection is made yet."""
        if self._client is None:
            # More would only queue in the server, and each takes a third of a MiB.
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
        """Loads the credentials again, once for all requests that were refused before."""
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
        reply = await self._call("GET", kind, name, accept={404})
        return None if reply.status == 404 else reply.body

    async def create(self, kind: str, manifest: JsonObject) -> JsonObject | None:
        """Creates an object; None if the server says that it conflicts with what is there."""
        reply = await self._call("POST", kind, body=manifest, accept={409})
        return None if reply.status == 409 else reply.body

    async def delete(self, kind: str, name: str, options: JsonObject) -> bool:
        """Asks for an object's deletion with DeleteOptions; False if it does not exist."""
        reply = await self._call("DELETE", kind, name, body=options, accept={404})
        return reply.status != 404

    async def delete_all(self, kind: str, selector: str, options: JsonObject) -> None:
        """Asks for the deletion of all objects with some labels."""
        await self._call("DELETE", kind, query={"labelSelector": selector}, body=options)

    async def list(self, kind: str, query: Mapping[str, str]) -> tuple[list[JsonObject], str]:
        """Gives all objects that `query` selects, and the version from which to watch them."""
        items: list[JsonObject] = []
        page = {**query, "limit": str(_PAGE)}
        while True:
            reply = await self._call("GET", kind, query=page, accept={410})
            if reply.status == 410:  # the list changed too much between two pages
                raise BackendUnavailable("the list of objects has to be read anew")
            items += reply.body.get("items") or ()
            about = reply.body["metadata"]
            if not about.get("continue"):
                return items, about.get("resourceVersion", "")
            page["continue"] = about["continue"]

    async def watch(
        self, kind: str, query: Mapping[str, str], version: str
    ) -> AsyncIterator[tuple[str, JsonObject]]:
        """Yields (type, object) of each change after `version`, bookmarks too.

        The server ends it after some minutes. Raises VersionGone when the version is too old.
        """
        # Not all watches of all workers shall be renewed in the same second.
        lifetime = str(random.randint(240, 300))
        watched = {
            **query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": lifetime,
        }
        limits = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=_QUIET)
        try:
            response = await self._send("GET", self._path(kind, None), watched, None, limits)
            try:
                if response.status == 410:
                    raise VersionGone
                if response.status != 200:
                    _judge(response.status, await response.read())
                async for line in response.content:
                    yield _change(line)
            finally:
                response.close()
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise BackendUnavailable(f"the watch broke: {_words(error)}") from error

    async def _call(
        self,
        method: str,
        kind: str,
        name: str | None = None,
        *,
        query: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        accept: Collection[int] = (),
    ) -> Reply:
        # No limit in total: waiting for one of our own connections says nothing about the server.
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=5, sock_read=self._settings.request_timeout.total_seconds()
        )
        path, sent_at = self._path(kind, name), time.monotonic()
        try:
            response = await self._send(method, path, query, body, limits)
            if response.status == 401:  # expired or rotated: read the credentials once more
                response.release()
                await self._renew_credentials(refused=sent_at)
                response = await self._send(method, path, query, body, limits)
            text = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise BackendUnavailable(
                f"the Kubernetes API server does not answer: {_words(error)}"
            ) from error
        if response.status >= 300 and response.status not in accept:
            _judge(response.status, text, reading=method in ("GET", "DELETE"))
        return Reply(response.status, _parsed(text))

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
    ) -> aiohttp.ClientResponse:
        if self._client is None:
            raise BackendUnavailable("the Kubernetes back-end is not open")
        _, url, headers, *_ = await self._client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
        )
        answer = await self._client.call_api(
            method, url, headers, body=body, _request_timeout=limits
        )
        response: aiohttp.ClientResponse = answer.response
        return response


def _change(line: bytes) -> tuple[str, JsonObject]:
    change = json.loads(line)
    if change["type"] == "ERROR":
        status = change["object"]
        if status.get("code") == 410:
            raise VersionGone
        raise BackendUnavailable(f"the watch broke: {status.get('message')}")
    return change["type"], change["object"]


def _judge(status: int, text: bytes, *, reading: bool = True) -> None:
    """Raises what an answer means that nobody expected."""
    message = _parsed(text).get("message") or f"HTTP {status}"
    if status >= 500 or status in _PASSING:
        raise BackendUnavailable(f"the Kubernetes API server cannot do it now: {message}")
    if status == 403 and reading:
        # A right that was taken away may come back; Runs that go on must not fail for it.
        raise BackendUnavailable(
            f"the Kubernetes API server does not let us look: {message}",
            advice="give knit's service account the rights that docs/how-to/kubernetes.md lists",
        )
    raise BackendRejected(f"the Kubernetes API server refuses: {message}")


def _parsed(text: bytes) -> JsonObject:
    try:
        parsed = json.loads(text)
    except ValueError:  # a proxy's own page
        return {"message": text[:200].decode(errors="replace")}
    return parsed if isinstance(parsed, dict) else {}


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
