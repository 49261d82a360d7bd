"""Checks of what users reach: the API and the registry, through a node's port, with TLS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from knit_cli.admin import charts, reach
from knit_cli.admin.cluster import Cluster
from knit_cli.admin.doctor.findings import Finding, ok, problem, unknown, warning, words
from knit_cli.admin.folder import SettingsFolder
from knit_cli.admin.handout import find_ports, hosts_of, in_url
from knit_cli.admin.reach import Unreachable
from knit_cli.errors import CliError

_RENEW: Final = "knit admin renew-certs"


def check_endpoints(folder: SettingsFolder, cluster: Cluster) -> Iterator[Finding]:
    """Whether API and registry answer on the first host of the handouts."""
    try:
        ports = find_ports(folder, cluster)
        hosts = hosts_of(folder, cluster)
    except CliError as error:
        yield unknown("api", words(error), error.advice or "check the kubeconfig")
        return
    if not hosts:
        yield unknown("api", "no host of it is known", "name one: knit admin prepare --host NAME")
        return
    wanted = [("api", ports.api, "/healthz", "knit-api")]
    if charts.REGISTRY in charts.chosen(folder) and ports.registry is not None:
        wanted.append(("registry", ports.registry, "/v2/", "image-registry"))
    for check, port, path, name in wanted:
        if port is None:
            yield unknown(check, "it has no port on the nodes", "reach it as its Service says")
        else:
            yield _ask(folder, cluster.variables, check, hosts[0], port, path, name)


def _ask(
    folder: SettingsFolder,
    variables: Mapping[str, str],
    check: str,
    host: str,
    port: int,
    path: str,
    service: str,
) -> Finding:
    where = f"{in_url(host)}:{port}"
    scheme = "http" if folder.without_tls.exists() else "https"
    try:
        status = reach.ask(folder, variables, f"{scheme}://{where}{path}")
    except Unreachable as cause:
        if cause.by_certificate:
            return problem(check, f"{where}: {cause}", f"{_RENEW}, or wait a minute after it")
        return warning(
            check,
            f"{where} does not answer from this machine: {cause}",
            f"see whether a firewall is between, and whether service/{service} has endpoints",
        )
    if status in reach.ANSWERS:
        return ok(check, f"{where} answers")
    return problem(check, f"{where}{path} answers with {status}", "see the logs of its pods")
