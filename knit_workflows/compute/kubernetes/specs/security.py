"""Security contexts of run pods and transfer pods.

In every mode no container gains privileges, all capabilities are dropped and the runtime's default
seccomp profile applies. Then there are two modes, because pods of different users share volumes:

* By default the Plan's container runs as the user its image names. knit's own containers run as
  root with the single capability DAC_OVERRIDE (allowed by the *baseline* standard): a new claim may
  be owned by root and closed to others, and a download must read files of any user with mode 0600.
  fsGroup does not help: host path and NFS volumes ignore it, and where it is honoured it changes
  the ownership of a whole input before each Run.
* With `restricted` all containers of all pods run as one fixed user and group (as OpenShift does
  per namespace), so that each can read what another wrote. The storage must provide volumes that
  this user may write, by mode or by fsGroup, which is set for storage that honours it. Files that
  root wrote with mode 0600 before the switch stay unreadable.
"""

from __future__ import annotations

from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.settings import KubernetesSettings


def pod_context(settings: KubernetesSettings) -> JsonObject:
    """Gives the security context of a pod."""
    context: JsonObject = {"seccompProfile": {"type": "RuntimeDefault"}}
    if settings.restricted:
        context |= {
            "runAsNonRoot": True,
            "runAsUser": settings.run_as_user,
            "runAsGroup": settings.run_as_user,
            "fsGroup": settings.run_as_user,
            "fsGroupChangePolicy": "OnRootMismatch",
        }
    return context


def user_container_context() -> JsonObject:
    """Gives the security context of the Plan's own container."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def knit_container_context(settings: KubernetesSettings) -> JsonObject:
    """Gives the security context of a container made of knit's pod image."""
    context: JsonObject = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    if not settings.restricted:
        context["capabilities"]["add"] = ["DAC_OVERRIDE"]
        context |= {"runAsUser": 0, "runAsGroup": 0}
    return context
