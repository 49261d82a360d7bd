"""All checks of `knit admin doctor`, in their order."""

from __future__ import annotations

from collections.abc import Iterator

from knit_cli.admin import charts
from knit_cli.admin.cluster import Cluster
from knit_cli.admin.doctor.cluster_checks import check_inside, check_releases, check_rights
from knit_cli.admin.doctor.endpoint_checks import check_endpoints
from knit_cli.admin.doctor.findings import Finding, State
from knit_cli.admin.doctor.folder_checks import (
    check_certificates,
    check_cluster_version,
    check_permissions,
    check_tools,
)
from knit_cli.admin.doctor.storage_checks import check_storage
from knit_cli.admin.folder import SettingsFolder


def examine(folder: SettingsFolder, cluster: Cluster, *, within: float) -> Iterator[Finding]:
    """Gives the findings as they are found; `within`: seconds that a claim may take.

    What depends on something that does not answer is left out, so that one cause is told once.
    """
    yield from check_permissions(folder)
    yield from check_tools(cluster)
    answers = True
    for one in check_cluster_version(cluster):
        answers = answers and one.state != State.PROBLEM
        yield one
    yield from check_certificates(folder, cluster)
    if not answers:
        return
    yield from check_rights(folder, cluster)
    yield from check_storage(folder, cluster, within)
    installed = False
    for one in check_releases(folder, cluster):
        installed = installed or (one.check == charts.APP and one.state == State.OK)
        yield one
    if installed:
        yield from check_inside(cluster)
    yield from check_endpoints(folder, cluster)
