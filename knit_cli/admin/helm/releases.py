"""helm's releases: their states, and the repair of those that a killed helm left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from knit_cli.admin.cluster import Cluster, ToolFailed
from knit_cli.errors import CliError

_PENDING: Final = ("pending-install", "pending-upgrade", "pending-rollback")
_ALIVE: Final = timedelta(minutes=15)
"""A helm of somebody else that began within this time may still be at work."""


@dataclass(frozen=True)
class Release:
    """The newest revision of a release, as helm has recorded it in the namespace."""

    name: str
    revision: int
    status: str
    modified: datetime

    @property
    def is_pending(self) -> bool:
        """Whether an operation on it has begun and not ended."""
        return self.status in _PENDING


def find_releases(cluster: Cluster) -> dict[str, Release]:
    """Gives the newest revision of every release in the namespace, by name.

    It reads the labels of helm's Secrets, which are the same for helm 3 and 4; their content, all
    manifests, stays where it is.
    """
    columns = ",".join(
        f"{title}:.metadata.labels.{label}"
        for title, label in (("N", "name"), ("R", "version"), ("S", "status"), ("M", "modifiedAt"))
    )
    rows = cluster.kubectl(
        *("get", "secrets", "--selector", "owner=helm", "--no-headers"),
        *("--output", f"custom-columns={columns},C:.metadata.creationTimestamp"),
    )
    found: dict[str, Release] = {}
    for row in rows.splitlines():
        name, revision, status, modified, created = row.split()
        seconds = int(modified) if modified.isdecimal() else None
        at = datetime.fromisoformat(created) if seconds is None else _instant(seconds)
        one = Release(name, int(revision), status, at)
        if name not in found or found[name].revision < one.revision:
            found[name] = one
    return found


def repair(cluster: Cluster, release: Release, *, mine: bool, force: bool) -> str | None:
    """Makes a release that a killed helm left behind usable again; returns what was done.

    Only helm's record of the unfinished revision is removed: what it has created in the cluster
    stays, and is taken over by the next `helm upgrade --install`, which goes on from there.

    Args:
        cluster: where it is.
        release: its newest revision.
        mine: a helm of this settings folder did that, and has ended.
        force: the administrator says that no helm is at work.

    Raises:
        CliError: it may be at work still.
    """
    if release.status == "uninstalling":
        cluster.helm("uninstall", release.name)
        return f"{release.name}: an uninstall that was cut is now complete"
    if not release.is_pending:
        return None
    age = datetime.now(UTC) - release.modified
    if not mine and not force and age < _ALIVE:
        raise CliError(
            f"another helm is at work on {release.name}",
            reason=f"it is {release.status} since {int(age.total_seconds())} s",
            advice="wait for its end; if it was killed, repeat with --repair",
        )
    record = f"sh.helm.release.v1.{release.name}.v{release.revision}"
    cluster.delete("secret", record)
    return f"{release.name}: it was left {release.status} by a helm that was killed; repaired"


def values_of(cluster: Cluster, release: str) -> Mapping[str, Any]:
    """Gives all values of a release, as they are handed over to other charts: without secrets."""
    found = cluster.helm_json("get", "values", release, "--all")
    return without_secrets(found or {})


def without_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    """Drops private keys and passwords, whatever the administrator wrote into a values file."""
    kept = {key: value for key, value in values.items() if key not in ("key", "cakey")}
    credential = kept.get("credential")
    if isinstance(credential, dict):
        kept["credential"] = {key: one for key, one in credential.items() if key != "password"}
    return kept


def uninstall(cluster: Cluster, name: str) -> bool:
    """Uninstalls a release; False: there was none."""
    try:
        cluster.helm("uninstall", name, "--wait")
    except ToolFailed as failed:
        if failed.not_found:
            return False
        raise
    return True


def _instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
