"""How activities are called: time-outs, heartbeats and retries, each set on purpose."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from temporalio.common import Priority, RetryPolicy

UNTIL_IT_WORKS: Final = RetryPolicy(
    initial_interval=timedelta(milliseconds=500),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=10),
)
"""For what must happen in the end: an outage of the store or of the back-end only delays it."""

AT_ONCE: Final = RetryPolicy(
    initial_interval=timedelta(milliseconds=200),
    backoff_coefficient=1.5,
    maximum_interval=timedelta(seconds=10),
)
"""For watches: a killed worker's watch resumes elsewhere as soon as it is missed."""

AT_HAND: Final = Priority(priority_key=1)
"""For what somebody waits for. It counts where a queue is shared, on servers that know it."""

SHORT: Final = timedelta(seconds=60)
"""A step that asks for a state and does not wait for it."""

LONG: Final = timedelta(days=365)
"""A watch; its worker's life is known by heartbeats, not by this."""

TURN: Final = timedelta(hours=1)
"""One turn of a schedule; what it does not finish is left to the next."""
