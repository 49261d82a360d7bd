"""Gets a node's programs: Debian packages for most, a Go build for Kubernetes itself."""

from __future__ import annotations

from pathlib import Path

from debian_packages import ensure_packages

from knit_workflows.provision.go_build import GoPrograms, build_if_needed

VERSION = "1.34.4"
PACKAGES = (
    "busybox-static",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "docker-registry",
    "etcd-server",
    "iproute2",
    "iptables",
    "mount",
    "openssl",
    "runc",
)
_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet")


def kubernetes_folder() -> Path:
    """Returns the folder with Kubernetes' programs; the first call builds them, for minutes."""
    return build_if_needed(
        GoPrograms(
            name=f"kubernetes-{VERSION}",
            module=Path(__file__).resolve().parent / "kubernetes",
            packages=tuple(f"k8s.io/kubernetes/cmd/{name}" for name in _PROGRAMS),
            ldflags=_ldflags(),
        )
    )


def ensure_node_packages() -> None:
    """Installs the Debian packages a node needs, where they are missing."""
    ensure_packages(PACKAGES, "the test cluster")


def _ldflags() -> str:
    major, minor, _ = VERSION.split(".")
    values = {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    flags = [f"-X {p}.{name}={value}" for p in packages for name, value in values.items()]
    return " ".join(["-s", "-w", *flags])
