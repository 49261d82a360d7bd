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

from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from knit_workflows.domain.errors import KnitError, QuotaExceeded, Unavailable

QUOTA_PAUSE: Final = (2.0, 10.0)
"""The shortest and the longest pause before a quota is tried again, in seconds."""


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
    return timedelta(seconds=random.uniform(*QUOTA_PAUSE))
