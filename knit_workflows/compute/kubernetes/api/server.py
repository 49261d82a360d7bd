"""The API server: requests as JSON, failures as domain errors.

Without a client library and its models: paths and JSON objects are what the API server documents,
and a watch of many pods need not parse fields that nobody reads.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NoReturn

from knit_workflows.compute.base import StartFailureKind
from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.compute.kubernetes.api.refusals import QUOTA_EXCEEDED, classify_refusal
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable, QuotaExceeded
from knit_workflows.metrics.instruments import KUBERNETES_REQUESTS
from knit_workflows.settings import KubernetesSettings

if TYPE_CHECKING:
    from knit_workflows.compute.kubernetes.api.connection import Answer, Connection

_log = logging.getLogger(__name__)

_TRANSIENT_STATUS: Final = frozenset({401, 408, 425, 429})
"""Statuses below 500 for which a retry may succeed; 401: credentials are being rotated."""
_PAGE: Final = 500
_WATCH_TIMEOUT: Final = 90.0
"""Seconds without a byte after which a watch counts as broken; bookmarks come about every 60."""
_LIFETIME: Final = (240, 300)
_LIFETIMES: Final = {"Event": (50, 70)}
"""Seconds after which the server ends a watch. It has no cache of Events, and so sends no bookmarks
of them (Kubernetes 1.34): without an end, a quiet watch would look like a broken one."""
_WARNING: Final = re.compile(r'\b\d{3} \S+ "((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_WARNINGS_KNOWN: Final = 1000
"""Warnings that are remembered as logged: some name an object, and so are all different."""
_VERBS: Final = {"GET": "read", "POST": "create", "PATCH": "patch", "DELETE": "delete"}
_COLLECTIONS: Final = {
    "Job": "apis/batch/v1/namespaces/{}/jobs",
    "Role": "apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "Pod": "api/v1/namespaces/{}/pods",
    "PersistentVolumeClaim": "api/v1/namespaces/{}/persistentvolumeclaims",
    "Secret": "api/v1/namespaces/{}/secrets",
    "ServiceAccount": "api/v1/namespaces/{}/serviceaccounts",
    "Event": "api/v1/namespaces/{}/events",
    "StorageClass": "apis/storage.k8s.io/v1/storageclasses",
}


class ResourceExpired(Exception):
    """410: the resourceVersion from which to watch is too old; list again."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response: its HTTP status, its object, and what the server warns of."""

    status: int
    body: JsonObject
    warnings: tuple[str, ...] = ()


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
        self._logged: set[str] = set()

    async def open(self) -> None:
        """Loads the credentials; connections are made when needed."""
        if self._connection is None:
            # Here, since roles that never open it need no HTTP client, which takes 5 MiB.
            from knit_workflows.compute.kubernetes.api.connection import Connection

            self._connection = await Connection.open(self._settings)

    async def _renew_credentials(self, refused: float) -> None:
        """Reloads the credentials, once for all requests that were refused with the old ones."""
        async with self._renewing:
            if self._renewed_at < refused and self._connection is not None:
                try:
                    await self._connection.renew_credentials()
                except BackendRejected as error:
                    # There were some: whoever replaces them may be in the middle of it.
                    raise BackendUnavailable(error.reason, advice=error.advice) from error
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

    async def look_at(self, kind: str, name: str | None = None) -> JsonObject | None:
        """Gives one object, or the list of all, of a kind that knit need not have the right to see.

        None if it does not exist. Raises BackendRejected without that right.
        """
        response = await self._call("GET", kind, name, accept={403, 404})
        if response.status == HTTPStatus.FORBIDDEN:
            raise BackendRejected(_unseen(response.body.get("message", "")))
        return None if response.status == HTTPStatus.NOT_FOUND else response.body

    async def create(self, kind: str, manifest: JsonObject) -> JsonObject | None:
        """Creates an object and gives it; None if such an object exists already."""
        response = await self.request_creation(kind, manifest)
        return None if response is None else response.body

    async def request_creation(self, kind: str, manifest: JsonObject) -> Response | None:
        """Creates an object and gives the response; None if such an object exists already.

        Admission comes first: a full quota, or a limit that was set since, refuses the creation of
        what exists already too.
        """
        refusals = {HTTPStatus.FORBIDDEN, HTTPStatus.CONFLICT}
        response = await self._call("POST", kind, body=manifest, accept=refusals)
        if response.status == HTTPStatus.FORBIDDEN:
            # Whoever may not look either is told of the refusal.
            name = manifest["metadata"]["name"]
            if (await self._call("GET", kind, name, accept={403, 404})).status != HTTPStatus.OK:
                _raise_refusal(response.body)
            return None
        if response.status != HTTPStatus.CONFLICT:
            return response
        if response.body.get("reason") == "Conflict":
            # Not this object but a quota has been changed by somebody else at that moment.
            raise BackendUnavailable(_unable(response.body.get("message", "")))
        return None

    async def request_token(self, account: str, request: JsonObject) -> str:
        """Gives a token of a service account, as a TokenRequest asks for it."""
        response = await self._call("POST", "ServiceAccount", f"{account}/token", body=request)
        return str(response.body["status"]["token"])

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
        silence = self._settings.request_timeout.total_seconds()
        path = f"/api/v1/nodes/{node}/proxy/metrics"
        try:
            answer = await self._send("GET", "Node", path, None, None, silence, accept="text/plain")
            text = await answer.read()
        except OSError as error:
            raise BackendUnavailable(f"the node {node} does not answer: {_text(error)}") from error
        if answer.status != HTTPStatus.OK:
            _raise_for_status(answer.status, text)
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
        version = ""
        async with aclosing(self._responses(kind, query)) as responses:
            async for body in responses:
                items += body.get("items") or ()
                version = body["metadata"].get("resourceVersion", "")
        return items, version

    async def pages(
        self, kind: str, query: Mapping[str, str]
    ) -> AsyncGenerator[Sequence[JsonObject], None]:
        """Yields the same objects page by page, for those that are too many at once."""
        async with aclosing(self._responses(kind, query)) as responses:
            async for body in responses:
                yield body.get("items") or []

    async def _responses(
        self, kind: str, query: Mapping[str, str]
    ) -> AsyncGenerator[JsonObject, None]:
        page = {**query, "limit": str(_PAGE)}
        while True:
            response = await self._call("GET", kind, query=page, accept={410})
            if response.status == 410:  # the list changed too much between two pages
                raise BackendUnavailable("the list of objects has to be read again")
            yield response.body
            following = response.body["metadata"].get("continue")
            if not following:
                return
            page["continue"] = following

    async def watch(
        self, kind: str, query: Mapping[str, str], version: str
    ) -> AsyncIterator[tuple[str, JsonObject]]:
        """Yields (type, object) of each change after `version`, bookmarks included.

        The server ends it after some minutes; that of Events, which have no bookmarks, after one.

        Raises:
            ResourceExpired: the version is too old.
        """
        # Random, so that not all watches of all workers are renewed in the same second.
        lifetime = str(random.randint(*_LIFETIMES.get(kind, _LIFETIME)))
        watched = {
            **query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": lifetime,
        }
        try:
            path = self._path(kind, None)
            answer = await self._send("GET", kind, path, watched, None, _WATCH_TIMEOUT)
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
            answer = await self._send(method, kind, path, query, body, silence)
            if answer.status == 401:  # expired or rotated: reload the credentials, once
                answer.close()
                await self._renew_credentials(refused=sent_at)
                answer = await self._send(method, kind, path, query, body, silence)
            text = await answer.read()
        except OSError as error:
            raise BackendUnavailable(
                f"the Kubernetes API server does not answer: {_text(error)}"
            ) from error
        if answer.status >= 300 and answer.status not in accept:
            _raise_for_status(answer.status, text, reading=method in ("GET", "DELETE"))
        warnings = warnings_of(answer.headers.getall("Warning", ()))
        self._log_once(warnings)
        return Response(answer.status, _parsed(text), warnings)

    def _log_once(self, warnings: tuple[str, ...]) -> None:
        """Logs what has not been logged yet; the server repeats most of it with every request."""
        for text in warnings:
            if text not in self._logged:
                if len(self._logged) >= _WARNINGS_KNOWN:
                    self._logged.clear()
                self._logged.add(text)
                _log.warning("the API server warns: %s", text, extra={"action": "api_warning"})

    def _path(self, kind: str, name: str | None) -> str:
        collection = "/" + _COLLECTIONS[kind].format(self._settings.kube_namespace)
        return collection if name is None else f"{collection}/{name}"

    async def _send(
        self,
        method: str,
        kind: str,
        path: str,
        query: Mapping[str, str] | None,
        body: JsonObject | None,
        silence: float,
        *,
        accept: str = "application/json",
    ) -> Answer:
        if self._connection is None:
            raise BackendUnavailable("the Kubernetes back-end is not open")
        headers = {"Accept": accept}
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        answer = await self._connection.send(
            method, path, query, body, headers=headers, silence=silence
        )
        verb = "watch" if query is not None and "watch" in query else _VERBS[method]
        KUBERNETES_REQUESTS.labels(verb, kind, str(answer.status)).inc()
        return answer


