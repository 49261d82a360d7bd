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


def _launches(log_account: str) -> tuple[JsonObject, ...]:
    """Gives the rules of who launches Runs: tokens are those of `log_account` alone."""
    return (
        *_SEES_PODS,
        *_REMOVES_PODS,
        *_FILLS_VOLUMES,
        _may("batch", "jobs", "create", "list"),
        _may("", "persistentvolumeclaims", "list", "delete"),
        _may("", "serviceaccounts/token", "create") | {"resourceNames": [log_account]},
    )


RULES: Final[Mapping[str, tuple[JsonObject, ...]]] = {
    "worker-watch": (
        *_SEES_PODS,
        # It ends the Runs that it watches, and removes disrupted pods before a relaunch.
        _may("batch", "jobs", "get", "delete"),
        _may("", "pods", "deletecollection"),
        _may("", "persistentvolumeclaims", "get", "patch"),
    ),
    "worker-interactive": (*_SEES_PODS, *_REMOVES_PODS, *_FILLS_VOLUMES),
    # What workers with all roles need, too.
    "worker-compute": _launches("knit-nurse"),
    "nurse": (_may("", "pods", "get", "list", "watch"), _may("", "pods/log", "get")),
}
"""Per account of the chart; the engine's and the hooks' workers, and the API, need none."""


def prerequisites(settings: KubernetesSettings) -> list[JsonObject]:
    """Gives what the namespace needs before the first Run, in order of creation: the rights with
    which the log sidecar reads logs.
    """
    return _allowed(settings.log_service_account, "read-log", RULES["nurse"], settings)


def worker_account(settings: KubernetesSettings) -> list[JsonObject]:
    """Gives the account of workers, in order of creation, with the rights of all roles."""
    rules = _launches(settings.log_service_account)
    return _allowed(WORKER_ACCOUNT, "run-plans", rules, settings)


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
