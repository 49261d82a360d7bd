"""A small API server: enough of list, watch, create and delete to be told lies by."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from knit_workflows.compute.kubernetes import KubernetesBackend
from knit_workflows.settings import KubernetesSettings


def storage_class(name: str, provisioner: str = "p.example", *, default: bool = False) -> dict:
    marked = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    about = {"name": name, "annotations": marked, "creationTimestamp": f"of {name}"}
    return {"metadata": about, "provisioner": provisioner}


class FakeApiServer:
    """Keeps objects by collection and name; `answers` are given first, in order.

    `watched` are the lines that watches tell first, one each, instead of a change; `warnings` the
    headers of what is created.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict] = {}
        self.requests: list[str] = []
        self.answers: deque[tuple[int, str]] = deque()
        self.answers_to: dict[str, tuple[int, str]] = {}
        self.warnings: list[str] = []
        """`Warning` headers of every answer to a creation."""
        self.conflict = ""
        """The body of the 409 to each creation, if any."""
        self.metrics: dict[str, str] = {}
        """What the kubelet of each node says."""
        self.classes: dict[str, dict] = {"usual": storage_class("usual", default=True)}
        self.tried: list[dict] = []
        """What was sent in dry runs, which keep nothing."""
        self.tokens: list[dict] = []
        """What was asked for as TokenRequest."""
        self.deletions: list[dict] = []
        """The DeleteOptions of each deletion."""
        self.oldest = 0
        self.watched: deque[bytes] = deque()
        self._history: list[tuple[int, str, str, dict]] = []
        self._changed = asyncio.Event()
        self._versions = itertools.count(1)
        self._version = 0
        self._streams: set[web.StreamResponse] = set()
        self._hang_up = False

    def count(self, start: str) -> int:
        return sum(request.startswith(start) for request in self.requests)

    # What tests do behind the adapter's back.

    def put(self, collection: str, thing: dict) -> dict:
        name = thing["metadata"]["name"]
        kind = "MODIFIED" if (collection, name) in self.objects else "ADDED"
        thing["metadata"].setdefault("uid", f"uid-{name}")
        thing["metadata"].setdefault("labels", {})
        self.objects[collection, name] = thing
        self._record(kind, collection, thing)
        return thing

    def remove(self, collection: str, name: str) -> None:
        self._record("DELETED", collection, self.objects.pop((collection, name)))

    def hang_up(self) -> None:
        """Breaks all watches, as a restarted server does."""
        self._hang_up = True
        self._changed.set()

    def forget(self) -> None:
        """Keeps no version that a watch could go on from."""
        self.oldest = self._version

    @property
    def watches(self) -> int:
        return len(self._streams)

    def _record(self, kind: str, collection: str, thing: dict) -> None:
        self._version = next(self._versions)
        thing["metadata"]["resourceVersion"] = str(self._version)
        self._history.append((self._version, kind, collection, json.loads(json.dumps(thing))))
        self._changed.set()

    # HTTP.

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if node := re.fullmatch("/api/v1/nodes/([^/]+)/proxy/metrics", request.path):
            self.requests.append(f"metrics of {node[1]}")
            found = self.metrics.get(node[1])
            return self._status(503, "gone") if found is None else web.Response(text=found)
        before, _, rest = request.path.partition("/namespaces/ns/")
        rest = rest or before.partition("/storage.k8s.io/v1/")[2]
        collection, _, name = rest.partition("/")
        self.requests.append(f"{request.method} {rest}" + ("?watch" * ("watch" in request.query)))
        if answer := self.answers_to.get(self.requests[-1]):
            return self._status(*answer)
        if self.answers and "watch" not in request.query:
            return self._status(*self.answers.popleft())
        if "watch" in request.query:
            return await self._watch(request, collection)
        body = json.loads(await request.read() or b"{}")
        return getattr(self, f"_{request.method.lower()}")(request, collection, name, body)

    def _status(self, code: int, message: str = "") -> web.Response:
        return web.json_response({"kind": "Status", "message": message, "code": code}, status=code)

    def _post(self, request: web.Request, collection: str, name: str, body: dict) -> web.Response:
        if name.endswith("/token"):
            self.tokens.append(body)
            answer = {"status": {"token": f"token of {name.removesuffix('/token')}"}}
            return web.json_response(answer, status=201)
        if self.conflict:
            return web.Response(status=409, text=self.conflict, content_type="application/json")
        if request.query.get("dryRun") == "All":
            self.tried.append(body)
            answer = web.json_response(body, status=201)
            for text in self.warnings:
                answer.headers.add("Warning", text)
            return answer
        if (collection, body["metadata"]["name"]) in self.objects:
            return self._status(409, "already exists")
        body["metadata"]["creationTimestamp"] = datetime.now(UTC).isoformat()
        response = web.json_response(self.put(collection, body), status=201)
        response.headers.extend([("Warning", text) for text in self.warnings])
        return response

    def _get(self, request: web.Request, collection: str, name: str, _: dict) -> web.Response:
        if collection == "storageclasses":
            found = self.classes.get(name)
            if not name:
                return web.json_response({"metadata": {}, "items": [*self.classes.values()]})
            return web.json_response(found) if found else self._status(404, "not found")
        if name:
            found = self.objects.get((collection, name))
            return web.json_response(found) if found else self._status(404, "not found")
        items = [each for _, each in self._selected(request, collection)]
        about = {"resourceVersion": str(self._version)}
        limit = int(request.query["limit"])
        start, version = map(int, request.query.get("continue", f"0,{self._version}").split(","))
        if start and version < self.oldest:
            return self._status(410, "The provided continue parameter is too old")
        if start + limit < len(items):
            about["continue"] = f"{start + limit},{self._version}"
        return web.json_response({"metadata": about, "items": items[start : start + limit]})

    def _patch(self, request: web.Request, collection: str, name: str, body: dict) -> web.Response:
        assert request.content_type == "application/merge-patch+json"
        if (collection, name) not in self.objects:
            return self._status(404, "not found")
        thing = merged(self.objects[collection, name], body)
        return web.json_response(self.put(collection, thing))

    def _delete(self, request: web.Request, collection: str, name: str, body: dict) -> web.Response:
        self.deletions.append(body)
        if name and (collection, name) not in self.objects:
            return self._status(404, "not found")
        for each in [name] if name else [n for n, _ in self._selected(request, collection)]:
            self.remove(collection, each)
        return self._status(200)

    def _selected(self, request: web.Request, collection: str) -> list[tuple[str, dict]]:
        return [
            (name, thing)
            for (where, name), thing in self.objects.items()
            if where == collection and _matches(thing, request)
        ]

    async def _watch(self, request: web.Request, collection: str) -> web.StreamResponse:
        seen = int(request.query["resourceVersion"])
        stream = web.StreamResponse()
        await stream.prepare(request)
        self._streams.add(stream)
        try:
            if seen < self.oldest:
                gone = {"code": 410, "message": "too old"}
                await stream.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                return stream
            if self.watched:
                await stream.write(self.watched.popleft() + b"\n")
            while not self._hang_up:
                self._changed.clear()
                for version, kind, where, thing in self._history:
                    if version > seen and where == collection and _matches(thing, request):
                        change = {"type": kind, "object": thing}
                        await stream.write(json.dumps(change).encode() + b"\n")
                seen = max(seen, self._version)
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self._changed.wait()
            return stream
        finally:
            self._streams.discard(stream)
            if not self._streams:
                self._hang_up = False


