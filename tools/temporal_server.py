"""Prints the path of a working `temporal` program (the command line with the dev server) on stdout.

The first that works is taken: `$KNIT_TEMPORAL_CLI`, `temporal` on PATH, the cache, a build with Go.
When there is none: nothing on stdout, a sentence on stderr, exit code 3.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from cache_folder import SetUpError
from go_build import GoPrograms, build_if_needed

EXIT_NONE_FOUND = 3
PROGRAMS = GoPrograms(
    name="temporal",
    module=Path(__file__).resolve().parent / "temporal",
    packages=("github.com/temporalio/cli/cmd/temporal",),
    ldflags="-s -w -X github.com/temporalio/cli/temporalcli.Version=1.5.1",
)


def temporal_program() -> Path:
    """Returns a `temporal` program that answers `--version`.

    Raises:
        SetUpError: the one named by `$KNIT_TEMPORAL_CLI` does not work, or there is none at all.
    """
    named = os.environ.get("KNIT_TEMPORAL_CLI")
    if named:
        if not _answers(Path(named)):
            raise SetUpError(
                f"KNIT_TEMPORAL_CLI names {named}, which does not answer `--version`: "
                "correct it or unset it."
            )
        return Path(named).resolve()
    on_path = shutil.which("temporal")
    if on_path and _answers(Path(on_path)):
        return Path(on_path).resolve()
    if not PROGRAMS.folder().exists() and shutil.which("go") is None:
        raise SetUpError(
            "No `temporal` on PATH and no Go to build it with: "
            "the Temporal SDK's own download will be tried."
        )
    built = build_if_needed(PROGRAMS) / "temporal"
    if not _answers(built):
        raise SetUpError(f"{built} was built but does not answer `--version`: remove it and retry.")
    return built


def _answers(program: Path) -> bool:
    """Asks for the version, because a file that is there may be a stub or for another machine."""
    try:
        done = subprocess.run(
            [str(program), "--version"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and "temporal" in done.stdout.lower()


def main() -> int:
    """Prints the path, or says why there is none."""
    try:
        print(temporal_program())
    except SetUpError as error:
        print(f"temporal: {error}", file=sys.stderr)
        return EXIT_NONE_FOUND
    return 0


if __name__ == "__main__":
    sys.exit(main())
