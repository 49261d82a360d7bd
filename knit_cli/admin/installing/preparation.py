"""`knit admin prepare`: writes the settings folder, and merges into one that is there."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from knit_cli.admin import charts
from knit_cli.admin.cluster import Cluster, ToolFailed
from knit_cli.admin.folder import SettingsFolder
from knit_cli.admin.helm.fresh_values import Choices, fresh_values
from knit_cli.admin.helm.values import differences, parse_values
from knit_cli.admin.texts import FOLDER_README
from knit_cli.admin.tls import certificates
from knit_cli.admin.tls import files as tls_files
from knit_cli.admin.tls.certificates import LOCAL, CertificateRefused
from knit_cli.admin.tls.files import GivenFiles
from knit_cli.errors import BadInput, CliError
from knit_workflows.domain.os_errors import advice_for, reason_of

PULL_SECRET_NAME: Final = "knit-regcred"
_NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Preparation:
    """What `prepare` was told; None, empty or False: not said, and left as it is.

    `hosts`: more names that the server certificate is for. `pull_secret`: Knitfab's
    `.dockerconfigjson=PATH`, or the path alone. `anew`: the folder is new, so that every file with
    values is written; afterwards only those of charts that are asked for.
    """

    given: GivenFiles = field(default_factory=GivenFiles)
    hosts: Sequence[str] = ()
    no_tls: bool = False
    pull_secret: str | None = None
    api_root: str | None = None
    choices: Choices = field(default_factory=Choices)
    anew: bool = True


def check_namespace(name: str) -> str:
    """Gives the name of a namespace back; raises BadInput if Kubernetes would not take it."""
    if not _NAMESPACE.fullmatch(name):
        raise BadInput(
            f"{name!r} is not the name of a namespace",
            reason="it has other characters than small letters, digits and -, or more than 63",
            advice="choose another one with --namespace",
        )
    return name


def check_api_root(url: str) -> str:
    """Gives the address of the API back; raises BadInput if users could not reach it by that."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        # What else an address may have would be in the profile of every user.
        usable = usable and not (parts.username or parts.password or parts.query or parts.fragment)
    except ValueError:
        usable = False
    if not usable or any(ord(one) <= 32 for one in url) or not parts.path.endswith("/api"):
        raise BadInput(
            f"{url!r} is not the address of an API",
            advice="write it like https://knit.example.com/api (--api-root)",
        )
    return url


def copy_kubeconfig(folder: SettingsFolder, source: Cluster) -> bool:
    """Copies the kubeconfig, complete in itself: only what its current context needs.

    Returns whether the copy has changed.

    Raises:
        CliError: kubectl is missing, or the kubeconfig names no cluster.
    """
    copy = source.kubectl("config", "view", "--raw", "--flatten", "--minify")
    found = parse_values(copy, folder.kubeconfig)
    if not found.get("clusters"):
        raise BadInput(
            "the kubeconfig names no cluster", advice="name another one with --kubeconfig"
        )
    changed = folder.read_text(folder.kubeconfig) != copy.strip()
    if changed:
        folder.write(folder.kubeconfig, copy)
    return changed


def prepare(folder: SettingsFolder, cluster: Cluster, told: Preparation) -> list[str]:
    """Fills the folder and returns what was changed, or kept although it differs, for people.

    Files that exist stay as they are, secrets above all; certificates are replaced only by those
    that are given, or when a new host name asks for it, and even then set aside.

    Raises:
        CliError: something given cannot be used, the folder cannot be written, or the cluster does
            not say its nodes' addresses.
    """
    hosts = parse_hosts(told.hosts)
    said = []
    pull_secret = None if told.pull_secret is None else _pull_secret(told.pull_secret, cluster)
    if told.api_root is not None:
        check_api_root(told.api_root)
    said += _certificates(folder, cluster, told, hosts)
    if told.api_root is not None and folder.read_text(folder.api_root) != told.api_root:
        folder.write(folder.api_root, f"{told.api_root}\n")
        said.append(f"api-root: {told.api_root}, the address in the handouts")
    if pull_secret is not None:
        text = yaml.safe_dump(pull_secret, sort_keys=False)
        if folder.read_text(folder.pull_secret) != text.strip():
            folder.write(folder.pull_secret, text)
            said.append(f"{folder.pull_secret.name}: written")
    said += _values_files(folder, told.choices, anew=told.anew)
    readme = folder.root / "README.md"
    if folder.read_bytes(readme) is None:
        folder.write(readme, FOLDER_README)
        said.append("README.md: written")
    return said


def node_addresses(cluster: Cluster) -> list[str]:
    """Gives the addresses of all nodes, the internal ones first.

    Raises:
        CliError: the cluster does not tell them.
    """
    try:
        nodes = cluster.get("nodes")
    except ToolFailed as failed:
        raise CliError(
            "the addresses of the cluster's nodes are not known, which a server certificate needs",
            reason=failed.stderr.strip(),
            advice="have listing nodes granted by a ClusterRole, or give a certificate of yours "
            "(--tls-cert, --tls-key)"
            if "forbidden" in failed.stderr.lower()
            else failed.advice or "use a kubeconfig that may list nodes, or give certificates",
        ) from failed
    found: dict[str, list[str]] = {"InternalIP": [], "ExternalIP": []}
    for node in nodes:
        for one in node.get("status", {}).get("addresses", []):
            if one["type"] in found:
                found[one["type"]].append(_host(one["address"]))
    return list(dict.fromkeys([*found["InternalIP"], *found["ExternalIP"]]))


