"""Decides which `temporal` program (Temporal's command line, with its dev server) is used.

The first that works: `$KNIT_TEMPORAL_CLI`, `temporal` on PATH, in the cache, beside this Python. If
there is none, it is downloaded by the SDK, else built with Go.

`python -m knit_workflows.provision.temporal_cli` prints the path of one that works, obtaining it if
necessary; if that fails: a sentence on stderr and exit code 3.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from knit_workflows.provision.cache import SetUpError
from knit_workflows.provision.go_build import GoPrograms, build_if_needed
from knit_workflows.provision.sdk_download import (
    PROGRAM,
    STALL_TIMEOUT,
    download_folder,
    download_if_needed,
)

VARIABLE: Final = "KNIT_TEMPORAL_CLI"
ADVICE: Final = (
    "install Temporal's CLI (https://docs.temporal.io/cli), or Go to build it with, "
    f"or set {VARIABLE} to the path of a `temporal`"
)
"""What a user can do when none can be obtained."""
OLDEST_SERVER: Final = (1, 27)
"""The oldest server in a `temporal` program with which knit is known to work."""
EXIT_NONE: Final = 3
_SERVER: Final = re.compile(r"\bserver (\d+)\.(\d+)", re.IGNORECASE)
PROGRAMS: Final = GoPrograms(
    name="temporal",
    module=Path(__file__).parent / "temporal",
    packages=("github.com/temporalio/cli/cmd/temporal",),
    ldflags="-s -w -X github.com/temporalio/cli/temporalcli.Version=1.5.1",
    takes="about three minutes on two cores, once",
)


def find_temporal() -> Path | None:
    """Returns a `temporal` that works, or None; takes a tenth of a second.

    One on PATH that does not work is skipped, with a line on stderr.

    Raises:
        SetUpError: the one named by `$KNIT_TEMPORAL_CLI` does not work.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if problem := _problem(Path(named)):
            raise SetUpError(f"{VARIABLE} names {named}, which {problem}: correct or unset it")
        return Path(named).resolve()
    if on_path := shutil.which(PROGRAM):
        problem = _problem(Path(on_path))
        if problem is None:
            return Path(on_path).resolve()
        sys.stderr.write(f"{on_path} {problem}: looking for another one\n")
    return next((program for program in _cached() if _problem(program) is None), None)


def obtain_temporal(*, quiet: bool = False, stall_timeout: float = STALL_TIMEOUT) -> Path:
    """Returns a `temporal` that works, after downloading or building one if necessary.

    That may take minutes, and is reported on stderr; with `quiet` without progress. A download is
    aborted when nothing arrives for `stall_timeout` seconds.

    Raises:
        SetUpError: none can be obtained; the message says what was tried.
    """
    found = find_temporal()
    if found is not None:
        return found
    try:
        return _checked(download_if_needed(quiet=quiet, stall_timeout=stall_timeout))
    except SetUpError as error:
        sys.stderr.write(f"{error}\n")
    try:
        return _checked(build_if_needed(PROGRAMS, quiet=quiet) / PROGRAM)
    except SetUpError as error:
        raise SetUpError(
            f"no `temporal` that works is on PATH, none could be downloaded, and {error}"
        ) from error


def _cached() -> Iterator[Path]:
    yield download_folder() / PROGRAM
    yield PROGRAMS.folder() / PROGRAM
    # `make setup` puts a link there, for users with another cache.
    yield Path(sys.executable).parent / PROGRAM


def _checked(program: Path) -> Path:
    if problem := _problem(program):
        raise SetUpError(f"{program} {problem}")
    return program


def _problem(program: Path) -> str | None:
    """Says what is wrong with a program; None if it works. It may be a stub, or for another CPU."""
    try:
        done = subprocess.run(
            [str(program), "--version"], capture_output=True, text=True, timeout=30
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return "does not answer `--version`"
    server = _SERVER.search(done.stdout)
    if done.returncode != 0 or server is None:
        return "does not say with `--version` which server it holds"
    if (int(server[1]), int(server[2])) < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        return f"holds Temporal's server {server[1]}.{server[2]}, and knit needs {oldest} or newer"
    return None


def main() -> int:
    """Prints the path, or says why there is none and what to do; returns the exit code."""
    try:
        sys.stdout.write(f"{obtain_temporal()}\n")
    except SetUpError as error:
        sys.stderr.write(f"temporal: {error}\ntemporal: {ADVICE}\n")
        return EXIT_NONE
    return 0


if __name__ == "__main__":
    sys.exit(main())
