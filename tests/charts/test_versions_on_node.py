"""Workers of two versions on the real node: a Run ends with the one that it began with."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from temporalio.client import Client

from knit_cli.admin.doctor.temporal_checks import findings_of
from knit_workflows import names
from tests.charts.helm import Helm
from tests.charts.installation import Installation, installation
from tests.waiting import PATIENCE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

_UP: Final = Path(__file__).parents[1] / "cluster" / "up.py"
_MANIFESTS: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
# One pod per version: it is about versions, and pods of all roles cost the node minutes.
_TOGETHER: Final = ("--set", "workers.together=true")
_VERSIONED: Final = (*_TOGETHER, "--set", "workers.versioning.enabled=true")
_DRAINING: Final = "knit-worker-compute-first"


@pytest.fixture(scope="module")
def node() -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(_UP), "--with-app"], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip((done.stderr.strip() or "tests/cluster/up.py failed").splitlines()[-1])
    found: dict[str, Any] = json.loads(done.stdout)
    if "app" not in found["images"]:
        pytest.skip("the cluster has no registry for the tests' images")
    return found


@pytest.fixture(scope="module")
def versioned(
    node: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    helm = Helm("helm-3", tmp_path_factory.mktemp("helm"))
    with installation(helm, node, tmp_path_factory.mktemp("beside")) as one:
        yield one


def tagged(reference: str, tag: str) -> str:
    """Gives the same image another tag in its registry; gives its reference."""
    name, _, before = reference.rpartition(":")
    registry, _, repository = name.partition("/")
    manifests = f"http://{registry}/v2/{repository}/manifests"
    with httpx.Client(trust_env=False, timeout=PATIENCE) as client:
        found = client.get(f"{manifests}/{before}", headers={"Accept": ", ".join(_MANIFESTS)})
        kind = {"Content-Type": found.headers["Content-Type"]}
        put = client.put(f"{manifests}/{tag}", content=found.content, headers=kind)
    assert put.is_success, put.text
    return f"{name}:{tag}"


def inside(one: Installation, module: str) -> Any:
    """What `knit admin` asks a pod of the API."""
    command = ("exec", "deployment/knit-api", "--container", "api", "--", "python3", "-m", module)
    return json.loads(one.kubectl(*command))


def versions(one: Installation) -> dict[str, str]:
    """Gives the state of each version, as `knit admin status` shows it."""
    found = inside(one, "knit_workflows.inspection.status").get("worker_versions", [])
    return {each["build_id"]: each["state"] for each in found}


def build_of(one: Installation, run_id: str) -> str:
    """Gives the version with which a Run's workflow was last."""

    async def described() -> str:
        port = one.beside.temporal_port
        client = await Client.connect(f"127.0.0.1:{port}", namespace="knit")
        handle = client.get_workflow_handle(names.run_workflow(run_id, 1))
        info = (await handle.describe()).raw_description.workflow_execution_info
        return str(info.versioning_info.deployment_version.build_id)

    return asyncio.run(described())


def quick_run(one: Installation, plan_id: str) -> str:
    """Has one more Run of a Plan for `type:quick`, which ends well; gives its id."""
    before = {run["runId"] for run in one.runs(plan_id)}
    one.push("type:quick", "x")
    runs = one.ended(plan_id, len(before) + 1)
    [new] = [run for run in runs if run["runId"] not in before]
    assert new["status"] == "done", new
    return str(new["runId"])


def test_a_run_ends_with_its_version_which_is_drained_then(versioned: Installation) -> None:
    """As the guide says: an upgrade with the earlier version in `draining`, and switching off."""
    one = versioned
    image = one.images["app"]

    one.images["app"] = tagged(image, "first")
    one.install(*_VERSIONED)
    one.eventually(lambda: versions(one), lambda found: found == {"first": "current"})
    slow = one.apply("slow", "until [ -e /out/go ]; do sleep 0.3; done")
    one.push("type:slow", "x")
    [early] = one.eventually(
        lambda: one.runs(slow), lambda runs: [run["status"] for run in runs] == ["running"]
    )

    one.images["app"] = tagged(image, "second")
    one.install(*_VERSIONED, "--set-json", 'workers.versioning.draining=["first"]')
    one.eventually(
        lambda: versions(one), lambda found: found == {"first": "draining", "second": "current"}
    )
    assert [run["status"] for run in one.runs(slow)] == ["running"]
    quick = one.apply("quick", "cp /in/word /out/word")
    # Temporal tells the partitions of a task queue one after the other.
    one.eventually(lambda: build_of(one, quick_run(one, quick)), lambda build: build == "second")
    pod = f"job/{names.run_pod(early['runId'], 1)}"
    one.kubectl("exec", pod, "--container", "main", "--", "touch", "/out/go")
    [ended] = one.ended(slow, 1)
    assert ended["status"] == "done", ended
    assert build_of(one, early["runId"]) == "first"

    one.eventually(lambda: versions(one).get("first"), lambda state: state == "drained")
    found = inside(one, "knit_workflows.examination")["temporal"]
    [over] = [each for each in findings_of(found) if each.check == "versions" and each.cure]
    assert over.cure is not None
    assert over.cure.startswith("remove first from workers.versioning.draining")

    assert _DRAINING in one.kubectl("get", "deployments", "-o", "name")
    one.install(*_VERSIONED)
    assert _DRAINING not in one.kubectl("get", "deployments", "-o", "name")
    assert versions(one)["second"] == "current"

    # Versioning is switched off while a Run is under way.
    one.push("type:slow", "y")
    runs = one.eventually(
        lambda: one.runs(slow), lambda runs: sorted(r["status"] for r in runs)[1:] == ["running"]
    )
    [late] = [run for run in runs if run["status"] == "running"]
    one.install(*_TOGETHER, "--set-json", 'workers.versioning.draining=["second"]')
    one.eventually(lambda: versions(one).get("second"), lambda state: state == "draining")
    one.eventually(lambda: build_of(one, quick_run(one, quick)), lambda build: build == "")
    pod = f"job/{names.run_pod(late['runId'], 1)}"
    one.kubectl("exec", pod, "--container", "main", "--", "touch", "/out/go")
    assert {run["status"] for run in one.ended(slow, 2)} == {"done"}
    assert build_of(one, late["runId"]) == "second"
    one.eventually(lambda: versions(one).get("second"), lambda state: state == "drained")
