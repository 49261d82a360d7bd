"""Argo Workflows on the real node: its controller as a process of this machine, and workflows.

The controller is an administrator there. Its limits of requests per second are raised, since with
their defaults (20, in bursts 30) they would be most of what many workflows take.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from kubernetes.aio import client, config, watch

from knit_workflows.compute.kubernetes.specs import manifests
from knit_workflows.domain.volumes import Volume
from knit_workflows.embedded import free_port
from knit_workflows.settings import KubernetesSettings
from tests.bench.by_hand import new_volume

_CLUSTER: Final = Path(__file__).parents[1] / "cluster"
_GROUP: Final = "argoproj.io"
_VERSION: Final = "v1alpha1"
_KINDS: Final = {
    "ClusterWorkflowTemplate": "Cluster",
    "CronWorkflow": "Namespaced",
    "Workflow": "Namespaced",
    "WorkflowArtifactGCTask": "Namespaced",
    "WorkflowEventBinding": "Namespaced",
    "WorkflowTaskResult": "Namespaced",
    "WorkflowTaskSet": "Namespaced",
    "WorkflowTemplate": "Namespaced",
}
_REQUESTS: Final = re.compile(r"^argo\w*k8s_request_total\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')


@dataclass
class Argo:
    """A controller that runs, and the namespace that it manages."""

    version: str
    process: subprocess.Popen[bytes]
    metrics_port: int
    settings: KubernetesSettings
    api: Any
    log: Path

    async def ready(self) -> None:
        """Waits until the controller serves its metrics."""
        while True:
            self.still_alive()
            with suppress(OSError):
                self.requests()
                return
            await asyncio.sleep(0.1)

    def requests(self) -> Counter[str]:
        """Gives the answers that the controller has had from the API server, as it counts them."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        found: Counter[str] = Counter()
        for labels, value in _REQUESTS.findall(text):
            about = dict(_LABEL.findall(labels))
            found[f"{about['verb'].lower()} {about['kind']}"] += int(float(value))
        return found

    async def run(self, workflows: Sequence[Mapping[str, Any]]) -> None:
        """Creates workflows and waits until all have succeeded; fails if one does not."""
        custom = client.CustomObjectsApi(self.api)
        where = (_GROUP, _VERSION, self.settings.kube_namespace, "workflows")
        label = uuid.uuid4().hex
        names = set()
        for workflow in workflows:
            workflow["metadata"]["labels"] = {"bench": label}
            names.add(workflow["metadata"]["name"])
        making = asyncio.gather(
            *(custom.create_namespaced_custom_object(*where, body) for body in workflows)
        )
        selected = {"label_selector": f"bench={label}", "resource_version": "0"}
        async with watch.Watch("object") as changes:
            follow = custom.list_namespaced_custom_object
            async for change in changes.stream(follow, *where, **selected):
                thing = change["object"]
                phase = thing.get("status", {}).get("phase")
                assert phase not in ("Failed", "Error"), thing["status"]
                if phase == "Succeeded":
                    names.discard(thing["metadata"]["name"])
                if not names:
                    break
        await making

    def still_alive(self) -> None:
        """Raises when the controller has ended, with the last it said."""
        last = self.log.read_text(errors="replace")[-2000:]
        assert self.process.poll() is None, f"the controller has ended: {last}"

    async def delete_workflows(self) -> None:
        """Deletes all workflows, with their pods, and waits until they are gone."""
        custom = client.CustomObjectsApi(self.api)
        where = (_GROUP, _VERSION, self.settings.kube_namespace, "workflows")
        await custom.delete_collection_namespaced_custom_object(*where)
        while (await custom.list_namespaced_custom_object(*where))["items"]:
            await asyncio.sleep(0.2)


def workflow(
    image: str,
    command: Sequence[str],
    resources: Mapping[str, str],
    source: Volume,
    length: int,
    settings: KubernetesSettings,
) -> dict[str, Any]:
    """Gives a chain of tasks, each with a claim of its own, of which the next one is given.

    The first is given `source`; the claims are made by the controller, as Argo's manual has it.
    """
    names = [source.name, *(f"made-{number}" for number in range(1, length + 1))]
    claim = manifests.volume_claim(new_volume(), settings)
    tasks = [
        {"name": f"task-{n}", "template": f"task-{n}", "depends": f"task-{n - 1}" if n else ""}
        for n in range(length)
    ]
    templates = [
        {
            "name": f"task-{number}",
            "container": {
                "image": image,
                "command": list(command),
                "resources": {"limits": dict(resources), "requests": dict(resources)},
                "volumeMounts": [
                    {"name": given, "mountPath": "/in", "readOnly": True},
                    {"name": made, "mountPath": "/out"},
                ],
            },
        }
        for number, (given, made) in enumerate(pairwise(names))
    ]
    chain = {"name": "chain", "dag": {"tasks": tasks}}
    spec = {
        "entrypoint": "task-0" if length == 1 else "chain",
        "templates": templates if length == 1 else [chain, *templates],
        "volumes": [{"name": source.name, "persistentVolumeClaim": {"claimName": source.name}}],
        "volumeClaimTemplates": [
            {"metadata": {"name": name}, "spec": claim["spec"]} for name in names[1:]
        ],
    }
    name = f"bench-{uuid.uuid4().hex[:12]}"
    about = {"apiVersion": f"{_GROUP}/{_VERSION}", "kind": "Workflow"}
    return {**about, "metadata": {"name": name}, "spec": spec}


