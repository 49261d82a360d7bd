"""What the files with values have when `knit admin prepare` writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from knit_cli.admin import charts

_HEAD: Final = (
    "# Values of the chart {chart}: yours to edit; `knit admin prepare` leaves them alone.\n"
    "# All of them: helm show values {chart}, or charts/{chart}/README.md.\n"
)


@dataclass(frozen=True)
class Choices:
    """What is chosen when a folder is made; None: not chosen.

    `storage_class`: a StorageClass of the cluster, instead of the chart for NFS. `temporal`:
    host and port of the frontend.
    """

    without: Sequence[str] = ()
    extra: Sequence[str] = ()
    storage_class: str | None = None
    temporal: str | None = None
    temporal_namespace: str | None = None

    @property
    def charts(self) -> list[str]:
        """The charts of the installation."""
        left_out = {*self.without, *(() if self.storage_class is None else (charts.STORAGE,))}
        return [
            chart
            for chart in charts.ORDER
            if chart in self.extra or (chart not in charts.OPTIONAL and chart not in left_out)
        ]


def fresh_values(choices: Choices) -> dict[str, str]:
    """Gives the content of each file, by its name without `.yaml`."""
    texts = {chart: _HEAD.format(chart=chart) + _TEXTS[chart](choices) for chart in choices.charts}
    return {**texts, "hooks": _HOOKS, "extra-api": _EXTRA_API}


def _storage_class(choices: Choices) -> str:
    if choices.storage_class is None:
        return ""
    # A JSON text is a YAML text too, whatever is in it.
    name = json.dumps(choices.storage_class)
    return f"\nstorage:\n  class:\n    data: {name}\n    system: {name}\n"


def _storage(_: Choices) -> str:
    return """
nfs:
  # true: a server of yours; the one in the cluster keeps everything on one node's disk.
  external: false
  # server: nfs.example.com
  # share: /
  # mountOptions: nfsvers=4.1,rsize=8192,wsize=8192,hard,nolock
  # hostPath: /var/lib/knit/storage
  # The node whose disk is used, if not external.
  node: ""
"""


def _certs(_: Choices) -> str:
    return """
# The certificates of this folder (certs/) are put into a Secret by `knit admin`. To use one of
# another origin, such as of cert-manager, name it:
# external: true
# secret:
#   server: NAME
"""


def _database(choices: Choices) -> str:
    temporal = "true" if charts.TEMPORAL in choices.charts else "false"
    return f"""
# true: a PostgreSQL of yours, with `service` as its host, and Secrets with its roles.
external: false
# true: in the pod, on no volume; everything is lost when the pod goes.
ephemeral: false
# service: database
# credential:
#   secret: database-credential
# Databases for the chart knit-temporal.
temporal:
  enabled: {temporal}
{_storage_class(choices)}"""


def _registry(choices: Choices) -> str:
    return f"""
# true: nothing is installed.
external: false
# Port of every node by which images are pushed and pulled.
port: 30503
{_storage_class(choices)}"""


def _temporal(_: Choices) -> str:
    return """
# A small Temporal for trials, on the database of knit-db-postgres.
"""


def _app(choices: Choices) -> str:
    bundled = charts.TEMPORAL in choices.charts
    address = choices.temporal or (charts.BUNDLED_TEMPORAL if bundled else "")
    return f"""
api:
  service:
    # Port of every node by which the API is reached.
    nodePort: 30803
temporal:
  # Host and port of Temporal's frontend, as pods reach it. Required.
  address: {json.dumps(address)}
  # Namespace that knit uses; give it one of its own.
  namespace: {json.dumps(choices.temporal_namespace or "knit")}
  # tls:
  #   enabled: true
  #   clientSecret: NAME    # type kubernetes.io/tls, for mTLS
  # apiKey:
  #   secret: NAME          # with the key `api-key`
# Accounts of an OpenID Connect provider, besides knit's own tokens:
# accounts:
#   oidc:
#     issuer: https://login.example.com
#     clientId: knit
#     roles: {{ml-team: editor}}
{_storage_class(choices)}"""


_TEXTS: Final = {
    charts.STORAGE: _storage,
    charts.CERTS: _certs,
    charts.DATABASE: _database,
    charts.REGISTRY: _registry,
    charts.TEMPORAL: _temporal,
    charts.APP: _app,
}
_HOOKS: Final = """\
# Lifecycle hooks: URLs that are asked before the status of a Run changes, or told after it.
hooks:
  lifecycle-hooks:
    before: []
    after: []
"""
_EXTRA_API: Final = """\
# Paths of the API that other services serve, such as {path: /my, proxy_to: "http://my.ns/"}.
extraApi:
  endpoints: []
"""
