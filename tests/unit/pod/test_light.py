"""Programs for pods start quickly, stay small, and need nothing but Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
PROGRAMS = ["log_sidecar", "agent"]
PYTHONS = [sys.executable, *(["/usr/bin/python3"] if Path("/usr/bin/python3").exists() else [])]

LOOK = """
import importlib, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
importlib.import_module("knit_workflows.pod." + sys.argv[1])
parts = ("archive", "backoff", "http1", "pod")
rooms = tuple(f"knit_workflows.{part}" for part in parts)
ours = [m for m in sys.modules if m.startswith("knit") and not m.startswith(rooms)]
theirs = {m.partition(".")[0] for m in sys.modules} - sys.stdlib_module_names
print(sorted(ours), sorted(theirs - {"__main__", "knit_workflows"}))
status = Path("/proc/self/status").read_text()
print(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_it_needs_the_standard_library_only_and_little_memory(python: str, program: str) -> None:
    command = [python, "-S", "-E", "-c", LOOK, program, REPOSITORY]
    modules, peak = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd="/"
    ).stdout.splitlines()
    assert modules == "['knit_workflows'] []"
    assert int(peak) < 25 << 10


@pytest.mark.patient
@pytest.mark.parametrize("program", PROGRAMS)
def test_it_starts_in_a_fifth_of_a_second(program: str) -> None:
    """In processor time, and once of some times: the machine may be busy with something else."""
    code = f"import time, knit_workflows.pod.{program}; print(time.process_time())"
    command = [sys.executable, "-S", "-c", code]

    def seconds() -> float:
        done = subprocess.run(command, capture_output=True, check=True, cwd=REPOSITORY)
        return float(done.stdout)

    assert any(seconds() < 0.2 for _ in range(25))
