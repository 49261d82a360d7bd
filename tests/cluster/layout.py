"""Says where everything of the test cluster lies, and its ports and addresses."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from network import AddressPlan, free_addresses, free_port

from knit_workflows.provision.cache import cache_root

NODE_NAME = "knit-test"
STORAGE_CLASS = "knit-test-folders"
# Inside the node's own mount namespace /run is its own, so these short paths are seen by it alone.
RUN = Path("/run/knit-test")
CONTAINERD_SOCKET = RUN / "containerd.sock"
# Fixed in the programs' code, so the node covers them with folders of its own state.
KUBELET_FOLDER = Path("/var/lib/kubelet")
CNI_FOLDER = Path("/var/lib/cni")


def images_folder() -> Path:
    """Returns where image trees and the registry's storage are kept between starts."""
    return cache_root() / "cluster" / "images"


@dataclass(frozen=True)
class Layout:
    """One start of the cluster. Everything under `state` is thrown away when it ends."""

    state: Path
    pods: str
    services: str
    api_port: int
    etcd_port: int
    etcd_peer_port: int
    kubelet_port: int
    registry_port: int
    proxy_health_port: int
    proxy_metrics_port: int

    @classmethod
    def fresh(cls) -> Layout:
        """Returns a layout with ports and ranges that are free now."""
        plan = free_addresses()
        # None is used before the next is asked for, so two could be the same: then ask again.
        ports: list[int] = []
        while len(ports) < 7:
            ports = list({free_port() for _ in range(7)})
        return cls(cls.default_state(), str(plan.pods), str(plan.services), *ports)

    @staticmethod
    def default_state() -> Path:
        """Returns where a start of this cache keeps its state."""
        return cache_root() / "cluster" / "state"

    @classmethod
    def read(cls, path: Path) -> Layout:
        """Returns what `write` wrote."""
        content = json.loads(path.read_text())
        return cls(**(content | {"state": Path(content["state"])}))

    def write(self, path: Path) -> None:
        """Writes the layout for the node's init."""
        path.write_text(json.dumps(dataclasses.asdict(self) | {"state": str(self.state)}))

    @property
    def addresses(self) -> AddressPlan:
        """The address ranges as networks."""
        return AddressPlan(ipaddress.IPv4Network(self.pods), ipaddress.IPv4Network(self.services))

    @property
    def server(self) -> str:
        """The API server's address, the same for this machine and for pods."""
        return f"https://{self.addresses.node}:{self.api_port}"

    @property
    def registry(self) -> str:
        """The image registry as it is named in image references."""
        return f"127.0.0.1:{self.registry_port}"

    @property
    def certificates(self) -> Path:
        """The folder of keys and certificates."""
        return self.state / "certificates"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state / "kubeconfig"

    @property
    def configuration(self) -> Path:
        """The folder of the components' configuration files."""
        return self.state / "configuration"

    @property
    def logs(self) -> Path:
        """The folder with one log file per component."""
        return self.state / "log"
