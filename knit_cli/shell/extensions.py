"""Extension commands: an executable `knit-NAME` on PATH is `knit NAME`."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from knit_cli.errors import CliError
from knit_cli.invocation import Invocation
from knit_cli.signals import endings_deferred
from knit_workflows.domain.os_errors import advice_for, reason_of

_PREFIX = "knit-"
_SUFFIXES = (".exe", ".bat", ".cmd", ".com")


def find_extensions(invocation: Invocation) -> dict[str, Path]:
    """Finds the executables by command name; the first on PATH wins."""
    found: dict[str, Path] = {}
    path = invocation.surroundings.variables.get("PATH")
    for entry in [] if path is None else path.split(os.pathsep):
        # Joining keeps an absolute entry; an empty one means the current folder.
        folder = invocation.surroundings.cwd / entry
        for candidate in _candidates(folder):
            found.setdefault(_command_name(candidate), candidate)
    return found


def _candidates(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.startswith(_PREFIX))
    except OSError:  # PATH often names folders that do not exist
        return []
    paths = [folder / name for name in names if _command_name(Path(name))]
    return [path for path in paths if path.is_file() and os.access(path, os.X_OK)]


def _command_name(path: Path) -> str:
    name = path.name.removeprefix(_PREFIX)
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def run_extension(executable: Path, arguments: Sequence[str], invocation: Invocation) -> None:
    """Runs the extension in the foreground, with the common flags in its environment.

    Raises:
        CliError: it could not be started, or it failed; the reason has its exit code.
    """
    variables: Mapping[str, str] = {
        **invocation.surroundings.variables,
        "KNIT_PROFILE": invocation.profile_name,
        "KNIT_PROFILE_STORE": str(invocation.store_path),
        "KNIT_ENV": str(invocation.env_path),
    }
    process = None
    try:
        with endings_deferred():  # or one that came now would end knit, but not the extension
            process = subprocess.Popen(
                [str(executable), *arguments],
                env=dict(variables),
                cwd=invocation.surroundings.cwd,
            )
        code = _waited(process)
    except SystemExit:  # pass the signal on
        if process is not None:
            process.terminate()
            process.wait()
        raise
    except OSError as cause:
        raise CliError(
            f"cannot start {executable}",
            reason=reason_of(cause),
            advice=advice_for(cause, "check that it is a program for this machine"),
        ) from cause
    if code == -signal.SIGINT:
        raise KeyboardInterrupt
    if code != 0:
        how = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
        raise CliError(f"{executable.name} failed", reason=how)


def _waited(process: subprocess.Popen[bytes]) -> int:
    """Gives the exit code; Ctrl-C is for the extension, which gets it too, to obey or not."""
    while True:
        with suppress(KeyboardInterrupt):
            return process.wait()
