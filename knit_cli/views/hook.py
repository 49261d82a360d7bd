"""Describes the deliveries to hooks for people."""

from __future__ import annotations

from datetime import datetime

from knit_workflows.domain.hooks import DeliveryState, HookPhase
from knit_workflows.domain.instants import format_instant
from knit_workflows.wire.hooks.deliveries import HookDelivery


def describe(one: HookDelivery) -> list[str]:
    """Gives the lines of one delivery: what it was for, what came of it, what can be done."""
    change = f"{one.phase} {one.from_status} → {one.to_status}"
    lines = [
        f"{_when(one.called_at)}  {one.state}  {change} of Run {one.run_id}",
        f"    {one.url}: {_outcome(one)}",
    ]
    can_be_skipped = one.phase == HookPhase.BEFORE and one.state in (
        DeliveryState.FAILED,
        DeliveryState.CALLING,
    )
    if can_be_skipped:
        lines.append(f"    go on without it: knit hook skip {one.id} --reason …")
    return lines


def _outcome(one: HookDelivery) -> str:
    if one.state == DeliveryState.SKIPPED:
        return f"skipped by {one.skipped_by}: {one.skip_reason}"
    called = f"call {one.attempts}" if one.phase == HookPhase.BEFORE else ""
    took = f"{one.duration_ms} ms" if one.duration_ms is not None else ""
    status = str(one.status_code or "")
    parts = [called, took, status if status not in one.answer else ""]
    told = ", ".join(filter(None, parts))
    answer = " ".join(one.answer.split())
    told = ": ".join(filter(None, (told, answer)))
    return f"{told}; called again at {_when(one.next_at)}" if one.next_at else told


def _when(instant: datetime) -> str:
    return format_instant(instant.astimezone())
