"""Wakes the scheduler for a pod whose claims were bound without its notice.

The scheduler tries a pod again when one of its claims changes, but may still judge by an older
picture of that claim (kubernetes/kubernetes#93552; seen with 1.34). In a quiet cluster nothing
wakes it after that until, five minutes later, it goes through all that it could not place. A change
of a claim does.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from knit_workflows.compute.kubernetes.api.objects import JsonObject, condition, instant, now
from knit_workflows.compute.kubernetes.api.server import ApiServer
from knit_workflows.compute.kubernetes.pods.start_failures import CLAIM
from knit_workflows.domain.errors import BackendRejected

log = logging.getLogger(__name__)

WOKEN: Final = "knit/scheduler-woken"
"""The annotation of a claim that is changed: when, RFC 3339."""
_UNBOUND: Final = "unbound immediate PersistentVolumeClaims"
_PAUSE: Final = timedelta(seconds=10)
"""How long a scheduler that was woken may take to try the pod."""


def is_held_unbound(pod: JsonObject) -> bool:
    """Says whether the scheduler leaves a pod alone because its claims are not bound yet."""
    scheduled = condition(pod, "PodScheduled") or {}
    return scheduled.get("status") == "False" and _UNBOUND in (scheduled.get("message") or "")


async def wake_scheduler(server: ApiServer, claims: Sequence[str]) -> bool:
    """Changes a claim of a pod that is held unbound, if all of them are bound; says whether it did.

    It is the last one: of a run pod that is an output's or the log's, which knit has made, while an
    input's may be adopted. Soon after the last time it does nothing, whoever that was.

    Raises:
        BackendUnavailable: the server does not answer, or forbids to read claims.
    """
    claim: JsonObject | None = None
    for name in reversed(claims):  # the last is the likeliest to be unbound, and then the only one
        found = await server.get(CLAIM, name)
        if found is None or (found.get("status") or {}).get("phase") != "Bound":
            return False
        claim = claim or found
    if claim is None:
        return False
    woken = instant((claim["metadata"].get("annotations") or {}).get(WOKEN))
    if woken is not None and now() - woken < _PAUSE:
        return False
    change = {"metadata": {"annotations": {WOKEN: now().isoformat(timespec="seconds")}}}
    about = {"claim": claims[-1]}
    try:
        await server.patch(CLAIM, claims[-1], change)
    except BackendRejected as error:
        extra = {"action": "scheduler_not_woken", **about}
        log.warning("claim %s cannot be changed: %s", claims[-1], error.reason, extra=extra)
        return False
    log.info("a pod's claims are bound unseen", extra={"action": "scheduler_woken", **about})
    return True
