"""Values that follow from the settings folder; the files with values go on top of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from knit_cli.admin import charts
from knit_cli.admin.folder import SettingsFolder
from knit_cli.admin.helm.values import read_values, value_at
from knit_cli.admin.installing.preparation import check_api_root
from knit_cli.admin.secret_objects import TLS_SECRET, TOKEN_SECRET, pull_secret_name


def computed_values(folder: SettingsFolder, chart: str) -> dict[str, Any]:
    """Gives the values of a chart that the folder's other files say: names of Secrets above all."""
    values: dict[str, Any] = {}
    if chart == charts.CERTS and has_own_certificates(folder):
        if folder.without_tls.exists():
            return {"enabled": False}
        return {"enabled": True, "external": True, "secret": {"server": TLS_SECRET}}
    pull_secret = pull_secret_name(folder)
    if pull_secret is not None and chart in charts.PULLING:
        values["imagePullSecrets"] = [{"name": pull_secret}]
    if chart == charts.APP and (accounts := dict(_accounts(folder))):
        values["accounts"] = accounts
    return values


def _accounts(folder: SettingsFolder) -> Iterator[tuple[str, Any]]:
    if not value_at(folder, charts.APP, "accounts", "bootstrapToken", "existingSecret"):
        yield "bootstrapToken", {"existingSecret": TOKEN_SECRET}
    # Behind something with an address of its own, a request does not say how its sender came.
    api_root = folder.read_text(folder.api_root)
    if api_root and (parts := urlsplit(check_api_root(api_root))).path == "/api":
        yield "publicUrl", f"{parts.scheme}://{parts.netloc}"


def has_own_certificates(folder: SettingsFolder) -> bool:
    """Whether API and registry serve the folder's certificates, not those of another Secret."""
    values = read_values(folder, charts.CERTS)
    if folder.values(charts.CERTS).is_file():
        return not values.get("external") and not values.get("cert")
    return False
