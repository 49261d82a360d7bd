"""`knit admin install` that is cut, with real helm: small charts on a real API server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from knit_cli.admin.charts import CERTS, DATABASE, ORDER, TEMPORAL
from tests.charts.administrator import Administrator
from tests.charts.helm import HELMS, program
from tests.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
CHARTS = [chart for chart in ORDER if chart != TEMPORAL]


@pytest.fixture(scope="module")
def kubeconfig() -> Path:
    up = Path(__file__).parents[1] / "cluster" / "up.py"
    done = subprocess.run([sys.executable, up], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip((done.stderr.strip() or "tests/cluster/up.py failed").splitlines()[-1])
    return Path(json.loads(done.stdout)["kubeconfig"])


Kubectl = Callable[..., Any]


@pytest.fixture
def kubectl(kubeconfig: Path) -> Kubectl:
    def get(*arguments: str) -> Any:
        command = ["kubectl", f"--kubeconfig={kubeconfig}", *arguments, "-o", "json"]
        return json.loads(subprocess.check_output(command))

    return get


@pytest.fixture(params=HELMS)
def admin(
    request: pytest.FixtureRequest, kubeconfig: Path, tmp_path: Path
) -> Iterator[Administrator]:
    """With a folder of charts that each make a ConfigMap; and that of the database, what waits."""
    namespace = f"knit-admin-{uuid.uuid4().hex[:8]}"
    one = Administrator(program(request.param), tmp_path, namespace)
    for chart in CHARTS:
        write(one, chart, "all.yaml", {"kind": "ConfigMap", "apiVersion": "v1"})
    one.variables["CHART_REPOSITORY_ROOT"] = str(tmp_path / "charts")
    flags = ("--namespace", namespace, "--kubeconfig", str(kubeconfig), "--temporal", "t:7233")
    one.knit("admin", "prepare", *flags)
    yield one
    command = ["kubectl", f"--kubeconfig={kubeconfig}", "delete", "namespace", namespace]
    subprocess.run([*command, "--ignore-not-found", "--wait=false"], check=False)


def write(admin: Administrator, chart: str, name: str, content: dict[str, Any]) -> Path:
    folder = admin.home / "charts" / chart
    (folder / "templates").mkdir(parents=True, exist_ok=True)
    described = {"apiVersion": "v2", "name": chart, "version": "0.1.0"}
    (folder / "Chart.yaml").write_text(yaml.safe_dump(described))
    path = folder / "templates" / name
    # As all objects of knit's charts: a release without it is somebody else's.
    metadata = {"name": chart, "labels": {"app.kubernetes.io/part-of": "knit"}}
    path.write_text(yaml.safe_dump({**content, "metadata": metadata}))
    return path


def never_ready(admin: Administrator) -> Path:
    labels = {"app": "never"}
    pod = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "main", "image": "localhost:1/none:1"}]},
    }
    spec = {"selector": {"matchLabels": labels}, "template": pod}
    one = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": spec}
    return write(admin, DATABASE, "never.yaml", one)


def status_of(kubectl: Kubectl, admin: Administrator, chart: str) -> str:
    """The status of the newest revision."""
    selector = f"owner=helm,name={chart}"
    found = kubectl("get", "secrets", "-n", admin.namespace, "-l", selector)["items"]
    labels = [one["metadata"]["labels"] for one in found]
    return max(((int(one["version"]), one["status"]) for one in labels), default=(0, ""))[1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("begun", ["fresh", "installed"])
def test_an_install_that_was_cut_goes_on(
    admin: Administrator, kubectl: Kubectl, begun: str, number: int
) -> None:
    """Killed outright it leaves a helm, for whose end the next one asks."""
    if begun == "installed":
        install(admin)
    waits = never_ready(admin)
    process = admin.start("admin", "install")
    wait_until(lambda: status_of(kubectl, admin, DATABASE).startswith("pending"))
    helms = children(process.pid)
    process.send_signal(number)
    process.communicate()
    if number == signal.SIGKILL:
        said = admin.knit("admin", "install", code=1).stderr
        assert "it, or a helm that it has started, holds" in said
        for pid in helms:
            os.kill(pid, signal.SIGKILL)
        assert status_of(kubectl, admin, DATABASE).startswith("pending")
    waits.unlink()
    said = install(admin)
    assert ("by a helm that was killed; repaired" in said) == (number == signal.SIGKILL)
    assert {status_of(kubectl, admin, chart) for chart in CHARTS} == {"deployed"}


def test_what_is_not_ready_in_time_is_told(admin: Administrator) -> None:
    never_ready(admin)
    said = admin.knit("admin", "install", "--timeout", "10s", code=1).stderr
    assert f"error: {DATABASE} could not be installed\n" in said
    assert f"{DATABASE}: 0 of 1 ready\n" in said


def test_secrets_are_in_no_record_of_helm(admin: Administrator, kubectl: Kubectl) -> None:
    install(admin)
    key = (admin.folder / "certs" / "server.key").read_text().splitlines()[1]
    for chart in CHARTS:
        values = admin_helm(admin, "get", "all", chart)
        assert key not in values
        assert (admin.folder / "bootstrap-token").read_text().strip() not in values
    assert "external: true" in admin_helm(admin, "get", "values", CERTS)


def install(admin: Administrator) -> str:
    """Installs; these charts have no Service, so that there is no address to hand out."""
    said = admin.knit("admin", "install").stderr
    assert "there are no handouts: the Service knit-api has no port on the nodes" in said
    return said


def admin_helm(admin: Administrator, *arguments: str) -> str:
    place = ("--namespace", admin.namespace, "--kubeconfig", str(admin.folder / "kubeconfig"))
    return subprocess.check_output([admin.helm, *arguments, *place], text=True)


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
