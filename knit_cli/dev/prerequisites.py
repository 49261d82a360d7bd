"""What the embedded stack needs besides packages: Temporal, a sandbox, a user with a name."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from knit_cli.errors import CliError
from knit_cli.output import say
from knit_workflows.embedded import EmbeddedPostgres, EmbeddedRefused
from knit_workflows.provision.cache import SetUpError
from knit_workflows.provision.sandbox import sandbox_problem
from knit_workflows.provision.temporal_cli import ADVICE, find_temporal, obtain_temporal

T = TypeVar("T")


def obtain_prerequisites(*, quiet: bool) -> None:
    """Gets Temporal's program, which may take minutes, and warns if there is no sandbox.

    Raises:
        CliError: Temporal's program cannot be obtained.
    """
    _temporal(lambda: obtain_temporal(quiet=quiet))
    if os.environ.get("KNIT_COMPUTE__KIND", "local") == "local" and (problem := sandbox_problem()):
        say(f"Runs of `host/…` images will fail: {problem}")


def open_way_to_database(folder: Path) -> None:
    """Lets the user that runs PostgreSQL pass through the folders above it, and says so.

    Raises:
        CliError: it cannot pass.
    """
    server = EmbeddedPostgres(folder)
    try:
        opened = server.open_way()
    except EmbeddedRefused as refused:
        raise CliError(
            "PostgreSQL cannot be set up", reason=refused.reason, advice=refused.advice
        ) from refused
    for one in opened:
        say(f"the user {server.user}, who runs PostgreSQL, may pass through {one} now")


def require_temporal() -> Path:
    """Finds Temporal's program on this machine.

    Raises:
        CliError: there is none.
    """
    found = _temporal(find_temporal)
    if found is None:
        raise CliError("there is no Temporal command line on this machine", advice=ADVICE)
    return found


def require_named_user() -> None:
    """Raises CliError if the system does not know the current user: PostgreSQL needs a name."""
    uid = os.geteuid()
    try:
        pwd.getpwuid(uid)
    except KeyError as cause:
        raise CliError(
            "PostgreSQL cannot be set up",
            reason=f"this system has no name for the user with id {uid}",
            advice="add one to /etc/passwd, or run knit as a user that has one",
        ) from cause


def _temporal(get: Callable[[], T]) -> T:
    try:
        return get()
    except SetUpError as error:
        raise CliError(
            "Temporal's dev server cannot be obtained", reason=str(error), advice=ADVICE
        ) from error
