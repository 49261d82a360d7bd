"""`knit admin uninstall`: first what would go, then its removal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from knit_cli.admin import charts
from knit_cli.admin.cluster import Cluster
from knit_cli.admin.folder import SettingsFolder
from knit_cli.admin.freezing.record import RECORD
from knit_cli.admin.helm import releases
from knit_cli.admin.helm.foreign_releases import refuse_foreign_releases
from knit_cli.admin.installing.progress import Progress
from knit_cli.admin.secret_objects import OWN_LABELS
from knit_cli.errors import CliError

_MADE_BY_KNIT: Final[Mapping[str, str]] = {
    "app.kubernetes.io/part-of": "knit",
    "app.kubernetes.io/managed-by": "knit",
}
"""What knit itself makes: Jobs, pods and claims of Runs and transfers; never what it adopted."""
_RELEASE: Final = "meta.helm.sh/release-name"
_GONE_WITHIN: Final = 120.0
_AT_ONCE: Final = 500


@dataclass(frozen=True)
class Claim:
    """A volume claim that would go, with its content."""

    name: str
    size: str


@dataclass(frozen=True)
class Removal:
    """What an uninstall would remove. `objects`: more, as `kind/name`."""

    releases: Sequence[str]
    claims: Sequence[Claim] = ()
    objects: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.releases or self.claims or self.objects)


def foresee(cluster: Cluster, *, hard: bool) -> Removal:
    """Finds what an uninstall would remove.

    Without `hard` that is knit-app alone: database, images, certificates, storage and all Data
    stay, and the next install goes on with them.

    Raises:
        CliError: the namespace holds another program, whose releases have the same names.
    """
    refuse_foreign_releases(cluster)
    found = releases.find_releases(cluster)
    if not hard:
        return Removal([charts.APP] if charts.APP in found else [])
    chosen = [chart for chart in reversed(charts.ORDER) if chart in found]
    claims = [
        Claim(one["metadata"]["name"], _size(one))
        for one in _of_knit(cluster, "persistentvolumeclaims")
    ]
    jobs = [
        f"job/{one['metadata']['name']}" for one in cluster.get("jobs", "--selector", _selector())
    ]
    secrets = [f"secret/{one['metadata']['name']}" for one in _of_knit(cluster, "secrets")]
    return Removal(chosen, claims, [*jobs, *secrets])


def remove(
    folder: SettingsFolder, cluster: Cluster, removal: Removal, *, hard: bool, quiet: bool
) -> dict[str, float]:
    """Removes it; returns the seconds per release. Repeated, it goes on where it was cut.

    Raises:
        CliError: helm failed, or claims are still in use.
    """
    progress = Progress(list(removal.releases), quiet)
    storage = [one for one in removal.releases if one == charts.STORAGE]
    with folder.sole_user() as lock, progress.shown():
        # A helm that outlives this process keeps the next one waiting.
        cluster = replace(cluster, lock=lock)
        for one in removal.releases:
            if one not in storage:
                with progress.step(one):
                    releases.uninstall(cluster, one)
        if charts.APP in removal.releases:  # what comes next is not frozen
            cluster.delete("configmap", RECORD)
        if hard:
            _remove_content(cluster, removal)
        # Last: without the driver no volume could be deleted.
        for one in storage:
            with progress.step(one):
                releases.uninstall(cluster, one)
    return progress.seconds


def _remove_content(cluster: Cluster, removal: Removal) -> None:
    # Pods first: a claim stays as long as one uses it.
    cluster.delete("jobs,pods", "--selector", _selector(), "--wait=true", "--timeout", "2m")
    secrets = [one for one in removal.objects if one.startswith("secret/")]
    claims = [f"persistentvolumeclaim/{one.name}" for one in removal.claims]
    # In parts: there is a limit for the words of a command.
    everything = [*secrets, *claims]
    for begin in range(0, len(everything), _AT_ONCE):
        cluster.delete(*everything[begin : begin + _AT_ONCE], "--wait=false")
    _wait_until_gone(cluster, [one.name for one in removal.claims])


def _wait_until_gone(cluster: Cluster, names: Sequence[str]) -> None:
    if not names:
        return
    deadline = time.monotonic() + _GONE_WITHIN
    while True:
        there = {one["metadata"]["name"] for one in cluster.get("persistentvolumeclaims")}
        left = sorted(there.intersection(names))
        if not left:
            return
        if time.monotonic() > deadline:
            raise CliError(
                f"{len(left)} claims are still there",
                reason=f"something uses them: {', '.join(left[:5])}",
                advice="look for pods that mount them (kubectl describe pvc), then repeat",
            )
        time.sleep(0.5)


def _of_knit(cluster: Cluster, kind: str) -> list[Any]:
    """Gives what knit made itself, and what its charts made and keep."""
    return [
        one
        for one in cluster.get(kind)
        if _MADE_BY_KNIT.items() <= one["metadata"].get("labels", {}).items()
        or OWN_LABELS.items() <= one["metadata"].get("labels", {}).items()
        or one["metadata"].get("annotations", {}).get(_RELEASE) in charts.ORDER
    ]


def _selector() -> str:
    return ",".join(f"{label}={value}" for label, value in _MADE_BY_KNIT.items())


def _size(claim: Any) -> str:
    return str(claim["spec"].get("resources", {}).get("requests", {}).get("storage", "?"))
