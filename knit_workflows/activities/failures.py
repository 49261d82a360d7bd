"""Domain errors on their way through Temporal, in this one place.

Unavailable and bugs are retried; every other domain error can never succeed by being repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from knit_workflows.domain.errors import KnitError, Unavailable


@contextmanager
def translated() -> Iterator[None]:
    """Raises what happens inside as an ApplicationError whose type is the domain error's name."""
    try:
        yield
    except KnitError as error:
        raise ApplicationError(
            f"{error.reason}; {error.advice}" if error.advice else error.reason,
            type=type(error).__name__,
            non_retryable=not isinstance(error, Unavailable),
            category=ApplicationErrorCategory.BENIGN,
        ) from error