def missing_hosts(present: certificates.Certificate, wanted: Sequence[str]) -> list[str]:
    """Gives the hosts that a certificate is not for; a wildcard covers one label."""
    names = set(present.names)
    return [one for one in wanted if one not in names and f"*.{one.partition('.')[2]}" not in names]


def parse_hosts(texts: Sequence[str]) -> list[str]:
    """Normalizes host names and addresses; raises BadInput if one is neither."""
    return [_host(one) for one in texts]


def _host(text: str) -> str:
    try:
        return certificates.parse_host(text)
    except CertificateRefused as cause:
        raise BadInput(str(cause), advice="correct it (--host)") from cause


def _certificates(
    folder: SettingsFolder, cluster: Cluster, told: Preparation, hosts: Sequence[str]
) -> list[str]:
    if told.no_tls:
        said = tls_files.remove_all(folder)
        if not folder.without_tls.exists():
            folder.write(folder.without_tls, "API and registry speak plain HTTP.\n")
            said.append("certs/no-tls: API and registry will speak plain HTTP")
        return said
    if told.given:
        nodes = [] if told.given.certificate is not None else node_addresses(cluster)
        said = tls_files.take_given(folder, told.given, [*hosts, *nodes])
        folder.without_tls.unlink(missing_ok=True)
        return said + _uncovered(folder, cluster, hosts)
    if folder.without_tls.exists():
        return []
    present = tls_files.check_present(folder)
    if present is None:
        return tls_files.make_new(folder, [*hosts, *node_addresses(cluster)], new_authority=False)
    if missing_hosts(present, hosts):
        names = [one for one in present.names if one not in LOCAL]
        all_hosts = list(dict.fromkeys([*hosts, *names, *node_addresses(cluster)]))
        return tls_files.make_new(folder, all_hosts, new_authority=False)
    return _uncovered(folder, cluster, hosts)


def _uncovered(folder: SettingsFolder, cluster: Cluster, hosts: Sequence[str]) -> list[str]:
    """Says which hosts and nodes the server certificate is not for."""
    present = tls_files.check_present(folder)
    try:
        nodes = node_addresses(cluster)
    except CliError:  # what is needed is there
        nodes = []
    missing = [] if present is None else missing_hosts(present, [*hosts, *nodes])
    if not missing:
        return []
    return [
        f"certs/server.crt: kept; it is not for {', '.join(missing)} "
        "(`knit admin renew-certs` makes one that is)"
    ]


def _values_files(folder: SettingsFolder, choices: Choices, *, anew: bool) -> list[str]:
    """Writes the files with values that are wanted and missing; says how the others differ."""
    said = []
    for name, fresh in fresh_values(choices).items():
        path = folder.values(name)
        if anew or path.exists() or name in choices.extra:
            said += _values(folder, name, fresh)
        elif name in charts.ORDER:
            said.append(
                f"values/{path.name}: not there, so that chart is not part of this installation "
                f"(--with {name} writes it)"
            )
    for name in choices.without:
        path = folder.values(name)
        if path.exists():
            off = path.with_name(f"{path.name}.off")
            path.replace(off)
            said.append(f"values/{path.name}: now {off.name}; the chart is left out from now on")
    return said


def _values(folder: SettingsFolder, name: str, fresh: str) -> list[str]:
    path = folder.values(name)
    mine = folder.read_bytes(path)
    shown = path.relative_to(folder.root)
    if mine is None:
        folder.write(path, fresh)
        return [f"{shown}: written"]
    found = differences(parse_values(mine, path), parse_values(fresh, path))
    return [f"{shown}: kept as you have it; {one}" for one in found]


def _pull_secret(text: str, cluster: Cluster) -> dict[str, Any]:
    """Makes the Secret from a `docker login`'s configuration file."""
    path = cluster.cwd / text.removeprefix(".dockerconfigjson=")
    try:
        content = path.read_bytes()
    except OSError as cause:
        raise BadInput(
            f"cannot read {path} (PULL_SECRET)", reason=reason_of(cause), advice=advice_for(cause)
        ) from cause
    if not _has_logins(content):
        raise BadInput(
            f"{path} is no configuration file of docker with logins (PULL_SECRET)",
            reason="it is not JSON with `auths`",
            advice="run `docker login`, then name ~/.docker/config.json",
        )
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": PULL_SECRET_NAME},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": base64.b64encode(content).decode()},
    }


def _has_logins(content: bytes) -> bool:
    try:
        found = json.loads(content)
    except ValueError:
        return False
    return isinstance(found, dict) and isinstance(found.get("auths"), dict) and bool(found["auths"])


def source_of(
    folder: SettingsFolder, cluster: Cluster, flag: Path | None, home: Path | None
) -> Path | None:
    """Says which kubeconfig is meant: the flag's, else the folder's copy, else the user's.

    The copy goes before KUBECONFIG: a folder belongs to one cluster, whatever a shell exports.
    None: what KUBECONFIG names, which may be several files.

    Raises:
        BadInput: there is none.
    """
    if flag is not None:
        if not flag.is_file():
            raise BadInput(f"there is no kubeconfig at {flag}", advice="correct --kubeconfig")
        return flag
    if folder.kubeconfig.exists():
        return folder.kubeconfig
    if cluster.variables.get("KUBECONFIG"):
        return None
    usual = None if home is None else home / ".kube" / "config"
    if usual is None or not usual.is_file():
        raise BadInput(
            "there is no kubeconfig",
            reason="neither ~/.kube/config nor KUBECONFIG",
            advice="name the one of your cluster with --kubeconfig",
        )
    return usual
