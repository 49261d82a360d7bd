"""The milestones in the life of one generation of a Run; its phases lie between them (`timing`)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum


class Milestone(StrEnum):
    """An instant in the life of one generation of a Run; in the order in which they are reached."""

    ADMITTED = "admitted"
    POD_CREATED = "podCreated"
    SCHEDULED = "scheduled"
    """The pod has a node."""
    SANDBOX_READY = "sandboxReady"
    """Its volumes are mounted and its network is there."""
    INITIALIZED = "initialized"
    """Its init containers have ended."""
    PULLED = "pulled"
    """The node has its image."""
    STARTED = "started"
    """The user's container has started."""
    ENDED = "ended"
    """The user's container has ended."""
    LOGGED = "logged"
    """All containers have ended: its log is complete."""
    FINAL = "final"
    """The Run is done or failed."""


Timeline = Mapping[Milestone, datetime]
"""The milestones that have been seen."""
