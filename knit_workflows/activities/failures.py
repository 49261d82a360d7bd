"""Translates domain errors for Temporal, in this one place.

Unavailable and bugs are retried; repeating cannot help with any other domain error. Who waits for
room in a quota comes back at a moment of chance, so that a burst of Runs that each need several
claims does not meet again and again, each with a part of what it needs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from knit_workflows.domain.errors import KnitError, QuotaExceeded, Unavailable

QUOTA_PAUSE: Final = 5.0
"""Seconds by which the pause before a quota is tried again grows with each attempt; up to half of
it is left out by chance."""
LONGEST_QUOTA_PAUSE: Final = 60.0
"""As long as a Job controller's; many hundred Runs may wait."""


@contextmanager
def translated() -> Iterator[None]:
    """Translates a domain error into an ApplicationError whose type is the error's name."""
    try:
        yield
    except KnitError as error:
        raise ApplicationError(
            f"{error.reason}; {error.advice}" if error.advice else error.reason,
            type=type(error).__name__,
            non_retryable=not isinstance(error, Unavailable),
            next_retry_delay=_pause() if isinstance(error, QuotaExceeded) else None,
            category=ApplicationErrorCategory.BENIGN,
        ) from error


def _pause() -> timedelta:
    attempt = activity.info().attempt if activity.in_activity() else 1
    longest = min(QUOTA_PAUSE * attempt, LONGEST_QUOTA_PAUSE)
    return timedelta(seconds=random.uniform(longest / 2, longest))
