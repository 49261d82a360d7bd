"""Timeouts, heartbeats and retries of activities, each set on purpose."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from temporalio.common import Priority, RetryPolicy

UNTIL_IT_WORKS: Final = RetryPolicy(
    initial_interval=timedelta(milliseconds=500),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=10),
)
"""For steps that must succeed in the end: an outage only delays them."""

ONCE: Final = RetryPolicy(maximum_attempts=1)
"""For a step that is tried in another way if this one fails."""

AT_ONCE: Final = RetryPolicy(
    initial_interval=timedelta(milliseconds=200),
    backoff_coefficient=1.5,
    maximum_interval=timedelta(seconds=10),
)
"""For watches: that of a killed worker resumes elsewhere as soon as its heartbeat is missed."""

AT_HAND: Final = Priority(priority_key=1)
"""For steps that a user waits for. Counts on shared queues, on servers with task priorities."""

SHORT: Final = timedelta(seconds=60)
"""For a step that requests a state and does not wait for it."""

LONG: Final = timedelta(days=365)
"""For a watch; heartbeats, not this, show whether its worker is alive."""

TURN: Final = timedelta(hours=1)
"""One turn of a schedule; what it does not finish is left to the next."""
