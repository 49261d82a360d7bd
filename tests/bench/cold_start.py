"""What a command costs before it does anything: the processor's time of one short process."""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

from tests.bench.figures import figure

RUNS = 15


async def cold_start() -> None:
    """Prints the processor's time of `knit --help` and others, beside the libraries' own."""
    libraries = _processor_time(sys.executable, "-c", "import typer, rich")
    knit = str(Path(sys.executable).parent / "knit")
    for arguments, target in (
        (("--help",), "≤ 0.25 s"),
        (("--version",), "≤ 0.25 s"),
        (("data", "--help"), ""),
        (("dev", "--help"), ""),
    ):
        figure(
            f"cold start of knit {' '.join(arguments)}",
            _processor_time(knit, *arguments),
            "s of CPU",
            target,
            import_typer_and_rich=round(libraries, 3),
            bare_python=round(_processor_time(sys.executable, "-c", "pass"), 3),
        )


def _processor_time(*command: str) -> float:
    """Gives the median of user and system time, without the first run: that writes bytecode."""
    times = [_once(command) for _ in range(RUNS + 1)]
    return statistics.median(times[1:])


def _once(command: tuple[str, ...]) -> float:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    silent = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    pid = os.posix_spawn(command[0], command, environment, file_actions=[silent])
    _, status, used = os.wait4(pid, 0)
    if status != 0:
        raise RuntimeError(f"{' '.join(command)} failed")
    return used.ru_utime + used.ru_stime
