"""The real node as tests of charts see it: `kubectl`, images, certificates, more volumes."""

from __future__ import annotations

import base64
import dataclasses
import json
import socket
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tools.debian_packages import ensure_packages

_CLUSTER: Final = Path(__file__).parents[1] / "cluster"
_CLASS: Final = "knit-test-folders"
_PROVISIONER: Final = "knit.test/folders"


@dataclass(frozen=True)
class Node:
    """A cluster of one node on this machine, and the images of the charts."""

    kubeconfig: Path
    registry: str
    address: str
    """The node's own address, under which it is reached from outside."""
    images: dict[str, str]
    """References of those that are there already, by name."""
    storage_class: str = _CLASS

    def image(self, name: str) -> str:
        """The reference of an image that a chart needs; the first call may make it, for minutes."""
        if name not in self.images:
            made = _output("chart_images.py", self.registry, name)
            assert made.returncode == 0, made.stderr
            self.images.update(json.loads(made.stdout))
        return self.images[name]

    def kubectl(
        self, *arguments: str, input: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs `kubectl`; what it says on failure is in the failure of the test."""
        command = ["kubectl", f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=input, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{arguments}\n{done.stderr}"
        return done

    def get(self, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
        place = ("-n", namespace) if namespace else ()
        found: dict[str, Any] = json.loads(
            self.kubectl("get", kind, name, *place, "-o", "json").stdout
        )
        return found

    def has(self, kind: str, name: str, namespace: str = "") -> bool:
        place = ("-n", namespace) if namespace else ()
        return self.kubectl("get", kind, name, *place, check=False).returncode == 0

    def make_namespace(self, name: str) -> None:
        """Makes one that enforces the restricted Pod Security Standard."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        labels["pod-security.kubernetes.io/warn"] = "restricted"
        self._create("Namespace", {"name": name, "labels": labels}, {})

    def make_secret(self, namespace: str, name: str, content: Mapping[str, str]) -> None:
        """Makes a Secret or replaces its content."""
        metadata = {"name": name, "namespace": namespace}
        self._create("Secret", metadata, {"stringData": dict(content)})

    def make_tls_secret(self, namespace: str, name: str, folder: Path) -> None:
        content = {key: (folder / key).read_text() for key in ("tls.crt", "tls.key", "ca.crt")}
        metadata = {"name": name, "namespace": namespace}
        self._create("Secret", metadata, {"type": "kubernetes.io/tls", "stringData": content})

    def _create(self, kind: str, metadata: dict[str, Any], rest: dict[str, Any]) -> None:
        made = {"apiVersion": "v1", "kind": kind, "metadata": metadata, **rest}
        self.kubectl("apply", "-f", "-", input=json.dumps(made))

    def secret(self, namespace: str, name: str) -> dict[str, str]:
        data = self.get("secret", name, namespace)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def cluster_ip(self, service: str, namespace: str) -> str:
        address: str = self.get("service", service, namespace)["spec"]["clusterIP"]
        return address

    def restart(self, deployment: str, namespace: str) -> None:
        target = ("-n", namespace, f"deployment/{deployment}")
        self.kubectl("rollout", "restart", *target)
        self.kubectl("rollout", "status", *target, "--timeout=400s")

    def pod(self, deployment: str, namespace: str) -> dict[str, Any]:
        """The one pod of a Deployment."""
        chosen = self.get("deployment", deployment, namespace)["spec"]["selector"]["matchLabels"]
        selector = ",".join(f"{key}={value}" for key, value in chosen.items())
        listed = self.kubectl("get", "pods", "-n", namespace, "-l", selector, "-o", "json").stdout
        (pod,) = json.loads(listed)["items"]
        return dict(pod)

    def logs(self, deployment: str, namespace: str) -> str:
        target = ("-n", namespace, f"deployment/{deployment}", "--all-containers")
        return self.kubectl("logs", *target, check=False).stdout

    def run_pod(self, namespace: str, image: str, script: str) -> str:
        """Runs a shell script in a pod of this image and gives what it prints."""
        name = f"once-{uuid.uuid4().hex[:6]}"
        security = {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        container = {
            "name": "main",
            "image": image,
            "command": ["sh", "-c", script],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        spec = {"restartPolicy": "Never", "securityContext": security, "containers": [container]}
        self._create("Pod", {"name": name, "namespace": namespace}, {"spec": spec})
        target = ("-n", namespace, f"pod/{name}")
        phase = "jsonpath={.status.phase}=Succeeded"
        done = self.kubectl("wait", *target, f"--for={phase}", "--timeout=400s", check=False)
        assert done.returncode == 0, self.kubectl("describe", *target).stdout
        return self.kubectl("logs", *target).stdout

    @contextmanager
    def provisioning(self, classes: Iterable[str], folder: Path) -> Iterator[None]:
        """Has the node's provisioner serve more StorageClasses, in a folder of theirs."""
        folder.mkdir()
        folder.chmod(0o777)
        certificates = self.kubeconfig.parent / "certificates"
        server = json.loads(self.kubectl("config", "view", "-o", "json").stdout)
        url = server["clusters"][0]["cluster"]["server"]
        program = [sys.executable, str(_CLUSTER / "provisioner.py"), url, str(certificates)]
        started = [subprocess.Popen([*program, str(folder), name]) for name in classes]
        try:
            yield
        finally:
            for process in started:
                process.terminate()
                process.wait()

    @contextmanager
    def another_class(self, folder: Path) -> Iterator[str]:
        """Makes one more StorageClass, served like the node's own, and gives its name."""
        name = f"knit-test-{uuid.uuid4().hex[:6]}"
        about = {"apiVersion": "storage.k8s.io/v1", "provisioner": _PROVISIONER}
        self._create("StorageClass", {"name": name}, about)
        try:
            with self.provisioning([name], folder):
                yield name
        finally:
            self.kubectl("delete", "storageclass", name)

    @contextmanager
    def forwarded(self, *arguments: str) -> Iterator[str]:
        """Serves a port of a pod on this machine, and gives the address."""
        command = ["kubectl", f"--kubeconfig={self.kubeconfig}", "port-forward", *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forwarding:
            try:
                assert forwarding.stdout is not None
                yield forwarding.stdout.readline().split()[2]  # Forwarding from ADDRESS -> 5000
            finally:
                forwarding.terminate()


def start_node() -> Node:
    """Gives the node, started if needed; skips where there is none."""
    up = _output("up.py")
    if up.returncode != 0:
        pytest.skip((up.stderr.strip() or "tests/cluster/up.py failed").splitlines()[-1])
    found = json.loads(up.stdout)
    if found["registry"] is None:
        pytest.skip("the cluster has no registry for the tests' images")
    ensure_packages(["skopeo"], "the tests of the image registry")
    node = Node(Path(found["kubeconfig"]), found["registry"], "", dict(found["images"]))
    (one,) = json.loads(node.kubectl("get", "nodes", "-o", "json").stdout)["items"]
    (address,) = [a["address"] for a in one["status"]["addresses"] if a["type"] == "InternalIP"]
    return dataclasses.replace(node, address=address)


def _output(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(_CLUSTER / program), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def free_node_ports(node: Node) -> list[int]:
    """Ports for Services of the type NodePort that nobody has taken, most of them."""
    listed = json.loads(node.kubectl("get", "services", "-A", "-o", "json").stdout)["items"]
    taken = {port.get("nodePort") for one in listed for port in one["spec"].get("ports", [])}
    start = 30000 + uuid.uuid4().int % 2000
    return [port for port in range(start, 32768) if port not in taken]


def certificate(folder: Path, address: str) -> Path:
    """Makes an authority and a server certificate for an address and `localhost`, with openssl.

    The folder has `tls.crt`, `tls.key` and `ca.crt`, and in `trust` what docker and skopeo
    take as the folder of a registry's authority.
    """
    (folder / "trust").mkdir(parents=True)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    ca = ("-x509", "-days", "2", "-subj", "/CN=knit-test-ca", "-keyout", "ca.key", "-out", "ca.crt")
    _openssl(folder, "req", *key, *ca)
    names = f"subjectAltName=IP:{address},IP:127.0.0.1,DNS:localhost"
    request = ("-subj", "/CN=knit-test", "-addext", names, "-keyout", "tls.key", "-out", "tls.csr")
    _openssl(folder, "req", *key, *request)
    signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-days", "2", "-copy_extensions", "copy")
    _openssl(folder, "x509", "-req", "-in", "tls.csr", *signed, "-out", "tls.crt")
    (folder / "trust" / "ca.crt").write_bytes((folder / "ca.crt").read_bytes())
    return folder


def _openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def served_certificate(address: str, port: int) -> str:
    """The certificate, PEM, that a server shows now; empty while nobody answers."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((address, port), timeout=5) as plain,
            context.wrap_socket(plain) as secured,
        ):
            shown = secured.getpeercert(binary_form=True)
    except OSError:
        time.sleep(0.5)
        return ""
    return ssl.DER_cert_to_PEM_cert(shown) if shown else ""
