"""What this machine has for Runs: cores and memory, as far as this process may use them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from knit_workflows.compute.base import RunLimits

RUNS_PER_CORE: Final = 4
"""Some of them wait for a disk, the network, or their next step. The figures behind these are in
docs/decisions/0016-runs-are-throttled.md."""
THROTTLED_PER_CORE: Final = 2
SHORT_PER_CORE: Final = 16
MEMORY_PER_RUN: Final = 256 << 20
"""Bytes; a machine with less than this per Run gets fewer of them."""
FEWEST_RUNS: Final = 2

_CGROUP: Final = Path("/sys/fs/cgroup")
_CPU_MAX: Final = "cpu.max"
_MEMORY_MAX: Final = ("memory.max", "memory/memory.limit_in_bytes")


def suggested_runs(cgroup: Path = _CGROUP) -> RunLimits:
    """Gives how many Runs at once suit this machine, or the container that we are in."""
    by_memory = memory_bytes(cgroup) // MEMORY_PER_RUN
    usable = cores(cgroup)
    usual, throttled, short = (
        max(FEWEST_RUNS, min(int(usable * per_core), by_memory))
        for per_core in (RUNS_PER_CORE, THROTTLED_PER_CORE, SHORT_PER_CORE)
    )
    return RunLimits(usual, throttled, short)


def cores(cgroup: Path = _CGROUP) -> float:
    """Gives the cores this process may use; less than one for a narrow container."""
    usable = float(len(os.sched_getaffinity(0)))
    with suppress(OSError, ValueError):  # no such control group, or `max`
        quota, period = (cgroup / _CPU_MAX).read_text().split()
        usable = min(usable, int(quota) / int(period))
    return usable


def memory_bytes(cgroup: Path = _CGROUP) -> int:
    """Gives the memory this process may use."""
    usable = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in _MEMORY_MAX:
        with suppress(OSError, ValueError):
            usable = min(usable, int((cgroup / name).read_text()))
    return usable
