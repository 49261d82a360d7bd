"""A control plane without a node: Kubernetes' own programs, and kwok, which pretends to have nodes.

Everything is real but the kubelets: pods are scheduled to nodes that do not exist, and kwok writes
to their status what a kubelet would. It is the bench's own, on free ports of the loopback address
and in a folder that is thrown away; the test cluster's node need not run for it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knit_workflows.embedded import free_port
from knit_workflows.provision.go_build import GoPrograms, build_if_needed
from tests.waiting import PATIENCE

_CLUSTER = Path(__file__).parents[1] / "cluster"
# The test cluster's programs, which are started as scripts, import each other by these paths.
sys.path[1:1] = [str(_CLUSTER), str(_CLUSTER.parents[1] / "tools")]

import binaries  # noqa: E402
import certificates  # noqa: E402
import health  # noqa: E402
from kube_api import Access, ApiError, KubeApi  # noqa: E402

NODES = 20
PODS_PER_NODE = 500
CLAIMANT = "system:serviceaccount:knit:worker"
"""Who the workers are to the API server, and so whose requests its audit log counts. Of the group
of service accounts, as in an installation: the server's flow control tells groups apart."""
DELAY = "pod-complete.stage.kwok.x-k8s.io/delay"
"""An annotation: how long after its start a pod's container ends."""
_ADMIN = ("admin", "knit-test-admin", "system:masters")
_KWOK = GoPrograms(
    name="kwok-0.7.0",
    module=_CLUSTER / "programs" / "kwok",
    packages=("sigs.k8s.io/kwok/cmd/kwok",),
)


