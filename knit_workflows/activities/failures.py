"""Translates domain errors for Temporal, in this one place.

Unavailable and bugs are retried; repeating cannot help with any other domain error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from knit_workflows.domain.errors import KnitError, Unavailable


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
            category=ApplicationErrorCategory.BENIGN,
        ) from error
