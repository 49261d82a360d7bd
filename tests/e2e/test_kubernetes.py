"""The same Plans on a real Kubernetes node: `knit dev` with its worker pointed at the cluster."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.contract.compute.kubernetes_adapter import KubernetesAdapter, kubernetes_adapter

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
WITHIN = 400.0


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


@pytest.fixture(scope="module")
async def knit(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Knit]:
    """One stack for the module; its namespace goes with it."""
    folder = tmp_path_factory.mktemp("knit")
    async with kubernetes_adapter() as adapter:
        settings = adapter.settings
        environment = {
            **os.environ,
            "HOME": str(folder),
            "KNIT_ENGINE__IMAGE_PULL_DEADLINE": "PT3S",
            "KNIT_COMPUTE__KIND": "kubernetes",
            "KNIT_COMPUTE__KUBERNETES__KUBECONFIG": str(settings.kubeconfig),
            "KNIT_COMPUTE__KUBERNETES__KUBE_NAMESPACE": settings.kube_namespace,
            "KNIT_COMPUTE__KUBERNETES__POD_IMAGE": settings.pod_image,
        }
        knit = Knit(folder, environment, adapter)
        await asyncio.to_thread(knit, "dev", "up", "--detach")
        try:
            yield knit
        finally:
            await asyncio.to_thread(knit, "dev", "down")


async def _gone(knit: Knit, run_id: str) -> None:
    async with asyncio.timeout(WITHIN):
        while any(run_id in name for name in await knit.adapter.backend.run_pods()):
            await asyncio.sleep(0.2)


async def test_push_run_log_pull(knit: Knit) -> None:
    """What is pushed is what the container sees; what it makes and says is what is pulled."""
    script = "echo to stdout; echo to stderr >&2; tr a-z A-Z < /in/word > /out/word"
    command = ["sh", "-c", f"{script}; {knit.adapter.last_moment}"]
    plan_id = await asyncio.to_thread(knit.apply, "word", command)
    knit_id = await asyncio.to_thread(knit.push, "word", word="knit")
    run = await asyncio.to_thread(knit.run_of, plan_id, "done", "failed")
    assert run["status"] == "done", run
    log = await asyncio.to_thread(knit, "run", "show", "--log", run["runId"])
    assert sorted(log.splitlines()) == ["to stderr", "to stdout"]
    made = run["outputs"][0]["knitId"]
    await asyncio.to_thread(knit, "data", "pull", "-x", made, str(knit.folder))
    assert (knit.folder / made / "word").read_text() == "KNIT"
    tree = await asyncio.to_thread(knit, "data", "lineage", "--format", "tree", made)
    assert knit_id in tree
    await _gone(knit, run["runId"])


@pytest.mark.parametrize(
    ("kind", "command", "more", "code", "reason"),
    [
        ("three", ["sh", "-c", "exit 3"], {}, 3, "(container main) Error"),
        ("signal", ["sh", "-c", "sh -c 'kill -KILL $$'; exit $?"], {}, 137, "main"),
        ("nothing", ["/no/such/command"], {}, 128, "no such file"),
        ("glutton", ["sh", "-c", "tail /dev/zero"], {}, 137, "OOMKilled"),
        ("imageless", ["true"], {"image": "MISSING"}, 255, "Image"),
    ],
)
async def test_what_fails_says_why(
    knit: Knit, kind: str, command: list[str], more: dict[str, object], code: int, reason: str
) -> None:
    """The Run is failed, with the code and a reason that a user understands."""
    if "image" in more:
        more = {"image": knit.adapter.missing_image}
    plan_id = await asyncio.to_thread(knit.apply, kind, command, **more)
    await asyncio.to_thread(knit.push, kind, word="x")
    run = await asyncio.to_thread(knit.run_of, plan_id, "done", "failed")
    assert run["status"] == "failed"
    assert run["exit"]["code"] == code, run["exit"]
    assert reason in run["exit"]["message"], run["exit"]
    await _gone(knit, run["runId"])


async def test_a_stopped_run_is_gone_before_it_is_final(knit: Knit) -> None:
    """Stops as good enough: what it had written is Data; nothing writes any more."""
    command = ["sh", "-c", "trap '' TERM; while :; do echo x >> /out/ticks; sleep 0.1; done"]
    plan_id = await asyncio.to_thread(knit.apply, "endless", command)
    await asyncio.to_thread(knit.push, "endless", word="x")
    run = await asyncio.to_thread(knit.run_of, plan_id, "running")
    await asyncio.to_thread(knit, "run", "stop", run["runId"])
    run = await asyncio.to_thread(knit.run_of, plan_id, "done", "failed")
    assert run["status"] == "done"
    assert not any(run["runId"] in name for name in await knit.adapter.backend.run_pods())
