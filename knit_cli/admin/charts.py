"""knit's charts: which there are, in which order they are installed, and what each hears of others.

A chart is part of the installation if the settings folder has a file with its values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from knit_cli.admin.folder import SettingsFolder
from knit_cli.admin.helm.releases import without_secrets
from knit_cli.errors import BadInput
from knit_cli.version import version

STORAGE: Final = "knit-storage-nfs"
CERTS: Final = "knit-certs"
DATABASE: Final = "knit-db-postgres"
REGISTRY: Final = "knit-image-registry"
TEMPORAL: Final = "knit-temporal"
APP: Final = "knit-app"

ORDER: Final = (STORAGE, CERTS, DATABASE, REGISTRY, TEMPORAL, APP)
"""Each needs only what stands before it."""
OPTIONAL: Final = (TEMPORAL,)
"""Not part of an installation unless asked for."""
PULLING: Final = (STORAGE, DATABASE, REGISTRY, TEMPORAL, APP)
"""Charts with a value `imagePullSecrets`."""
BUNDLED_TEMPORAL: Final = "temporal-frontend:7233"
"""The frontend that knit-temporal makes, as its namespace sees it."""
EXTRA_VALUES: Final = ("hooks", "extra-api")
"""More files with values of knit-app."""
_HANDED: Final[Mapping[str, Mapping[str, str]]] = {
    DATABASE: {"storage": STORAGE},
    REGISTRY: {"storage": STORAGE, "certs": CERTS},
    TEMPORAL: {"database": DATABASE},
    APP: {"storage": STORAGE, "certs": CERTS, "database": DATABASE},
}
_PACKED: Final = Path(__file__).parent / "charts"


@dataclass(frozen=True)
class ChartSource:
    """Where charts come from. `root`: a folder, `oci://…`, or the URL of a chart repository."""

    root: str
    version: str | None = None

    @classmethod
    def of(cls, root: str | None, chart_version: str | None) -> ChartSource:
        """Gives the charts that knit brings with it, unless a root is named.

        Raises:
            BadInput: they have another version than is asked for, or were left out of the package.
        """
        if root:
            return cls(root, chart_version)
        if chart_version and chart_version.removeprefix("v") != version():
            raise BadInput(
                f"the charts of this knit have version {version()}, not {chart_version}",
                advice=f"install knit {chart_version}, or name other charts (--charts)",
            )
        if not _PACKED.is_dir():
            raise BadInput(
                "this knit has no charts", advice="install its package, or name them (--charts)"
            )
        return cls(str(_PACKED))

    def arguments(self, chart: str) -> list[str]:
        """Gives helm's words for a chart."""
        versioned = ["--version", self.version] if self.version else []
        if re.match(r"oci://", self.root):
            return [f"{self.root.rstrip('/')}/{chart}", *versioned]
        if re.match(r"https?://", self.root):
            return [chart, "--repo", self.root, *versioned]
        folder = Path(self.root) / chart
        if folder.is_dir() or not self.version:
            return [str(folder)]
        return [str(Path(self.root) / f"{chart}-{self.version}.tgz")]


def chosen(folder: SettingsFolder) -> list[str]:
    """Gives the charts of an installation, in the order of their installation."""
    return [chart for chart in ORDER if folder.values(chart).is_file()]


def handed_over(chart: str, values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Gives what a chart hears of the others; `values`: those of the releases that are there."""
    return {
        key: without_secrets(values[other])
        for key, other in _HANDED.get(chart, {}).items()
        if other in values
    }


def givers(chart: str) -> tuple[str, ...]:
    """Gives the charts whose values a chart hears."""
    return tuple(_HANDED.get(chart, {}).values())
