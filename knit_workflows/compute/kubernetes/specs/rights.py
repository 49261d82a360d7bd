"""The rights that knit's processes need in their namespace: the one place that says so.

The chart's Roles are written from here (`tools/reference.py`), and so is what
`python -m knit_workflows.compute.kubernetes` prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.settings import KubernetesSettings

_RBAC: Final = "rbac.authorization.k8s.io"

WORKER_ACCOUNT: Final = "knit-worker"
"""ServiceAccount of a worker that has all roles."""


def _may(group: str, resource: str, *verbs: str) -> JsonObject:
    return {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}


_SEES_PODS: Final = (_may("", "pods", "get", "list", "watch"), _may("", "events", "list", "watch"))
_REMOVES_PODS: Final = (
    _may("batch", "jobs", "get", "delete"),
    _may("", "pods", "create", "delete", "deletecollection"),
)
_FILLS_VOLUMES: Final = (
    _may("", "persistentvolumeclaims", "get", "create", "patch"),
    _may("", "secrets", "create"),
)

RULES: Final[Mapping[str, tuple[JsonObject, ...]]] = {
    "worker-watch": (
        *_SEES_PODS,
        _may("batch", "jobs", "get"),
        _may("", "persistentvolumeclaims", "get", "patch"),
    ),
    "worker-interactive": (*_SEES_PODS, *_REMOVES_PODS, *_FILLS_VOLUMES),
    # What workers with all roles need, too.
    "worker-compute": (
        *_SEES_PODS,
        *_REMOVES_PODS,
        *_FILLS_VOLUMES,
        _may("batch", "jobs", "create", "list"),
        _may("", "persistentvolumeclaims", "list", "delete"),
    ),
    "nurse": (_may("", "pods", "get", "list", "watch"), _may("", "pods/log", "get")),
}
"""Per account of the chart; the engine's and the hooks' workers, and the API, need none."""


def prerequisites(settings: KubernetesSettings) -> list[JsonObject]:
    """Gives what the namespace needs before the first Run, in order of creation: the rights with
    which the log sidecar reads logs.
    """
    account = settings.log_service_account
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": settings.log_secret,
            "annotations": {"kubernetes.io/service-account.name": account},
        },
        "type": "kubernetes.io/service-account-token",
    }
    return [*_allowed(account, "read-log", RULES["nurse"], settings), secret]


def worker_account(settings: KubernetesSettings) -> list[JsonObject]:
    """Gives the account of workers, in order of creation, with the rights of all roles."""
    return _allowed(WORKER_ACCOUNT, "run-plans", RULES["worker-compute"], settings)


def _allowed(
    account: str, role: str, rules: tuple[JsonObject, ...], settings: KubernetesSettings
) -> list[JsonObject]:
    subject = {"kind": "ServiceAccount", "name": account, "namespace": settings.kube_namespace}
    reference = {"apiGroup": _RBAC, "kind": "Role", "name": role}
    bound: dict[str, Any] = {"roleRef": reference, "subjects": [subject]}
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": account},
            # Who needs the token says so: no pod gets it by accident.
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "Role",
            "metadata": {"name": role},
            "rules": list(rules),
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": f"{account}-{role}"},
            **bound,
        },
    ]
