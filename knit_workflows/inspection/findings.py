"""What a verification finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Repair(StrEnum):
    """What mends a finding without a decision of anybody's, and without losing anything."""

    RECONCILE = "reconcile"
    """A turn of the reconciliation, which starts what is lost and ends what is over."""
    UPKEEP = "upkeep"
    """Projector and schedules are made where they are missing."""
    TERMINATE = "terminate"
    """The workflow is terminated: each of its steps would find nothing to do."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One disagreement: which check found it, of what, and what mends it, in words.

    `repair` is set if `--repair` does that.
    """

    check: str
    subject: str
    message: str
    cure: str
    repair: Repair | None = None

    def as_json(self) -> dict[str, Any]:
        """Gives plain values; `repair` is left out if a decision is needed."""
        return {name: value for name, value in asdict(self).items() if value is not None}