@dataclass
class ControlPlane:
    """One that runs; `kubeconfig` is the workers'."""

    folder: Path
    port: int
    etcd_ports: tuple[int, int]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def server(self) -> str:
        """The API server's address."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def kubeconfig(self) -> Path:
        """The workers' kubeconfig."""
        return self.folder / "worker.kubeconfig"

    @property
    def audit_log(self) -> Path:
        """A JSON line per request of the workers."""
        return self.folder / "audit.log"

    @property
    def certificates(self) -> Path:
        """The folder of keys and certificates."""
        return self.folder / "certificates"

    def api(self) -> KubeApi:
        """Gives an administrator's access, for one thread."""
        return KubeApi(Access.in_folder(self.server, self.certificates))

    def cpu_seconds(self, name: str) -> float:
        """Gives what a program has used so far."""
        fields = Path(f"/proc/{self.processes[name].pid}/stat").read_text().rpartition(")")[2]
        return sum(map(int, fields.split()[11:13])) / 100

    def start(self, **commands: Sequence[str]) -> None:
        """Starts programs, each with a log of its own."""
        for name, command in commands.items():
            with (self.folder / f"{name}.log").open("wb") as log:
                self.processes[name] = subprocess.Popen(
                    command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )

    def still_alive(self) -> None:
        """Raises when a program has ended, with the last it said."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                last = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
                raise AssertionError(f"{name} has ended with {process.returncode}: {last}")

    def end(self) -> None:
        """Kills all; nothing of them is to be kept."""
        for process in reversed(self.processes.values()):
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()


@asynccontextmanager
async def control_plane(folder: Path) -> AsyncIterator[ControlPlane]:
    """Starts one in an empty folder; its nodes are ready, and claims are granted at once."""
    kubernetes = await asyncio.to_thread(binaries.kubernetes_folder)
    kwok = await asyncio.to_thread(build_if_needed, _KWOK)
    plane = ControlPlane(folder, free_port(), (free_port(), free_port()))
    _write_files(plane)
    async with AsyncExitStack() as stack:
        stack.callback(plane.end)
        # A bench that is told to end, as `timeout` does, leaves nothing behind.
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        loop.add_signal_handler(signal.SIGTERM, lambda: task and task.cancel())
        plane.start(etcd=_etcd(plane), apiserver=_api_server(plane, kubernetes / "kube-apiserver"))
        await asyncio.to_thread(_fill, plane)
        admin = str(folder / "admin.kubeconfig")
        plane.start(
            manager=_controller_manager(plane, kubernetes / "kube-controller-manager", admin),
            scheduler=[
                str(kubernetes / "kube-scheduler"),
                f"--config={folder / 'scheduler.json'}",
                "--secure-port=0",
            ],
            kwok=[
                str(kwok / "kwok"),
                f"--kubeconfig={admin}",
                f"--config={folder / 'kwok.yaml'}",
                "--manage-all-nodes=true",
                # Without leases: the controllers' look at nodes is told by the heartbeat instead.
                "--node-lease-duration-seconds=0",
            ],
            claims=[
                *(sys.executable, str(_CLUSTER / "provisioner.py"), plane.server),
                *(str(plane.certificates), str(folder / "volumes"), health.STORAGE_CLASS),
            ],
        )
        await _until_nodes_are_ready(plane)
        yield plane


def _write_files(plane: ControlPlane) -> None:
    folder, keys = plane.folder, plane.certificates
    certificates.make_authority(keys)
    certificates.make_server(keys, "apiserver", ["127.0.0.1", "10.0.0.1"], ["localhost"])
    certificates.make_client(keys, *_ADMIN)
    certificates.make_client(keys, "worker", CLAIMANT, "system:serviceaccounts")
    certificates.write_kubeconfig(folder / "admin.kubeconfig", plane.server, keys, "admin")
    certificates.write_kubeconfig(plane.kubeconfig, plane.server, keys, "worker")
    files = {
        "scheduler.json": {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": {
                "kubeconfig": str(folder / "admin.kubeconfig"),
                "qps": 500,
                "burst": 1000,
            },
            "leaderElection": {"leaderElect": False},
        },
        "audit.json": {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived", "ResponseStarted"],
            "rules": [{"level": "Metadata", "users": [CLAIMANT]}, {"level": "None"}],
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    stages = [json.dumps(stage) for stage in _pod_stages()]
    (folder / "kwok.yaml").write_text("\n---\n".join(stages))


def _etcd(plane: ControlPlane) -> list[str]:
    client, peer = (f"http://127.0.0.1:{port}" for port in plane.etcd_ports)
    return [
        *("etcd", "--name=bench", f"--data-dir={plane.folder / 'etcd'}", "--log-level=error"),
        *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
        *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
        *(f"--initial-cluster=bench={peer}", "--unsafe-no-fsync"),
        "--quota-backend-bytes=4294967296",
    ]


def _api_server(plane: ControlPlane, program: Path) -> list[str]:
    keys = plane.certificates
    return [
        str(program),
        f"--etcd-servers=http://127.0.0.1:{plane.etcd_ports[0]}",
        "--bind-address=127.0.0.1",
        f"--secure-port={plane.port}",
        "--endpoint-reconciler-type=none",  # It would refuse a loopback address.
        "--service-cluster-ip-range=10.0.0.0/16",
        f"--client-ca-file={keys / 'ca.crt'}",
        f"--tls-cert-file={keys / 'apiserver.crt'}",
        f"--tls-private-key-file={keys / 'apiserver.key'}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys / 'sa.pub'}",
        f"--service-account-signing-key-file={keys / 'sa.key'}",
        f"--audit-log-path={plane.audit_log}",
        f"--audit-policy-file={plane.folder / 'audit.json'}",
        "--profiling=false",
    ]


def _controller_manager(plane: ControlPlane, program: Path, kubeconfig: str) -> list[str]:
    return [
        str(program),
        f"--kubeconfig={kubeconfig}",
        f"--service-account-private-key-file={plane.certificates / 'sa.key'}",
        f"--root-ca-file={plane.certificates / 'ca.crt'}",
        "--leader-elect=false",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
        "--node-monitor-grace-period=60m",  # Heartbeats of nodes that do not exist are rare.
        "--secure-port=0",
        "--profiling=false",
    ]


def _fill(plane: ControlPlane) -> None:
    api = plane.api()
    health.wait_for_api(api, plane.still_alive)
    health.create_storage_class(api)
    rights = {
        "metadata": {"name": "workers"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "cluster-admin",
        },
        "subjects": [
            {"kind": "User", "name": CLAIMANT, "apiGroup": "rbac.authorization.k8s.io"},
        ],
    }
    api.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", rights)
    room = {"cpu": "1000", "memory": "1000Gi", "pods": str(PODS_PER_NODE)}
    for number in range(NODES):
        node = {
            "metadata": {"name": f"kwok-{number}", "labels": {"type": "kwok"}},
            "status": {"allocatable": room, "capacity": room},
        }
        api.create("/api/v1/nodes", node)


async def _until_nodes_are_ready(plane: ControlPlane) -> None:
    api = plane.api()
    async with asyncio.timeout(2 * PATIENCE):
        while not await asyncio.to_thread(_are_ready, api):
            plane.still_alive()
            await asyncio.sleep(0.2)


def _are_ready(api: KubeApi) -> bool:
    with suppress(OSError, ApiError):
        api.get("/api/v1/namespaces/default/serviceaccounts/default")
        nodes = api.get("/api/v1/nodes")["items"]
        return len(nodes) == NODES and all(map(_is_ready, nodes))
    return False


def _is_ready(node: Mapping[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    untainted = not node["spec"].get("taints")
    return untainted and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _pod_stages() -> list[dict[str, Any]]:
    """What happens to a pod: it runs at once, ends when its annotation says, goes when deleted.

    `message` says when it has ended: the API server keeps whole seconds of the instants.
    """
    alive = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}
    delay = {
        "durationMilliseconds": 1000,
        "durationFrom": {"expressionFrom": f'.metadata.annotations["{DELAY}"]'},
    }
    ran = _containers(
        "ready: false\n  started: false\n  state:\n    terminated:\n      exitCode: 0\n"
        "      reason: Completed\n      startedAt: {{ $root.status.startTime | Quote }}\n"
        "      finishedAt: {{ $now | Quote }}"
    )
    runs = _containers(
        "ready: true\n  started: true\n  state:\n    running:\n      startedAt: {{ $now | Quote }}"
    )
    checked = (
        "initContainerStatuses:\n{{ range .spec.initContainers }}\n- name: {{ .name | Quote }}\n"
        "  image: {{ .image | Quote }}\n  imageID: ''\n  ready: true\n  restartCount: 0\n"
        "  state:\n    terminated:\n      exitCode: 0\n      reason: Completed\n"
        "      startedAt: {{ $now | Quote }}\n      finishedAt: {{ $now | Quote }}\n{{ end }}\n"
    )
    conditions = "conditions:\n" + "".join(
        f'- lastTransitionTime: {{{{ $now | Quote }}}}\n  status: "True"\n  type: {kind}\n'
        for kind in ("Initialized", "Ready", "ContainersReady")
    )
    begin = "{{ $now := Now }}{{ $root := . }}\n"
    return [
        _stage(
            "pod-ready",
            [alive, {"key": ".status.phase", "operator": "In", "values": ["Pending"]}],
            {
                "statusTemplate": begin
                + conditions
                + runs
                + checked
                + "phase: Running\nstartTime: {{ $now | Quote }}\n"
            },
        ),
        _stage(
            "pod-complete",
            [alive, {"key": ".status.phase", "operator": "In", "values": ["Running"]}],
            {"statusTemplate": begin + ran + "phase: Succeeded\nmessage: {{ $now | Quote }}\n"},
            delay,
        ),
        _stage(
            "pod-delete",
            [{"key": ".metadata.deletionTimestamp", "operator": "Exists"}],
            {"finalizers": {"empty": True}, "delete": True},
        ),
    ]


def _containers(state: str) -> str:
    return (
        "containerStatuses:\n{{ range .spec.containers }}\n- name: {{ .name | Quote }}\n"
        "  image: {{ .image | Quote }}\n  imageID: docker.io/library/fake@sha256:"
        f"{'0' * 64}\n  restartCount: 0\n  {state}\n{{{{ end }}}}\n"
    )


def _stage(
    name: str,
    selects: Sequence[Mapping[str, Any]],
    after: Mapping[str, Any],
    delay: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {"matchExpressions": list(selects)},
            "next": dict(after),
            **({"delay": dict(delay)} if delay else {}),
        },
    }
