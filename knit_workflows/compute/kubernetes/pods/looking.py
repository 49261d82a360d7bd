"""Looks at the objects around a pod that does not start, for the reason that it does not say."""

from __future__ import annotations

from collections.abc import Sequence

from knit_workflows.compute.base import StartFailure
from knit_workflows.compute.kubernetes.api.objects import JsonObject, now
from knit_workflows.compute.kubernetes.api.server import ApiServer
from knit_workflows.compute.kubernetes.pods.stalled import (
    ClaimState,
    claims_of,
    read_claim,
    why_stalled,
)
from knit_workflows.compute.kubernetes.pods.start_failures import (
    CLAIM,
    WarningEvent,
    about,
    read_warning,
    start_failure_of_pod,
)


async def read_warnings(server: ApiServer, things: Sequence[str]) -> list[WarningEvent]:
    """Gives the Warning events about things, each `Kind/name`; one request for each.

    Raises:
        BackendUnavailable: the server does not answer, or forbids it.
    """
    found = []
    for thing in things:
        found += [read_warning(event) for event in await _events(server, thing, "type=Warning,")]
    return found


async def look_closer(server: ApiServer, pod: JsonObject) -> StartFailure:
    """Says what a pending pod waits for that reports no failure; costs two requests per claim.

    Raises:
        BackendUnavailable: the server does not answer, or forbids it.
    """
    claims: dict[str, ClaimState] = {}
    for name in claims_of(pod):
        claim = await server.get(CLAIM, name)
        unbound = claim is not None and (claim.get("status") or {}).get("phase") != "Bound"
        events = await _events(server, about(CLAIM, name)) if unbound else []
        claims[name] = read_claim(claim, events)
    return why_stalled(pod, claims, await _events(server, about("Pod", pod["metadata"]["name"])))


async def why_pending(server: ApiServer, pod: JsonObject) -> StartFailure:
    """Says why a pod does not start: its failure, or else what it waits for.

    Raises:
        BackendUnavailable: the server does not answer, or forbids it.
    """
    things = [about("Pod", pod["metadata"]["name"]), *(about(CLAIM, c) for c in claims_of(pod))]
    warnings = await read_warnings(server, things)
    return start_failure_of_pod(pod, warnings, now()) or await look_closer(server, pod)


async def _events(server: ApiServer, thing: str, also: str = "") -> list[JsonObject]:
    """Gives the events about `Kind/name`, oldest first."""
    kind, _, name = thing.partition("/")
    fields = f"{also}involvedObject.kind={kind},involvedObject.name={name}"
    events, _ = await server.list("Event", {"fieldSelector": fields})
    events.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
    return events