def warnings_of(headers: Iterable[str]) -> tuple[str, ...]:
    """Gives the texts of `Warning` headers, each once, in their order (RFC 7234, 5.5)."""
    found = (text for header in headers for text in _WARNING.findall(header))
    return tuple(dict.fromkeys(_ESCAPED.sub(r"\1", text) for text in found))


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
        raise BackendUnavailable(_unable(message))
    if status == 403 and reading:
        # A revoked right may be granted again; running Runs must not fail because of it.
        raise BackendUnavailable(
            _unseen(message),
            advice="give knit's service account the rights that docs/how-to/kubernetes.md lists",
        )
    raise BackendRejected(f"the Kubernetes API server refuses: {message}")


def _raise_refusal(body: JsonObject) -> NoReturn:
    """Raises the domain error for a 403 to a creation: some pass by themselves, others never."""
    message = body.get("message") or "HTTP 403"
    known = classify_refusal(message)
    if known is None:
        raise BackendRejected(f"the Kubernetes API server refuses: {message}")
    if known.reason == QUOTA_EXCEEDED:
        raise QuotaExceeded(known.message)
    if known.kind is StartFailureKind.REFUSED:
        raise BackendRejected(f"[{known.reason}] {known.message}")
    raise BackendUnavailable(f"[{known.reason}] {known.message}")


def _unseen(message: str) -> str:
    return f"the Kubernetes API server forbids knit to look: {message}"


def _unable(message: str) -> str:
    return f"the Kubernetes API server cannot do it now: {message}"


def _parsed(text: bytes) -> JsonObject:
    try:
        parsed = json.loads(text)
    except ValueError:  # the error page of a proxy
        return {"message": text[:200].decode(errors="replace")}
    return parsed if isinstance(parsed, dict) else {}


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
