"""Secrets of the installation: made in the cluster from files of the settings folder.

They go to kubectl's stdin: what is an argument of a process, everybody on the machine can read, and
what is a value of a chart stays in helm's records.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from knit_cli.admin.cluster import Cluster, ToolFailed
from knit_cli.admin.folder import SettingsFolder
from knit_cli.admin.helm.values import check_name, parse_values
from knit_cli.errors import BadInput, CliError
from knit_workflows.domain.accounts.tokens import digest_of, is_token, new_token

TLS_SECRET: Final = "knit-admin-tls"
TOKEN_SECRET: Final = "knit-admin-bootstrap-token"
OWN_LABELS: Final[Mapping[str, str]] = {
    "app.kubernetes.io/part-of": "knit",
    "app.kubernetes.io/managed-by": "knit-admin",
}


def namespace_is_there(cluster: Cluster) -> bool:
    """Says whether the namespace exists; who may not ask works in one that they were given."""
    try:
        return cluster.find("namespace", cluster.namespace) is not None
    except ToolFailed as failed:
        if "forbidden" in failed.stderr.lower():
            return True
        raise


def ensure_namespace(cluster: Cluster) -> None:
    """Makes the namespace, unless it is there: not everybody may make one."""
    if not namespace_is_there(cluster):
        cluster.kubectl("create", "namespace", cluster.namespace)


def check_owner(folder: SettingsFolder, cluster: Cluster) -> None:
    """Refuses a new folder for an installation that was made from another one.

    It would replace certificates and token, so that neither users nor the owner of that folder get
    in any more.

    Raises:
        CliError: it is such a folder.
    """
    mine = tls_secret(folder)
    if mine is None or folder.read_text(folder.bootstrap_token):
        return  # it has installed before
    present = cluster.find("secret", TLS_SECRET)
    if present is None:
        return
    there, here = present.get("data") or {}, mine["data"]
    # A folder whose token was withdrawn has none either, and the certificates of the cluster.
    if any(there.get(key) == here.get(key) is not None for key in ("ca.crt", "tls.crt")):
        return
    raise CliError(
        f"namespace {cluster.namespace} has an installation of another settings folder",
        reason="its certificates are others, and this folder has installed nothing yet",
        advice="use that folder (--settings), or choose another namespace (--namespace); if it is "
        "lost, take the installation over: --take-over",
    )


def ensure_token(folder: SettingsFolder) -> str:
    """Gives the first administrator's token; makes it, and keeps it in the folder, at first.

    Raises:
        BadInput: the file has something else.
    """
    token = folder.read_text(folder.bootstrap_token)
    if not token:
        token = new_token()
        folder.write(folder.bootstrap_token, f"{token}\n")
    if not is_token(token):
        raise BadInput(
            f"{folder.bootstrap_token} holds no token of knit's",
            reason="its form or its checksum is wrong",
            advice="remove the file; the next `knit admin install` makes another token",
        )
    return token


def apply_secrets(folder: SettingsFolder, cluster: Cluster) -> list[str]:
    """Makes or updates the Secrets of this folder; returns the names of those that changed.

    The key of the CA stays in the folder, and the token too: the cluster gets its SHA-256.
    """
    wanted = [_secret(TOKEN_SECRET, "Opaque", {"sha256": digest_of(ensure_token(folder)).encode()})]
    tls = tls_secret(folder)
    if tls is not None:
        wanted.append(tls)
    pull = _pull_secret(folder)
    if pull is not None:
        wanted.append(pull)
    changed = []
    for one in wanted:
        name = one["metadata"]["name"]
        present = cluster.find("secret", name)
        if present is None or present.get("data") != one["data"]:
            cluster.apply(one)
            changed.append(name)
    return changed


def pull_secret_name(folder: SettingsFolder) -> str | None:
    """Gives the name of the Secret with which images are pulled; None: there is none."""
    found = _pull_secret(folder)
    return None if found is None else str(found["metadata"]["name"])


def _pull_secret(folder: SettingsFolder) -> dict[str, Any] | None:
    """Reads it; raises BadInput if somebody has made something else of it."""
    content = folder.read_bytes(folder.pull_secret)
    if content is None:
        return None
    found = parse_values(content, folder.pull_secret)
    metadata, data = found.get("metadata"), found.get("data")
    if (
        found.get("kind") != "Secret"
        or not isinstance(metadata, dict)
        or not isinstance(data, dict)
    ):
        raise BadInput(
            f"{folder.pull_secret} cannot be used",
            reason="it is no manifest of a Secret with `metadata` and `data`",
            advice="remove it, or have it made anew: PULL_SECRET=… knit admin prepare",
        )
    check_name(metadata.get("name"), f"{folder.pull_secret.name}: metadata.name")
    return found


def tls_secret(folder: SettingsFolder) -> dict[str, Any] | None:
    """Gives the Secret with the server certificate and its key; None: without TLS."""
    certificate = folder.read_bytes(folder.server_certificate)
    key = folder.read_bytes(folder.server_key)
    if certificate is None or key is None:
        return None
    content = {"tls.crt": certificate, "tls.key": key}
    authority = folder.read_bytes(folder.ca_certificate)
    if authority is not None:
        content["ca.crt"] = authority
    return _secret(TLS_SECRET, "kubernetes.io/tls", content)


def _secret(name: str, kind: str, content: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": OWN_LABELS},
        "type": kind,
        "data": {key: base64.b64encode(value).decode() for key, value in content.items()},
    }
