"""`knit admin backup` and `knit admin restore`: which installation, and how far it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from knit_cli.errors import CliError
from knit_workflows.backup.problems import BackupProblem


@contextmanager
def explained() -> Iterator[None]:
    """Raises CliError for what a backup or a restore has met."""
    try:
        yield
    except BackupProblem as problem:
        raise CliError(
            problem.summary, reason=problem.reason or None, advice=problem.advice or None
        ) from problem
