"""What one hook is told; loads without the HTTP client."""

from __future__ import annotations

from dataclasses import dataclass

from knit_workflows.wire.base import Wire


@dataclass(frozen=True, slots=True)
class HookMessage:
    """What one hook is told: the body, and whether its answer may extend the environment.

    `delivery_id` is the same for every attempt.
    """

    delivery_id: str
    attempt: int
    body: Wire
    wants_environment: bool
