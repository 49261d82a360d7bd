"""knit-app on the real node: installed, used, upgraded under load, removed, restored."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.charts.helm import CHARTS, Helm, set_json
from tests.charts.installation import Installation
from tests.charts.installation import installation as the_installation
from tests.charts.schemas import operator_kinds

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]

_UP: Final = Path(__file__).parents[1] / "cluster" / "up.py"


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
def installation(
    helm: Helm, node: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    with the_installation(helm, node, tmp_path_factory.mktemp("beside")) as one:
        yield one


def test_the_life_of_an_installation(installation: Installation, capsys: Any) -> None:
    """One test, since each step begins where the one before it has ended."""
    one = installation

    # Installed from nothing: every pod ready, in a namespace that enforces *restricted*.
    took = one.install()
    with capsys.disabled():
        print(f"\n{one.helm.name}: installed in {took:.0f} s")
    assert len(one.pods()) == 6
    one.helm.run("test", "knit-app", "--timeout", "200s")

    # HTTPS that clients can verify; nobody without a token, and the first token is an admin.
    with one.client() as anybody:
        assert anybody.get("/healthz").status_code == 200
        assert anybody.get("/api/plans").status_code == 401
    assert one.ask("GET", "/api/whoami")["role"] == "admin"

    # One Run through the API.
    plan_id = one.apply("word", "tr a-z A-Z < /in/word > /out/word; sleep 3")
    one.push("type:word", "knit")
    [run] = one.ended(plan_id, 1)
    assert run["status"] == "done", run
    made = run["outputs"][0]["knitId"]
    assert one.pulled_word(made) == "KNIT"

    # Prometheus reads every process at a port that users do not reach.
    counted = 'knit_runs_ended_total{status="done"} 1.0'
    # A worker counts what it has recorded, after others can see it.
    told = one.eventually(
        lambda: {name: one.metrics(name) for name in one.pods()},
        lambda told: counted in "".join(told.values()),
    )
    assert all("knit_build_info{" in text for text in told.values())
    everything = "".join(told.values())
    assert 'knit_kubernetes_watch_age_seconds{kind="Pod"}' in everything
    assert "\nknit_database_up 1.0\n" in everything
    assert "\ntemporal_request_total{" in everything
    with one.client() as anybody:
        assert anybody.get("/metrics").status_code in (401, 404)

    # Upgraded with Runs in flight: every pod is replaced, and none of the Runs fails.
    slow = one.apply("slow", "cp /in/word /out/word; sleep 20")
    for number in range(20):
        one.push("type:slow", f"{number}")
    before = one.pods()
    one.install("--set", "settings.KNIT_ENGINE__PAGE_SIZE=400")
    # helm waits for new pods to be ready, not for the old ones to be told to go.
    one.eventually(one.pods, lambda pods: not set(before) & set(pods))
    final = one.ended(slow, 20)
    assert [run["status"] for run in final] == ["done"] * 20

    # A renewed certificate is served without a pod of the API being replaced.
    old, pods = one.served(), one.pods("api")
    one.helm.run(
        "upgrade",
        "knit-certs",
        CHARTS / "knit-certs",
        "--reset-then-reuse-values",
        "--set",
        "renew=2",
    )
    one.eventually(one.served, lambda served: served != old)
    assert one.pods("api") == pods
    assert one.ask("GET", "/api/whoami")["role"] == "admin"

    # Rolled back, then removed: claims of Data and the first token stay.
    one.helm.run("rollback", "knit-app", "1", "--wait", "--timeout", "400s")
    assert one.ask("GET", "/api/whoami")["role"] == "admin"
    one.helm.run("uninstall", "knit-app", "--wait")
    claims = {claim["metadata"]["name"] for claim in one.get("pvc")["items"]}
    assert f"data-knitid-{made}" in claims
    token = one.secret("knit-bootstrap-token", "token")
    assert token == one.token

    # Installed again, everything is back.
    one.install()
    assert one.token == token
    assert one.runs(plan_id)[0]["runId"] == run["runId"]
    with one.client(Authorization=f"Bearer {token}", Accept="application/x-tar") as client:
        assert client.get(f"/api/data/{made}").content


def test_values_that_were_handed_over_hold_no_secret(installation: Installation) -> None:
    """Neither password nor private key is in the record of knit-app's release."""
    one = installation
    if not one.url:
        one.install()
    record = one.helm.run("get", "all", "knit-app").stdout
    for password in one.beside.passwords.values():
        assert password not in record
    assert "PRIVATE KEY" not in record
    key = one.get("secret", "certs")["data"]["tls.key"]
    assert key not in record


def service_accounts(rendered: str) -> list[Any]:
    """The ServiceAccounts among these objects."""
    found = (one for one in yaml.safe_load_all(rendered) if one)
    return [one for one in found if one["kind"] == "ServiceAccount"]


def test_the_server_takes_every_shape(installation: Installation) -> None:
    """A server-side dry run of all `ci` values in an empty namespace that enforces *restricted*."""
    empty = replace(installation.helm, namespace=f"{installation.helm.namespace}-empty")
    one = replace(installation, helm=empty)
    one.make_namespace()
    # They stay: others may be using them.
    for kind in operator_kinds():
        one.kubectl("apply", "--server-side", "-f", str(kind))
    try:
        for chart in ("knit-app", "knit-certs"):
            for values in sorted((CHARTS / chart / "ci").glob("*.yaml")):
                rendered = empty.run("template", chart, CHARTS / chart, "--values", values).stdout
                if rendered.strip():
                    # The account of a pod is looked up; a dry run alone does not make it.
                    for account in service_accounts(rendered):
                        one.kubectl("apply", "-f", "-", text=json.dumps(account))
                    one.kubectl("apply", "--dry-run=server", "-f", "-", text=rendered)
    finally:
        one.kubectl("delete", "namespace", empty.namespace)


def test_a_hand_over_with_a_key_is_refused_before_anything_is_installed(
    installation: Installation,
) -> None:
    one = installation
    done = one.helm.run(
        *("upgrade", "-i", "other", CHARTS / "knit-app", "--set", "temporal.address=x:1"),
        *set_json("certs", {"key": "c2VjcmV0"}),
        check=False,
    )
    assert done.returncode != 0
    assert "certs.key is a private key" in done.stderr
    assert "other" not in one.helm.run("list", "-q").stdout
