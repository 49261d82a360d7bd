"""knit-app on the real node, as an administrator and a user see it."""

from __future__ import annotations

import base64
import io
import json
import socket
import ssl
import subprocess
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import httpx

from tests.charts.helm import CHARTS, Helm
from tests.charts.surroundings import Surroundings, surroundings
from tests.waiting import wait_for_port

T = TypeVar("T")

WITHIN: Final = 400.0


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

    def make_claim(self, name: str) -> None:
        """Of the default StorageClass, with room for a few files."""
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}}
        kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
        claim = {**kind, "metadata": {"name": name}, "spec": spec}
        self.kubectl("create", "-f", "-", text=json.dumps(claim))

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

    def metrics(self, pod: str) -> str:
        """What a pod tells Prometheus, read through the API server."""
        path = f"/api/v1/namespaces/{self.helm.namespace}/pods/{pod}:9464/proxy/metrics"
        return self.kubectl("get", "--raw", path)

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
        # Connections are made again: kube-proxy may still lead to a pod that has just gone.
        transport = httpx.HTTPTransport(verify=trusting, retries=6)
        return httpx.Client(
            base_url=self.url, transport=transport, headers=headers, timeout=60, trust_env=False
        )

    def ask(self, method: str, path: str, **more: Any) -> Any:
        with self.client(Authorization=f"Bearer {self.token}") as client:
            answer = client.request(method, path, **more)
        assert answer.is_success, answer.text
        return answer.json()

    def push(self, tag: str, text: str) -> str:
        answer = self.sent(tag, text, str(uuid.uuid4()))
        assert answer.is_success, answer.text
        return str(answer.json()["knitId"])

    def sent(self, tag: str, text: str, key: str) -> httpx.Response:
        """Pushes a file, `word`; the same key means the same Data."""
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            member = tarfile.TarInfo("word")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
        headers = {"Content-Type": "application/x-tar", "Idempotency-Key": key}
        with self.client(Authorization=f"Bearer {self.token}") as client:
            return client.post(
                "/api/data", params={"tag": tag}, content=content.getvalue(), headers=headers
            )

    def pulled_word(self, knit_id: str) -> str:
        """Pulls a Data; gives what is in its file `word`."""
        accepting = {"Authorization": f"Bearer {self.token}", "Accept": "application/x-tar"}
        with self.client(**accepting) as client:
            content = client.get(f"/api/data/{knit_id}").content
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            word = archive.extractfile("word") or archive.extractfile("./word")
            assert word is not None
            return word.read().decode()

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

        def final() -> list[Any]:
            return [run for run in self.runs(plan_id) if run["status"] in ("done", "failed")]

        return self.eventually(final, lambda found: len(found) >= count)

    def eventually(self, look: Callable[[], T], wanted: Callable[[T], object]) -> T:
        """Looks again and again until what is seen is as wanted; gives it."""
        ends = time.monotonic() + WITHIN
        while not wanted(seen := look()):
            assert time.monotonic() < ends, f"{seen}\n{self.state()}"
            time.sleep(1)
        return seen

    def served(self) -> str:
        """The certificate that a new connection to the API gets."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return ssl.get_server_certificate((parts.hostname, parts.port), timeout=30)


@contextmanager
def installation(helm: Helm, node: Mapping[str, Any], folder: Path) -> Iterator[Installation]:
    """Makes a namespace that enforces *restricted*, and what knit is installed beside, in a folder.

    `node` is what `tests/cluster/up.py` prints. Nothing is installed yet.
    """
    kubeconfig = Path(node["kubeconfig"])
    config = json.loads(kubeconfig.read_text())
    address = urlsplit(config["clusters"][0]["cluster"]["server"]).hostname
    assert address is not None
    namespace = f"knit-app-{uuid.uuid4().hex[:6]}"
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
