"""Writes the configuration of every component and gives the command line that starts it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import certificates
import cgroups
from images import PAUSE
from layout import (
    CNI_FOLDER,
    CONTAINERD_SOCKET,
    KUBELET_FOLDER,
    NODE_NAME,
    RUN,
    STORAGE_CLASS,
    Layout,
    images_folder,
)
from network import cni_configuration

CNI_PROGRAMS = Path("/usr/lib/cni")
Command = list[str]


def write_configuration(layout: Layout) -> None:
    """Writes all certificates and configuration files of one start."""
    for folder in (layout.configuration / "cni", layout.logs):
        folder.mkdir(parents=True)
    _write_certificates(layout)
    files = {
        "cni/10-knit.conflist": cni_configuration(layout.addresses, CNI_FOLDER / "addresses"),
        "containerd.toml": _containerd(layout),
        "registry.yaml": json.dumps(_registry(layout)),
        "kubelet.yaml": json.dumps(_kubelet(layout)),
        "proxy.yaml": json.dumps(_proxy(layout)),
        "scheduler.yaml": json.dumps(_scheduler(layout)),
    }
    for name, text in files.items():
        (layout.configuration / name).write_text(text)


def first_commands(layout: Layout, kubernetes: Path) -> dict[str, Command]:
    """Returns by name what needs no API server, and the API server itself."""
    folder = layout.configuration
    return {
        "etcd": _etcd_command(layout),
        "kube-apiserver": _api_server_command(layout, kubernetes),
        "containerd": ["containerd", "--config", str(folder / "containerd.toml")],
        "registry": ["docker-registry", "serve", str(folder / "registry.yaml")],
    }


def later_commands(layout: Layout, kubernetes: Path) -> dict[str, Command]:
    """Returns by name what is started once the API server is ready."""
    folder = layout.configuration
    provisioner = str(Path(__file__).resolve().parent / "provisioner.py")
    volumes = str(layout.state / "volumes")
    return {
        "kubelet": [
            str(kubernetes / "kubelet"),
            f"--config={folder / 'kubelet.yaml'}",
            f"--kubeconfig={layout.state / 'kubelet.kubeconfig'}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={layout.addresses.node}",
        ],
        "kube-controller-manager": _controller_manager_command(layout, kubernetes),
        "kube-scheduler": [
            str(kubernetes / "kube-scheduler"),
            f"--config={folder / 'scheduler.yaml'}",
            "--secure-port=0",
        ],
        "kube-proxy": [str(kubernetes / "kube-proxy"), f"--config={folder / 'proxy.yaml'}"],
        "provisioner": [
            *(sys.executable, provisioner, layout.server, str(layout.certificates)),
            *(volumes, STORAGE_CLASS),
        ],
    }


def _write_certificates(layout: Layout) -> None:
    folder, node = layout.certificates, layout.addresses.node
    services = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
    certificates.make_authority(folder)
    addresses = [node, "127.0.0.1", layout.addresses.first_service]
    certificates.make_server(folder, "apiserver", addresses, services)
    certificates.make_server(folder, "kubelet-server", [node], [NODE_NAME])
    certificates.make_client(folder, "admin", "knit-test-admin", "system:masters")
    certificates.make_client(folder, "kubelet", f"system:node:{NODE_NAME}", "system:nodes")
    certificates.write_kubeconfig(layout.kubeconfig, layout.server, folder, "admin")
    kubelet = layout.state / "kubelet.kubeconfig"
    certificates.write_kubeconfig(kubelet, layout.server, folder, "kubelet")


def _etcd_command(layout: Layout) -> Command:
    client = f"http://127.0.0.1:{layout.etcd_port}"
    peer = f"http://127.0.0.1:{layout.etcd_peer_port}"
    return [
        "etcd",
        "--name=knit-test",
        f"--data-dir={layout.state / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=knit-test={peer}",
        "--log-level=error",
        "--unsafe-no-fsync",  # Nothing of a test cluster is to survive a crash of the machine.
    ]


def _api_server_command(layout: Layout, kubernetes: Path) -> Command:
    folder, node = layout.certificates, layout.addresses.node
    return [
        str(kubernetes / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{layout.etcd_port}",
        f"--bind-address={node}",
        f"--advertise-address={node}",
        f"--secure-port={layout.api_port}",
        f"--service-cluster-ip-range={layout.services}",
        f"--client-ca-file={folder / 'ca.crt'}",
        f"--tls-cert-file={folder / 'apiserver.crt'}",
        f"--tls-private-key-file={folder / 'apiserver.key'}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder / 'sa.pub'}",
        f"--service-account-signing-key-file={folder / 'sa.key'}",
        f"--kubelet-certificate-authority={folder / 'ca.crt'}",
        f"--kubelet-client-certificate={folder / 'admin.crt'}",
        f"--kubelet-client-key={folder / 'admin.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged=true",
        "--profiling=false",
        # Debian's etcd is older than 3.4.25, without which a watch from the resource version 0 or
        # none ends with an error as soon as it has begun: clients learn of what happens late.
        "--feature-gates=WatchList=false",
    ]


def _controller_manager_command(layout: Layout, kubernetes: Path) -> Command:
    folder = layout.certificates
    return [
        str(kubernetes / "kube-controller-manager"),
        f"--kubeconfig={layout.kubeconfig}",
        f"--service-account-private-key-file={folder / 'sa.key'}",
        f"--root-ca-file={folder / 'ca.crt'}",
        "--leader-elect=false",  # There is one, and a lease costs a write every two seconds.
        # At the default of 20 a second, the removal of one test's namespace holds up the claims
        # and pods of the next for minutes.
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
        "--secure-port=0",
        "--profiling=false",
    ]


def _scheduler(layout: Layout) -> dict[str, Any]:
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": str(layout.kubeconfig), "qps": 500, "burst": 1000},
        "leaderElection": {"leaderElect": False},
        "enableProfiling": False,
    }


def _proxy(layout: Layout) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(layout.kubeconfig)},
        "hostnameOverride": NODE_NAME,
        "oomScoreAdj": 0,
        "mode": "iptables",
        "clusterCIDR": layout.pods,
        "healthzBindAddress": f"127.0.0.1:{layout.proxy_health_port}",
        "metricsBindAddress": f"127.0.0.1:{layout.proxy_metrics_port}",
        # Raising these limits is not allowed on every machine, and the defaults are enough.
        "conntrack": {"maxPerCore": 0, "min": 0},
    }


def _kubelet(layout: Layout) -> dict[str, Any]:
    folder, node = layout.certificates, layout.addresses.node
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node,
        "port": layout.kubelet_port,
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(folder / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(folder / "kubelet-server.crt"),
        "tlsPrivateKeyFile": str(folder / "kubelet-server.key"),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "oomScoreAdj": 0,  # A lower one is not allowed to every root.
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroups.PODS,
        "failSwapOn": False,
        "resolvConf": "/dev/null",  # There is no cluster DNS.
        "volumePluginDir": str(KUBELET_FOLDER / "volume-plugins"),
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        # The defaults, written down: logs are rotated here as on most clusters.
        "containerLogMaxSize": "10Mi",
        "containerLogMaxFiles": 5,
        "eventRecordQPS": 0,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%"},
    }


def _registry(layout: Layout) -> dict[str, Any]:
    storage = images_folder() / "registry"
    return {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(storage)},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": layout.registry},
    }


def _containerd(layout: Layout) -> str:
    # A registry at a loopback address is spoken to over plain HTTP without being told.
    # A root without CAP_SYS_RESOURCE may not lower the score, and then every sandbox would fail.
    return f"""version = 2
root = "{layout.state}/containerd"
state = "{RUN}/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[debug]
  level = "warn"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{layout.registry}/{PAUSE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PROGRAMS}"
    conf_dir = "{layout.configuration}/cni"
"""
