"""`knit admin status`: what is installed, whether it is ready, and until when."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from knit_cli.admin import charts, workloads
from knit_cli.admin.cluster import Cluster
from knit_cli.admin.folder import SettingsFolder
from knit_cli.admin.freezing.record import Record
from knit_cli.admin.helm import releases
from knit_cli.admin.tls import certificates
from knit_cli.admin.tls.certificates import CertificateRefused
from knit_cli.admin.workloads import Workload
from knit_cli.errors import CliError, printable
from knit_cli.views.status import attention, describe, details
from knit_workflows.wire.base import to_wire
from knit_workflows.wire.situation import InstallationStatus

_READY = "deployed"
API = "deployment/knit-api"


@dataclass(frozen=True)
class ReleaseStatus:
    """A chart of the settings folder, and its release. `chart`: name and version, if known."""

    name: str
    status: str
    revision: int | None
    chart: str
    app_version: str


@dataclass(frozen=True)
class Status:
    """What is installed. `certificates`: until when each of the folder's files is valid.

    `inside` is what a pod of the API finds of Runs and workers; None: nothing is installed, or it
    cannot be asked, which `problems` say.
    """

    namespace: str
    releases: list[ReleaseStatus]
    workloads: list[Workload]
    certificates: dict[str, datetime]
    inside: InstallationStatus | None = None
    problems: list[str] = field(default_factory=list)
    frozen: Record | None = None

    @property
    def is_ready(self) -> bool:
        """Whether all is installed, ready and not frozen, and no certificate has expired."""
        return (
            self.frozen is None
            and all(one.status == _READY for one in self.releases)
            and all(one.is_ready for one in self.workloads)
            and all(at > datetime.now(UTC) for at in self.certificates.values())
            and not self.problems
        )


def find_status(folder: SettingsFolder, cluster: Cluster) -> Status:
    """Asks helm and the cluster; raises ToolFailed if they do not answer."""
    found = releases.find_releases(cluster)
    listed = {one["name"]: one for one in cluster.helm_json("list") or []}
    rows = []
    for chart in charts.chosen(folder):
        release, more = found.get(chart), listed.get(chart, {})
        rows.append(
            ReleaseStatus(
                name=chart,
                status="not installed" if release is None else release.status,
                revision=None if release is None else release.revision,
                chart=more.get("chart", ""),
                app_version=more.get("app_version", ""),
            )
        )
    running = workloads.find_workloads(cluster, charts.chosen(folder))
    frozen = Record.find(cluster)
    inside: InstallationStatus | None = None
    problems: list[str] = []
    if frozen is None and any(one.name == charts.APP and one.status == _READY for one in rows):
        inside, problems = _inside(cluster)
    return Status(cluster.namespace, rows, running, _ends(folder), inside, problems, frozen)


def _inside(cluster: Cluster) -> tuple[InstallationStatus | None, list[str]]:
    """Asks a pod of the API: database and Temporal are within its reach, not within ours."""
    command = ("python3", "-m", "knit_workflows.inspection.status")
    try:
        printed = json.loads(cluster.kubectl("exec", API, "--container", "api", "--", *command))
        if "problem" in printed:
            return None, [str(printed["problem"])]
        inside = InstallationStatus.model_validate(printed)
    except CliError as error:
        return None, [f"the API cannot be asked for Runs and workers: {error}"]
    except (ValueError, ValidationError, TypeError):
        return None, ["the API answers in another form: is it of this version?"]
    return inside, list(inside.problems)


def as_json(status: Status) -> dict[str, Any]:
    """Gives it for scripts."""
    return {
        "ready": status.is_ready,
        "namespace": status.namespace,
        "releases": [
            {
                "name": one.name,
                "status": one.status,
                "revision": one.revision,
                "chart": one.chart,
                "appVersion": one.app_version,
            }
            for one in status.releases
        ],
        "workloads": [
            {
                "kind": one.kind,
                "name": one.name,
                "release": one.release,
                "ready": one.ready,
                "wanted": one.wanted,
                "images": list(one.images),
                "trouble": one.trouble,
            }
            for one in status.workloads
        ],
        "frozen": status.frozen
        and {
            "since": status.frozen.since.isoformat(),
            "by": status.frozen.by,
            "replicas": dict(status.frozen.replicas),
        },
        "certificates": {name: at.isoformat() for name, at in status.certificates.items()},
        "problems": status.problems,
        "inside": None if status.inside is None else to_wire(status.inside),
    }


def shown(status: Status) -> RenderableType:
    """Shows it to people: what needs attention, releases, workloads, certificates, the inside."""
    parts = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for heading in ("release", "status", "chart", "version"):
        parts.add_column(heading)
    for release in status.releases:
        style = "green" if release.status == _READY else "red"
        parts.add_row(release.name, Text(release.status, style), release.chart, release.app_version)
    running = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for heading in ("runs", "ready", "images"):
        running.add_column(heading)
    for one in status.workloads:
        count = Text(f"{one.ready}/{one.wanted}", "green" if one.is_ready else "red")
        running.add_row(one.name, count, ", ".join(one.images))
    ends = [Text(_until(name, at)) for name, at in status.certificates.items()]
    inside = [] if status.inside is None else _of_inside(status.inside)
    found = Text(printable("\n".join(inside)))
    return Group(*_troubles(status), parts, Text(), running, Text(), *ends, Text(), found)


def _troubles(status: Status) -> list[Text]:
    """Gives what needs attention, and an empty line; before all else, which may not fit."""
    lines = []
    if (record := status.frozen) is not None:
        lines.append(f"frozen since {record.since.isoformat()} by {record.by}: knit admin thaw")
    lines += attention(status.problems)
    lines += [one.trouble for one in status.workloads if one.trouble]
    return [*(Text(printable(one), "red") for one in lines), Text()] if lines else []


def _of_inside(inside: InstallationStatus) -> list[str]:
    """Gives its lines but for its problems, which have been shown."""
    return details(inside) if inside.problems else describe(inside)


def _ends(folder: SettingsFolder) -> dict[str, datetime]:
    found = {}
    for path in (folder.ca_certificate, folder.server_certificate):
        content = folder.read_bytes(path)
        if content is None:
            continue
        try:
            found[path.name] = certificates.read_certificate(content, str(path)).not_after
        except CertificateRefused:  # `doctor` says what is wrong with it
            found[path.name] = datetime.fromtimestamp(0, UTC)
    return found


def _until(name: str, at: datetime) -> str:
    days = (at - datetime.now(UTC)).days
    return f"certs/{name} is valid until {at:%Y-%m-%d}, for {days} days"
