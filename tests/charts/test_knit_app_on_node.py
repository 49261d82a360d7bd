"""knit-app on the real node: installed, used, upgraded under load, removed, restored."""

from __future__ import annotations

import base64
import io
import json
import socket
import ssl
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from tests.charts.helm import CHARTS, Helm, set_json
from tests.charts.surroundings import Surroundings, surroundings
from tests.waiting import wait_for_port

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]

WITHIN: Final = 400.0
_UP: Final = Path(__file__).parents[1] / "cluster" / "up.py"


@dataclass
class Installation:
    """A namespace that enforces *restricted*, with knit in it, and how to speak to both."""

    helm: Helm
    images: dict[str, str]
    beside: Surroundings
    token: str = ""
    url: str = ""
    authority: str = ""

    def kubectl(self, *arguments: str, text: str = "") -> str:
        command = ["kubectl", f"--kubeconfig={self.helm.kubeconfig}", "--namespace"]
        done = subprocess.run(
            [*command, self.helm.namespace, *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=WITHIN,
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def make_namespace(self) -> None:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        metadata = {"name": self.helm.namespace, "labels": labels}
        made = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        self.kubectl("create", "-f", "-", text=json.dumps(made))

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def secret(self, name: str, key: str) -> str:
        return base64.b64decode(self.get("secret", name)["data"][key]).decode()

    def pods(self, component: str = "") -> dict[str, str]:
        """The uids of knit's pods by name, without those of Jobs and those that are ending."""
        selector = "app.kubernetes.io/name=knit-app,!batch.kubernetes.io/job-name"
        if component:
            selector += f",app.kubernetes.io/component={component}"
        found = self.get("pods", "-l", selector)["items"]
        about = [one["metadata"] for one in found if "deletionTimestamp" not in one["metadata"]]
        return {one["name"]: one["uid"] for one in about}

    def install(self, *arguments: str) -> float:
        """Installs or upgrades as the guide says, and waits; gives the seconds that it took."""
        began = time.monotonic()
        address = self.beside.address
        self.helm.run(
            *("upgrade", "-i", "knit-certs", CHARTS / "knit-certs", "--wait"),
            *("--set", f"san.ips={{{address}}}"),
        )
        certs = self.helm.run("get", "values", "knit-certs", "-o", "json", "--all").stdout
        images = {
            kind: self.images[name] for kind, name in (("image", "app"), ("podImage", "knit"))
        }
        parts = {kind: reference.rpartition(":") for kind, reference in images.items()}
        values = {f"{kind}.{key}": value for kind, (name, _, tag) in parts.items()
                  for key, value in (("repository", name), ("tag", tag))}  # fmt: skip
        values |= {
            "temporal.address": self.beside.temporal,
            "database.service": address,
            "database.port": str(self.beside.postgres_port),
            "runs.restricted": "true",
            "api.service.nodePort": "0",
        }
        try:
            self.helm.run(
                *("upgrade", "-i", "knit-app", CHARTS / "knit-app", "--wait", "--timeout", "400s"),
                *(word for key, value in values.items() for word in ("--set", f"{key}={value}")),
                *("--set-json", f"certs={certs.strip()}"),
                *arguments,
            )
        except AssertionError as failed:
            raise AssertionError(f"{failed}\n{self.state()}") from failed
        took = time.monotonic() - began
        self.look()
        return took

    def look(self) -> None:
        """Reads where the API is, whom to trust, and the first token."""
        port = self.get("service", "knit-api")["spec"]["ports"][0]["nodePort"]
        wait_for_port(self.beside.address, port)
        self.url = f"https://{self.beside.address}:{port}"
        self.authority = self.secret("certs", "ca.crt")
        self.token = self.secret("knit-bootstrap-token", "token")

    def state(self) -> str:
        """What a person would look at when it does not come up."""
        pods = self.kubectl("get", "pods", "-o", "wide")
        events = self.kubectl("get", "events", "--sort-by=.lastTimestamp")
        logs = [
            self.kubectl("logs", "--tail=5", "--all-containers", f"pod/{one['metadata']['name']}")
            for one in self.get("pods")["items"]
            if one["status"]["phase"] in ("Running", "Failed")
        ]
        return "\n".join([pods, events[-4000:], *logs])

    def client(self, **headers: str) -> httpx.Client:
        trusting = ssl.create_default_context(cadata=self.authority)
        return httpx.Client(
            base_url=self.url, verify=trusting, headers=headers, timeout=60, trust_env=False
        )

    def ask(self, method: str, path: str, **more: Any) -> Any:
        with self.client(Authorization=f"Bearer {self.token}") as client:
            answer = client.request(method, path, **more)
        assert answer.is_success, answer.text
        return answer.json()

    def push(self, tag: str, text: str) -> str:
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            member = tarfile.TarInfo("word")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        headers = {"Content-Type": "application/x-tar"}
        made = self.ask(
            "POST", "/api/data", params={"tag": tag}, content=content.getvalue(), headers=headers
        )
        return str(made["knitId"])

    def apply(self, kind: str, script: str) -> str:
        plan = {
            "image": self.images["busybox"],
            "entrypoint": ["sh", "-c", script],
            "inputs": [{"path": "/in", "tags": [f"type:{kind}"]}],
            "outputs": [{"path": "/out", "tags": [f"made-by:{kind}"]}],
            "log": {"tags": [f"log-of:{kind}"]},
            "resources": {"cpu": "10m", "memory": "32Mi"},
        }
        return str(self.ask("POST", "/api/plans", json=plan)["planId"])

    def runs(self, plan_id: str) -> list[Any]:
        return list(self.ask("GET", "/api/runs", params={"plan": plan_id}))

    def ended(self, plan_id: str, count: int) -> list[Any]:
        """Waits until so many Runs of a Plan are final."""
        ends = time.monotonic() + WITHIN
        while True:
            found = self.runs(plan_id)
            final = [run for run in found if run["status"] in ("done", "failed")]
            if len(final) >= count:
                return final
            assert time.monotonic() < ends, f"{found}\n{self.state()}"
            time.sleep(1)

    def served(self) -> str:
        """The certificate that a new connection to the API gets."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return ssl.get_server_certificate((parts.hostname, parts.port), timeout=30)


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
    kubeconfig = Path(node["kubeconfig"])
    config = json.loads(kubeconfig.read_text())
    address = urlsplit(config["clusters"][0]["cluster"]["server"]).hostname
    assert address is not None
    namespace = f"knit-app-{uuid.uuid4().hex[:6]}"
    folder = tmp_path_factory.mktemp("beside")
    folder.chmod(0o755)
    with surroundings(address, _free_ports(address), folder) as beside:
        one = Installation(
            replace(helm, kubeconfig=kubeconfig, namespace=namespace), node["images"], beside
        )
        one.make_namespace()
        try:
            for secret, role in (
                ("database-credential", "knit"),
                ("database-app-credential", "knit-app"),
            ):
                one.kubectl(
                    *("create", "secret", "generic", secret, f"--from-literal=username={role}"),
                    f"--from-literal=password={beside.passwords[role]}",
                )
            yield one
        finally:
            one.kubectl("delete", "namespace", namespace, "--wait=true", f"--timeout={WITHIN:.0f}s")


def _free_ports(address: str) -> tuple[int, int, int]:
    sockets = [socket.create_server((address, 0)) for _ in range(3)]
    first, second, third = (one.getsockname()[1] for one in sockets)
    for one in sockets:
        one.close()
    return first, second, third


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
    with one.client(Authorization=f"Bearer {one.token}", Accept="application/x-tar") as client:
        content = client.get(f"/api/data/{made}").content
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        word = archive.extractfile("word") or archive.extractfile("./word")
        assert word is not None
        assert word.read() == b"KNIT"

    # Upgraded with Runs in flight: every pod is replaced, and none of the Runs fails.
    slow = one.apply("slow", "cp /in/word /out/word; sleep 20")
    for number in range(20):
        one.push("type:slow", f"{number}")
    before = one.pods()
    one.install("--set", "settings.KNIT_ENGINE__PAGE_SIZE=400")
    assert not set(before) & set(one.pods())
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
    ends = time.monotonic() + WITHIN
    while one.served() == old:
        assert time.monotonic() < ends
        time.sleep(1)
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
