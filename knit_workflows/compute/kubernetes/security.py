"""Security contexts: what containers of run pods and transfer pods may do.

In every mode no container gains privileges, all capabilities are dropped and the runtime's default
seccomp profile applies. Then there are two modes, because pods of different users share volumes:

* By default the Plan's container runs as the user its image names. knit's own containers run as
  root with the one capability DAC_OVERRIDE (the *baseline* standard allows it): a fresh claim may
  be owned by root and closed to others, and a download must read what any user wrote with mode
  0600. fsGroup is no way out: host path and NFS volumes ignore it, and where it is honoured it
  rewrites the ownership of a whole input before each Run.
* With `restricted` all containers of all pods run as one fixed user and group (as OpenShift does
  per namespace), so each can read what another wrote. The storage must hand out volumes that this
  user may write, by mode or by fsGroup, which is set for the storage that honours it. What root
  wrote with mode 0600 before the mode was switched on stays unreadable.
"""

from __future__ import annotations

from knit_workflows.compute.kubernetes.objects import JsonObject
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