def merged(thing: dict, change: dict) -> dict:
    """Merges as RFC 7396 says."""
    both = {key: value for key, value in thing.items() if change.get(key, ...) is not None}
    for key, value in change.items():
        if isinstance(value, dict):
            both[key] = merged(both.get(key) or {}, value)
        elif value is not None:
            both[key] = value
    return both


def _matches(thing: dict, request: web.Request) -> bool:
    labels = thing["metadata"].get("labels", {})
    for term in filter(None, request.query.get("labelSelector", "").split(",")):
        key, equals, value = term.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    for term in filter(None, request.query.get("fieldSelector", "").split(",")):
        path, _, value = term.partition("=")
        found = thing
        for step in path.split("."):
            found = found[step]
        if found != value:
            return False
    return True


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: it
contexts: [{{name: it, context: {{cluster: it, user: it}}}}]
clusters: [{{name: it, cluster: {{server: "{url}"}}}}]
users: [{{name: it, user: {{token: secret}}}}]
"""


@pytest.fixture
async def api():
    server = FakeApiServer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    server.hang_up()
    await runner.cleanup()


@pytest.fixture
def settings(api, tmp_path):
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG.format(url=api.url))
    return KubernetesSettings(
        kube_namespace="ns",
        pod_image="pod:1",
        kubeconfig=kubeconfig,
        pending_resync_period=timedelta(seconds=0.1),
    )


@pytest.fixture
async def backend(settings):
    backend = KubernetesBackend(settings)
    await backend.open()
    yield backend
    await backend.aclose()
