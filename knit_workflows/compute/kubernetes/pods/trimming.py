"""What is kept in memory of a pod that a watch shows; pure.

There may be thousands. What nobody here reads is left out, and equal strings, the keys above all,
are one object: each JSON text that is parsed brings its own copies of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Final

from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.compute.kubernetes.pods.stalled import claims_of

_METADATA: Final = (
    "name",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)
_STATUS: Final = ("phase", "reason", "message")
_CONDITION: Final = ("type", "status", "reason", "message", "lastTransitionTime")
_CONTAINER_STATUS: Final = ("name", "imageID", "started", "state", "lastState")


def trim(pod: JsonObject) -> JsonObject:
    """Gives the part of a pod that is read here: a tenth of what the API server sends."""
    spec, status = pod["spec"], pod.get("status", {})
    return {
        "metadata": _part(pod["metadata"], _METADATA),
        "spec": {
            **_part(spec, ("nodeName", "schedulerName")),
            "containers": _parts(spec["containers"], ("name", "image")),
            "initContainers": _parts(spec.get("initContainers"), ("name", "restartPolicy")),
            "volumes": [{"persistentVolumeClaim": {"claimName": name}} for name in claims_of(pod)],
        },
        "status": {
            **_part(status, _STATUS),
            "conditions": _parts(status.get("conditions"), _CONDITION),
            **{
                key: _parts(status[key], _CONTAINER_STATUS)
                for key in ("containerStatuses", "initContainerStatuses")
                if key in status
            },
        },
    }


def _parts(things: Iterable[JsonObject] | None, keys: tuple[str, ...]) -> list[JsonObject]:
    return [_part(thing, keys) for thing in things or ()]


def _part(thing: JsonObject, keys: tuple[str, ...]) -> JsonObject:
    """Gives the fields with these keys, in the words of `keys`, unless they are empty."""
    return {key: _shared(thing[key]) for key in keys if thing.get(key) not in (None, {}, [])}


def _shared(value: Any) -> Any:
    """Gives an equal value whose strings are shared with all others that are kept."""
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, dict):
        return {sys.intern(key): _shared(one) for key, one in value.items()}
    return [_shared(one) for one in value] if isinstance(value, list) else value
