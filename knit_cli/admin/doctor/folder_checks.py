"""Checks of this machine and of the settings folder; the cluster is not asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from knit_cli.admin.cluster import Cluster
from knit_cli.admin.doctor.findings import Finding, ok, problem, unknown, warning, words
from knit_cli.admin.folder import SettingsFolder
from knit_cli.admin.installing.installation import check_helm
from knit_cli.admin.installing.preparation import missing_hosts, node_addresses
from knit_cli.admin.tls import certificates
from knit_cli.admin.tls.certificates import CertificateRefused
from knit_cli.admin.tls.files import check_present
from knit_cli.errors import CliError

SOON: Final = timedelta(days=30)
_RENEW: Final = "knit admin renew-certs"


def check_permissions(folder: SettingsFolder) -> Iterator[Finding]:
    """Whether only its owner reads the settings folder."""
    found = folder.too_open()
    if not found:
        yield ok("folder", f"{folder.root} belongs to its owner alone")
        return
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    yield problem(
        "folder",
        f"others may read {found[0]}{more}, and there are keys in it",
        f"chmod -R go= '{folder.root}'",
    )


def check_tools(cluster: Cluster) -> Iterator[Finding]:
    """Whether helm is there, and of a version that is known."""
    try:
        yield ok("helm", check_helm(cluster))
    except CliError as error:
        yield problem("helm", words(error), error.advice or "install helm 3 or 4")


def check_certificates(folder: SettingsFolder, cluster: Cluster) -> Iterator[Finding]:
    """How long the certificates are valid, and whether they are for every node."""
    if folder.without_tls.exists():
        yield warning(
            "certificates",
            "API and registry speak plain HTTP",
            "let something in front of them end TLS, or give certificates: knit admin renew-certs",
        )
        return
    try:
        present = check_present(folder)
    except CliError as error:
        yield problem("certificates", words(error), _RENEW)
        return
    if present is None:
        yield problem("certificates", "there is no server certificate", "knit admin prepare")
        return
    yield _until("server certificate", present.not_after, _RENEW)
    authority = folder.read_bytes(folder.ca_certificate)
    if authority is not None:
        try:
            found = certificates.read_certificate(authority, "CA certificate")
        except CertificateRefused as cause:
            yield problem("certificates", str(cause), f"{_RENEW} --renew-ca")
        else:
            yield _until("CA certificate", found.not_after, f"{_RENEW} --renew-ca")
    try:
        missing = missing_hosts(present, node_addresses(cluster))
    except CliError:
        return  # the check of the cluster says so
    if missing:
        yield warning("certificates", f"the server's is not for {', '.join(missing)}", _RENEW)


def check_cluster_version(cluster: Cluster) -> Iterator[Finding]:
    """Whether the cluster answers, and is new enough."""
    try:
        found = json.loads(cluster.kubectl("version", "--output", "json"))
        version = found["serverVersion"]
        number = int(version["major"]), int("".join(filter(str.isdigit, version["minor"])))
    except CliError as error:
        yield problem("cluster", words(error), error.advice or "check the kubeconfig")
        return
    except (ValueError, KeyError) as cause:
        yield unknown("cluster", f"its version cannot be read: {cause}", "kubectl version")
        return
    if number < (1, 29):
        yield warning(
            "cluster", f"Kubernetes {version['gitVersion']} is old", "upgrade it to 1.29 or newer"
        )
    else:
        yield ok("cluster", f"Kubernetes {version['gitVersion']}")


def _until(what: str, at: datetime, cure: str) -> Finding:
    left = at - datetime.now(UTC)
    message = f"the {what} is valid until {at:%Y-%m-%d} ({left.days} days)"
    if left < timedelta():
        return problem("certificates", f"the {what} has expired on {at:%Y-%m-%d}", cure)
    return warning("certificates", message, cure) if left < SOON else ok("certificates", message)