@asynccontextmanager
async def argo(settings: KubernetesSettings) -> AsyncIterator[Argo]:
    """Runs a controller for the namespace of `settings`, with what it needs in the cluster."""
    made = json.loads(await asyncio.to_thread(_build))
    metrics_port = free_port()
    # The volumes are taken down with the namespace, the kinds here, and with them their objects.
    await _kubectl(settings, "apply", _prerequisites(settings, metrics_port))
    kinds = ",".join(f"crd/{kind.lower()}s.{_GROUP}" for kind in _KINDS)
    await _kubectl(settings, "wait", None, "--for=condition=Established", *kinds.split(","))
    try:
        with tempfile.TemporaryDirectory(prefix="knit-argo-") as folder:
            log = Path(folder, "controller.log")
            process = _start(made, settings, log)
            try:
                api = await config.new_client_from_config(
                    str(settings.kubeconfig), persist_config=False
                )
                async with api:
                    found = Argo(made["version"], process, metrics_port, settings, api, log)
                    await found.ready()
                    yield found
            finally:
                process.kill()  # it stays when it is told to end
                process.wait()
                if kept := os.environ.get("KNIT_BENCH_LOGS"):
                    Path(kept, "argo-controller.log").write_bytes(log.read_bytes())
    finally:
        await _kubectl(settings, "delete", None, "--ignore-not-found", *kinds.split(","))


def _build() -> str:
    up = subprocess.run(
        [sys.executable, str(_CLUSTER / "up.py")], stdout=subprocess.PIPE, check=True
    )
    registry = json.loads(up.stdout)["registry"]
    command = [sys.executable, str(_CLUSTER / "argo_image.py"), registry]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def _start(
    made: Mapping[str, str], settings: KubernetesSettings, log: Path
) -> subprocess.Popen[bytes]:
    command = [made["controller"], f"--kubeconfig={settings.kubeconfig}"]
    command += [f"--namespace={settings.kube_namespace}", "--namespaced"]
    command += [f"--executor-image={made['image']}", "--executor-image-pull-policy=IfNotPresent"]
    command += ["--qps=500", "--burst=1000"]
    environment = os.environ | {"LEADER_ELECTION_DISABLE": "true"}
    with log.open("wb") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=log.parent
        )


async def _kubectl(
    settings: KubernetesSettings, verb: str, things: Sequence[Any] | None, *more: str
) -> None:
    command = ["kubectl", f"--kubeconfig={settings.kubeconfig}", verb, *more]
    content = None
    if things is not None:
        command += ["-f", "-"]
        content = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(things)})
    done = await asyncio.to_thread(
        subprocess.run, command, input=content, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def _prerequisites(settings: KubernetesSettings, metrics_port: int) -> list[dict[str, Any]]:
    place = {"namespace": settings.kube_namespace}
    rights = {"apiGroups": [_GROUP], "resources": ["workflowtaskresults"]}
    access = "rbac.authorization.k8s.io"
    metrics = json.dumps({"enabled": True, "port": metrics_port, "secure": False})
    return [
        *(_definition(kind, scope) for kind, scope in _KINDS.items()),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "workflow-controller-configmap", **place},
            "data": {"metricsConfig": metrics},
        },
        {
            "apiVersion": f"{access}/v1",
            "kind": "Role",
            "metadata": {"name": "executor", **place},
            "rules": [{**rights, "verbs": ["create", "patch"]}],
        },
        {
            "apiVersion": f"{access}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "executor", **place},
            "roleRef": {"apiGroup": access, "kind": "Role", "name": "executor"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", **place}],
        },
    ]


def _definition(kind: str, scope: str) -> dict[str, Any]:
    """Gives the definition of a kind without a schema, as Argo's minimal installation has it."""
    plural = f"{kind.lower()}s"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": _VERSION, "served": True, "storage": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{_GROUP}"},
        "spec": {
            "group": _GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
            },
            "scope": scope,
            "versions": [{**version, "schema": {"openAPIV3Schema": anything}}],
        },
    }
