"""`knit admin handout`: what users get to reach this knit."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from knit_cli.admin import charts
from knit_cli.admin.cluster import Cluster
from knit_cli.admin.folder import SettingsFolder
from knit_cli.admin.helm.values import check_name, value_at
from knit_cli.admin.installing.preparation import (
    check_api_root,
    missing_hosts,
    node_addresses,
    parse_hosts,
)
from knit_cli.admin.texts import HANDOUT_README, PLAIN_REGISTRY_README, REGISTRY_README
from knit_cli.admin.tls.certificates import LOCAL
from knit_cli.admin.tls.files import check_present
from knit_cli.errors import BadInput, CliError

API_SERVICE = "knit-api"


@dataclass(frozen=True)
class Ports:
    """The ports of every node by which API and registry are reached; None: by none."""

    api: int | None
    registry: int | None


def find_ports(folder: SettingsFolder, cluster: Cluster) -> Ports:
    """Finds the ports of API and registry in the cluster's Services."""
    named = value_at(folder, charts.REGISTRY, "service")
    registry = check_name(named, f"{charts.REGISTRY}: service") if named else "image-registry"
    return Ports(_node_port(cluster, API_SERVICE), _node_port(cluster, registry))


def hosts_of(folder: SettingsFolder, cluster: Cluster, named: Sequence[str] = ()) -> list[str]:
    """Gives the hosts by which users reach this knit, the preferred one first.

    Those that are named, else those of the server certificate (given names stand before the nodes'
    addresses), else the addresses of the nodes.

    Raises:
        BadInput: one of those that are named is not in the certificate, so that clients refuse it.
    """
    present = check_present(folder)
    if present is None:
        return list(named) or node_addresses(cluster)
    if missing := missing_hosts(present, named):
        raise BadInput(
            f"the server certificate is not for {', '.join(missing)}",
            advice=f"make one that is: knit admin renew-certs --host {missing[0]}",
        )
    usable = [one for one in present.names if one not in LOCAL and not one.startswith("*.")]
    return list(named) or usable or node_addresses(cluster)


def write_handout(folder: SettingsFolder, cluster: Cluster, named: Sequence[str] = ()) -> str:
    """Writes the handouts, replacing earlier ones; returns the address of the API.

    Raises:
        CliError: the API is not installed, or no address of it is known.
    """
    api_root = folder.read_text(folder.api_root) or None
    if api_root is not None:
        check_api_root(api_root)
    hosts = hosts_of(folder, cluster, parse_hosts(named))
    ports = find_ports(folder, cluster)
    if api_root is None:
        if ports.api is None:
            raise CliError(
                "the address of the API is not known",
                reason=f"the Service {API_SERVICE} has no port on the nodes",
                advice="install knit first, or name the address: --api-root https://HOST/api",
            )
        if not hosts:
            raise BadInput("the cluster has no node", advice="name a host with --host")
        scheme = "http" if folder.without_tls.exists() else "https"
        api_root = f"{scheme}://{in_url(hosts[0])}:{ports.api}/api"
    authority = folder.read_bytes(folder.ca_certificate)
    fresh = folder.root / ".handouts.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    folder.write(fresh / "knitprofile", _profile(api_root, authority))
    _write_registry(folder, fresh, hosts, ports.registry, authority)
    registry = _registry_words(folder, hosts, ports.registry)
    folder.write(fresh / "README.md", HANDOUT_README.format(api_root=api_root, registry=registry))
    shutil.rmtree(folder.handouts, ignore_errors=True)
    fresh.rename(folder.handouts)
    return api_root


def _profile(api_root: str, authority: bytes | None) -> str:
    cert = {} if authority is None else {"ca": base64.b64encode(authority).decode()}
    return yaml.safe_dump({"apiRoot": api_root, "cert": cert}, sort_keys=False, width=10_000)


def _write_registry(
    folder: SettingsFolder,
    handouts: Path,
    hosts: Sequence[str],
    port: int | None,
    authority: bytes | None,
) -> None:
    """Writes the CA where docker looks for it: a folder per host and port."""
    if port is None:
        return
    trusted = handouts / "docker" / "certs.d"
    for folder_above in (trusted.parent, trusted):  # `parents=True` would give them another mode
        folder_above.mkdir(mode=0o700)
    if authority is None or folder.without_tls.exists():
        return
    for host in hosts:
        folder.write(trusted / f"{in_url(host)}:{port}" / "ca.crt", authority)


def _registry_words(folder: SettingsFolder, hosts: Sequence[str], port: int | None) -> str:
    if port is None or not hosts:
        return ""
    text = PLAIN_REGISTRY_README if folder.without_tls.exists() else REGISTRY_README
    return text.format(registry=f"{in_url(hosts[0])}:{port}", port=port)


def in_url(host: str) -> str:
    """Gives a host as URLs have it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _node_port(cluster: Cluster, name: str) -> int | None:
    service = cluster.find("service", name)
    if service is None:
        return None
    ports = service["spec"].get("ports") or [{}]
    port: int | None = ports[0].get("nodePort")
    return port
