"""Makes the node's bridge and address ranges; removes what it leaves in the host's network."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from knit_workflows.provision.cache import SetUpError

BRIDGE = "knit-test0"
CNI_NETWORK = "knit-test"
_KUBE_CHAIN = re.compile(r"^KUBE-")
# The kubelet and kube-proxy change these; `down` puts the old values back.
_CHANGED_SETTINGS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


@dataclass(frozen=True)
class AddressPlan:
    """The ranges of one cluster: pods and node share the bridge, Services have their own."""

    pods: ipaddress.IPv4Network
    services: ipaddress.IPv4Network

    @property
    def node(self) -> str:
        """The bridge's address: reachable from this machine and its pods, and from nowhere else."""
        return str(self.pods[1])

    @property
    def first_service(self) -> str:
        """The address of the `kubernetes` Service."""
        return str(self.services[1])


def free_addresses() -> AddressPlan:
    """Returns two ranges that no route of this machine touches."""
    used = list(_routes())
    for third in range(64, 254, 2):
        plan = AddressPlan(
            ipaddress.IPv4Network(f"10.213.{third}.0/24"),
            ipaddress.IPv4Network(f"10.213.{third + 1}.0/24"),
        )
        if not any(net.overlaps(r) for net in (plan.pods, plan.services) for r in used):
            return plan
    raise SetUpError("Every address range that the test cluster tries is routed elsewhere.")


def free_port(address: str = "127.0.0.1") -> int:
    """Returns a TCP port that was free a moment ago."""
    with socket.create_server((address, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def create_bridge(plan: AddressPlan) -> None:
    """Makes the bridge with the node's address on it."""
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "address", "add", f"{plan.node}/{plan.pods.prefixlen}", "dev", BRIDGE)
    _run("ip", "link", "set", BRIDGE, "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def cni_configuration(plan: AddressPlan, data_folder: Path) -> str:
    """Returns the text of the CNI list: pods on our bridge, their addresses kept in `data_folder`.

    Nothing is masqueraded: pods talk to each other and to this machine, and to nobody outside.
    """
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(data_folder),
            "ranges": [[{"subnet": str(plan.pods)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    content = {"cniVersion": "0.4.0", "name": CNI_NETWORK, "plugins": [bridge]}
    return json.dumps(content, indent=1)


def kernel_settings() -> dict[str, str]:
    """Returns the present values of the kernel settings that a node changes."""
    found: dict[str, str] = {}
    for name in _CHANGED_SETTINGS:
        with suppress(OSError):
            found[name] = Path("/proc/sys", name).read_text().strip()
    return found


def restore_kernel_settings(settings: dict[str, str]) -> None:
    """Writes back what `kernel_settings` returned, where it differs."""
    now = kernel_settings()
    for name, value in settings.items():
        if now.get(name) != value:
            with suppress(OSError):
                Path("/proc/sys", name).write_text(value)


def has_bridge() -> bool:
    """Tells whether the bridge is there."""
    return Path("/sys/class/net", BRIDGE).exists()


def has_foreign_node() -> bool:
    """Tells whether some Kubernetes node already keeps its chains in this machine's iptables."""
    return any(_kube_chains(_saved(f)) for f in ("iptables", "ip6tables"))


def remove() -> None:
    """Removes the bridge and every chain of the node; nothing happens when they are gone."""
    if has_bridge():
        _run("ip", "link", "delete", BRIDGE)
    for family in ("iptables", "ip6tables"):
        script = removal_script(_saved(family))
        if script:
            _run(f"{family}-restore", "--noflush", text=script)


def removal_script(saved: str) -> str:
    """Returns what `iptables-restore --noflush` must read so that no KUBE chain remains.

    `saved` is the output of `iptables-save`. Rules of others are not touched.
    """
    parts: list[str] = []
    for table, chains, rules in _tables(saved):
        ours = [c for c in chains if _KUBE_CHAIN.match(c)]
        jumps = [r for r in rules if _jumps_into_kube(r)]
        if ours:
            lines = [f"*{table}"]
            lines += [f"-D {rule.removeprefix('-A ')}" for rule in jumps]
            lines += [f"-F {chain}" for chain in ours] + [f"-X {chain}" for chain in ours]
            parts += [*lines, "COMMIT"]
    return "\n".join(parts) + "\n" if parts else ""


def _jumps_into_kube(rule: str) -> bool:
    words = rule.split()
    return not _KUBE_CHAIN.match(words[1]) and bool(re.search(r" -[jg] KUBE-", rule))


def _tables(saved: str) -> Iterator[tuple[str, list[str], list[str]]]:
    for block in re.findall(r"^\*(.*?)^COMMIT$", saved, re.DOTALL | re.MULTILINE):
        lines = block.splitlines()
        chains = [line[1:].split()[0] for line in lines if line.startswith(":")]
        yield lines[0].strip(), chains, [line for line in lines if line.startswith("-A ")]


def _kube_chains(saved: str) -> list[str]:
    return [c for _, chains, _ in _tables(saved) for c in chains if _KUBE_CHAIN.match(c)]


def _saved(family: str) -> str:
    program = shutil.which(f"{family}-save")
    if program is None:
        return ""
    return subprocess.run([program], capture_output=True, text=True).stdout


def _routes() -> Iterator[ipaddress.IPv4Network]:
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        address, mask = (int.from_bytes(bytes.fromhex(fields[i]), "little") for i in (1, 7))
        if mask:  # The default route is no claim on a range.
            yield ipaddress.IPv4Network((address, bin(mask).count("1")))


def _run(*command: str, text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode != 0:
        raise SetUpError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
