"""The fast loop: format, lint, types, imports and quick tests, side by side.

Each room of the tests is a pytest run of its own: two that share the rooms would each collect them
all, and start the servers of both. What a job says is shown when it has ended, and what all of them
cost at the end: seconds of CPU, unlike those on the clock, do not depend on what else runs.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PROGRAMS: Final = Path(sys.executable).parent
QUICK: Final = ("--hypothesis-profile=quick", "-m", "not patient and not slow and not cluster")
ENVIRONMENT: Final = {"KNIT_RACE_SECONDS": "1", "KNIT_RACE_SEEDS": "1"}
AT_ONCE: Final = (os.cpu_count() or 1) + 5
"""So many jobs, more than there are cores: some tests wait for real time-outs."""


@dataclass(frozen=True)
class Job:
    """One command."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """How it ended, all that it said, and its seconds: on the clock, and of CPU."""

    job: Job
    code: int
    said: str
    elapsed: float
    cpu: float


def tests(name: str, *paths: str) -> Job:
    """Gives the quick tests of some paths as a job."""
    program = str(PROGRAMS / "pytest")
    return Job(name, (program, "-q", "-p", "no:xdist", *paths, *QUICK))


WAITING: Final = ("tests/unit/compute", "tests/unit/pod", "tests/unit/hooks")
"""Most of their time they wait, for processes and real time-outs."""
JOBS: Final = (
    # What has most often something to say comes first; then the longest, so that none is left over.
    Job("format", (str(PROGRAMS / "ruff"), "format", "--check", "--quiet", ".")),
    Job("lint", (str(PROGRAMS / "ruff"), "check", "--quiet", ".")),
    tests("store", "tests/store", "tests/contract/catalogue"),
    tests("waiting", *WAITING),
    tests("api", "tests/api", "--ignore", "tests/api/test_fuzz.py"),
    tests("cli", "tests/cli", "--ignore", "tests/cli/admin"),
    tests("admin", "tests/cli/admin"),
    tests("unit", "tests/unit", *(f"--ignore={one}" for one in WAITING)),
    tests("docs", "tests/docs"),
    Job("types", (str(PROGRAMS / "mypy"),)),
    Job("imports", (str(PROGRAMS / "lint-imports"),)),
)


def main() -> int:
    """Runs all jobs; gives the exit code."""
    begun = time.monotonic()
    environment = {**os.environ, **ENVIRONMENT}
    failed, cpu = [], 0.0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for future in as_completed([pool.submit(run, job, environment) for job in JOBS]):
                ended = future.result()
                cpu += ended.cpu
                if ended.code:
                    failed.append(ended.job.name)
                show(ended)
        except KeyboardInterrupt:  # what runs has got the signal too
            pool.shutdown(cancel_futures=True)
            return 130
    print(f"{time.monotonic() - begun:.0f} s, {cpu:.0f} s of CPU;", end=" ")
    print(f"failed: {', '.join(failed)}" if failed else "all is well")
    return int(bool(failed))


def run(job: Job, environment: Mapping[str, str]) -> Ended:
    """Runs a job to its end."""
    begun = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            job.command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read().decode(errors="replace")
    return Ended(job, process.returncode, said, time.monotonic() - begun, seconds(used))


def seconds(used: resource.struct_rusage) -> float:
    """Gives the CPU time of a process and of all those below it that have ended before."""
    return used.ru_utime + used.ru_stime


def show(ended: Ended) -> None:
    """Shows all of a failure, and the last line of a success."""
    lines = ended.said.strip().splitlines()
    if ended.code:
        print(ended.said.rstrip())
    last = lines[-1].strip("= ") if lines and not ended.code else ""
    outcome = f"FAILED ({ended.code})" if ended.code else "ok"
    times = f"{ended.elapsed:5.1f} s  {ended.cpu:5.1f} s of CPU"
    print(f"{ended.job.name:8} {outcome:6} {times}  {last}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
