"""`knit dev` whose worker is pointed at the real Kubernetes node, in a namespace of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from knit_cli.dev.dev_folder import DevFolder
from knit_cli.dev.services import api_root
from tests.contract.compute.kubernetes_adapter import KubernetesAdapter, kubernetes_adapter

WITHIN: Final = 400.0


@dataclass(frozen=True)
class Knit:
    """The `knit` command in a folder of its own, over a stack that runs Plans on the cluster."""

    folder: Path
    environment: Mapping[str, str]
    adapter: KubernetesAdapter

    def __call__(self, *arguments: str) -> str:
        """Runs one command; gives its stdout, fails the test when it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "knit_cli", *arguments],
            cwd=self.folder,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=WITHIN,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """Runs one command that prints JSON."""
        return json.loads(self(*arguments))

    def push(self, kind: str, **files: str) -> str:
        """Pushes files as Data with the tag `type:kind`; gives its id."""
        folder = self.folder / kind
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        pushed: dict[str, Any] = self.json("data", "push", "--tag", f"type:{kind}", str(folder))
        return str(pushed["knitId"])

    def apply(self, kind: str, command: list[str], **more: object) -> str:
        """Registers a Plan that eats `type:kind` at /in and makes /out and a log; gives its id."""
        plan = {
            "image": self.adapter.image,
            "entrypoint": command,
            "inputs": [{"path": "/in", "tags": [f"type:{kind}"]}],
            "outputs": [{"path": "/out", "tags": [f"made-by:{kind}"]}],
            "log": {"tags": [f"log-of:{kind}"]},
            "resources": {"cpu": "50m", "memory": "64Mi"},
            **more,
        }
        file = self.folder / f"{kind}.yaml"
        file.write_text(json.dumps(plan))
        return str(self.json("plan", "apply", str(file))["planId"])

    def run_of(self, plan_id: str, *statuses: str) -> dict[str, Any]:
        """Waits until the Plan's only Run has one of these statuses; gives it."""
        ends = time.monotonic() + WITHIN
        while time.monotonic() < ends:
            runs = self.json("run", "find", "--planid", plan_id)
            if runs and runs[0]["status"] in statuses:
                run: dict[str, Any] = runs[0]
                return run
            time.sleep(0.2)
        raise AssertionError(f"no Run is {statuses}: {runs}")

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Asks the API past the command, as other programs do; `path` is below `/api`."""
        record = DevFolder(self.folder / ".knit" / "dev").load()
        assert record is not None
        async with httpx.AsyncClient(trust_env=False, timeout=WITHIN) as client:
            return await client.request(method, f"{api_root(record.ports)}{path}", **more)


@asynccontextmanager
async def cluster_stack(folder: Path, **settings: str) -> AsyncIterator[Knit]:
    """One that is up; its namespace goes with it."""
    async with kubernetes_adapter() as adapter:
        compute = adapter.settings
        environment = {
            **os.environ,
            "HOME": str(folder),
            "KNIT_ENGINE__IMAGE_PULL_DEADLINE": "PT3S",
            "KNIT_COMPUTE__KIND": "kubernetes",
            "KNIT_COMPUTE__KUBERNETES__KUBECONFIG": str(compute.kubeconfig),
            "KNIT_COMPUTE__KUBERNETES__KUBE_NAMESPACE": compute.kube_namespace,
            "KNIT_COMPUTE__KUBERNETES__POD_IMAGE": compute.pod_image,
            **settings,
        }
        knit = Knit(folder, environment, adapter)
        await asyncio.to_thread(knit, "dev", "up", "--detach")
        try:
            yield knit
        finally:
            await asyncio.to_thread(knit, "dev", "down")
