"""Keeps off namespaces whose releases have the names of knit's charts, and are another program's.

Such as Knitfab's: `helm upgrade --install` would turn them into knit's, and their owner's program
and volumes would be gone.
"""

from __future__ import annotations

import re
from typing import Final

from knit_cli.admin import charts
from knit_cli.admin.cluster import Cluster, ToolFailed
from knit_cli.admin.folder import DEFAULT_NAMESPACE
from knit_cli.admin.helm import releases
from knit_cli.errors import CliError

_PART_OF: Final = re.compile(
    r"^\s+[\"']?app\.kubernetes\.io/part-of[\"']?:\s*[\"']?([\w.-]+)[\"']?\s*$", re.MULTILINE
)
_OBJECT: Final = re.compile(r"^kind:\s", re.MULTILINE)


def refuse_foreign_releases(cluster: Cluster, *, if_known: bool = False) -> None:
    """Refuses a namespace with a release that has one of our names, and was made by other charts.

    With `if_known` a cluster that cannot be asked, such as for want of helm, is fine.

    Raises:
        CliError: it is such a namespace, or cannot be asked.
    """
    try:
        foreign = _find_foreign(cluster)
    except CliError:
        if if_known:
            return
        raise
    if not foreign:
        return
    owners = sorted({owner for several in foreign.values() for owner in several})
    named = f" (they are part of {', '.join(owners)})" if owners else ""
    raise CliError(
        f"namespace {cluster.namespace} holds another program",
        reason=f"these releases were not made by knit's charts{named}: {', '.join(foreign)}; "
        "knit's have the same names, so knit would overwrite or remove them",
        advice=_advice(cluster),
    )


def _find_foreign(cluster: Cluster) -> dict[str, list[str]]:
    """Gives the releases that are not knit's, each with the programs it is part of."""
    found = releases.find_releases(cluster)
    manifests = {chart: _manifest(cluster, chart) for chart in charts.ORDER if chart in found}
    return {
        chart: sorted(set(_PART_OF.findall(manifest)))
        for chart, manifest in manifests.items()
        if not is_of_knit(manifest)
    }


def is_of_knit(manifest: str) -> bool:
    """Says whether what a release has made is knit's, or nothing at all.

    Every object of knit's charts says that it is part of knit, whatever state the release is in: a
    manifest is recorded before its first object is made. A chart whose values say `external` makes
    none.
    """
    return "knit" in _PART_OF.findall(manifest) or not _OBJECT.search(manifest)


def _manifest(cluster: Cluster, release: str) -> str:
    try:
        return cluster.helm("get", "manifest", release)
    except ToolFailed as failed:
        if failed.not_found:  # it was uninstalled just now
            return ""
        raise


def _advice(cluster: Cluster) -> str:
    name = "NAME" if cluster.namespace == DEFAULT_NAMESPACE else DEFAULT_NAMESPACE
    other = f"name a namespace of knit's own: --namespace {name}"
    if cluster.variables.get("NAMESPACE") == cluster.namespace:
        return f"`unset NAMESPACE`, which `knit admin` reads too, or {other}; nothing was changed"
    return f"{other}; nothing was changed"
