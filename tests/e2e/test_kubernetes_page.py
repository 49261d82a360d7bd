"""The commands of the page on Kubernetes, from a cluster without anything of knit to a Run."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from knit_workflows.embedded import EmbeddedPostgres, free_port
from knit_workflows.testing import temporal
from tests.api.archives import tar_of
from tests.docs.blocks import blocks
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "kubernetes.md"
UP = ROOT / "tests" / "cluster" / "up.py"
WITHOUT_CLUSTER = ("engine", "hooks")


class Page:
    """The commands of the page, with the names of this machine instead of the page's."""

    def __init__(self, folder: Path, **here: str) -> None:
        self._folder = folder
        self._here = here
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        self._exported = ""
        self.blocks = {
            word: self._with_names(self._only(word))
            for word in ("kubectl apply", "create token", "knit_workflows.store", "--roles")
        }

    @staticmethod
    def _only(word: str) -> str:
        [block] = [block for block in blocks(PAGE, "sh") if word in block]
        return block

    def _with_names(self, block: str) -> str:
        for name, value in self._here.items():
            block, count = re.subn(
                rf"^export {name}=.*$", f"export {name}={value}", block, flags=re.M
            )
            assert count <= 1, name
        return block

    def run(self, script: str) -> None:
        """Runs commands; what they export is there for those that follow."""
        done = subprocess.run(
            ["bash", "-euc", f"{self._exported}\n{script}"],
            cwd=self._folder, env=self._environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        self._exported += "\n".join(re.findall(r"^export .*$", script, re.MULTILINE)) + "\n"

    @contextmanager
    def served(self, command: str, *, without: str = "") -> Iterator[Path]:
        """Runs a command that serves until it is ended; gives its log."""
        log = self._folder / f"{uuid.uuid4().hex}.log"
        script = f"{self._exported}\n{without}\nexec {command}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-euc", script], cwd=self._folder, env=self._environment,
                stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            yield log
        finally:
            process.terminate()
            process.wait(PATIENCE)


async def said(log: Path, word: str) -> None:
    ends = time.monotonic() + PATIENCE
    while word not in log.read_text():
        assert time.monotonic() < ends, log.read_text()
        await asyncio.sleep(0.1)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The real node, as an administrator's `kubectl` finds it."""
    done = subprocess.run([sys.executable, str(UP)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip((done.stderr.strip() or "tests/cluster/up.py failed").splitlines()[-1])
    found: dict[str, Any] = json.loads(done.stdout)
    monkeypatch.setenv("KUBECONFIG", found["kubeconfig"])
    return found


@pytest.fixture
async def page(
    cluster: dict[str, Any], postgres: EmbeddedPostgres, tmp_path: Path
) -> AsyncIterator[Page]:
    namespace = f"knit-page-{uuid.uuid4().hex[:8]}"
    async with temporal() as client:
        yield Page(
            tmp_path,
            KNIT_COMPUTE__KUBERNETES__KUBE_NAMESPACE=namespace,
            KNIT_STORE__URL=postgres.url(f"page_{uuid.uuid4().hex}"),
            TEMPORAL_ADDRESS=client.service_client.config.target_host,
            KNIT_COMPUTE__KUBERNETES__STORAGE_CLASS="knit-test-folders",
            KNIT_COMPUTE__KUBERNETES__POD_IMAGE=cluster["images"]["knit"],
        )
    subprocess.run(["kubectl", "delete", "namespace", namespace, "--wait"], check=True)


async def test_its_commands_lead_from_an_empty_cluster_to_a_run(
    page: Page, cluster: dict[str, Any]
) -> None:
    """Workers have the rights that the page gives them, or none where it says so."""
    for word in ("kubectl apply", "create token", "knit_workflows.store"):
        page.run(page.blocks[word])
    lines = page.blocks["--roles"].splitlines()
    serving = [line for line in lines if "--roles" in line or "knit_api" in line]
    page.run("\n".join(line for line in lines if line not in serving))
    page.run("export KNIT_ACCOUNTS__REQUIRED=false")
    port = free_port()
    logs = []
    with ExitStack() as stack:
        for command in serving:
            here = command.replace("0.0.0.0", "127.0.0.1").replace("8080", str(port))
            alone = any(f"--roles {role} " in here for role in WITHOUT_CLUSTER)
            no_credentials = "unset KNIT_COMPUTE__KUBERNETES__KUBECONFIG KUBECONFIG"
            serve = page.served(here, without=no_credentials if alone else "")
            logs.append((here, stack.enter_context(serve)))
        for command, log in logs:
            await said(log, "worker is ready" if "--roles" in command else "API is ready")
        await pushed_and_run(f"http://127.0.0.1:{port}/api", cluster["images"]["busybox"])


async def pushed_and_run(api: str, image: str) -> None:
    """Pushes, runs a Plan on it, reads the log, and pulls what it has made."""
    plan = {
        "image": image,
        "entrypoint": ["sh", "-c", "cp /in/word /out/word; echo copied; sleep 3"],
        "inputs": [{"path": "/in", "tags": ["type:word"]}],
        "outputs": [{"path": "/out", "tags": ["type:copy"]}],
        "log": {"tags": ["type:log"]},
        "resources": {"cpu": "50m", "memory": "64Mi"},
    }
    async with httpx.AsyncClient(base_url=api, trust_env=False, timeout=PATIENCE) as http:
        (await http.post("/plans", json=plan)).raise_for_status()
        tar = {"Content-Type": "application/x-tar", "Accept": "application/x-tar"}
        body = tar_of({"word": b"knit"})
        pushed = await http.post("/data", params={"tag": "type:word"}, content=body, headers=tar)
        assert pushed.status_code == 200, pushed.text
        async with asyncio.timeout(PATIENCE):
            while True:
                runs = (await http.get("/runs")).json()
                [run] = [one for one in runs if one["inputs"]] or [{"status": ""}]
                if run["status"] in ("done", "failed"):
                    break
                await asyncio.sleep(0.2)
        assert run["status"] == "done", run
        assert "copied" in (await http.get(f"/runs/{run['runId']}/log")).text
        made = await http.get(f"/data/{run['outputs'][0]['knitId']}", headers=tar)
        assert b"knit" in made.content
