"""How many Runs suit a machine: a few per core, fewer where memory is scarce."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from knit_workflows.compute.base import RunLimits
from knit_workflows.compute.local import LocalBackend, machine
from knit_workflows.settings import LocalSettings

GIB = 1 << 30
CORES = len(os.sched_getaffinity(0))


def group(folder: Path, *, cpu: str = "max 100000", memory: str = "max") -> Path:
    """A control group's files as version 2 has them."""
    (folder / "cpu.max").write_text(f"{cpu}\n")
    (folder / "memory.max").write_text(f"{memory}\n")
    return folder


def test_without_limits_it_follows_the_cores(tmp_path: Path) -> None:
    assert machine.cores(group(tmp_path)) == CORES
    assert machine.cores(tmp_path / "nowhere") == CORES


def test_a_narrow_container_counts_for_what_it_may_use(tmp_path: Path) -> None:
    folder = group(tmp_path, cpu="50000 100000", memory=str(GIB))
    assert machine.cores(folder) == 0.5
    assert machine.memory_bytes(folder) == GIB
    suggested = machine.suggested_runs(folder)
    assert suggested.usual == max(2, machine.RUNS_PER_CORE // 2)
    assert suggested.throttled == max(2, machine.THROTTLED_PER_CORE // 2)
    assert suggested.short == min(4, machine.SHORT_PER_CORE // 2), "a GiB is too little for more"


def test_scarce_memory_means_fewer_runs_but_never_none(tmp_path: Path) -> None:
    memory = machine.MEMORY_PER_RUN * 3
    suggested = machine.suggested_runs(group(tmp_path, memory=str(memory)))
    assert suggested.usual == min(3, CORES * machine.RUNS_PER_CORE)
    assert suggested.short == min(3, CORES * machine.SHORT_PER_CORE)
    least = machine.suggested_runs(group(tmp_path, memory="4096"))
    fewest = machine.FEWEST_RUNS
    assert least == RunLimits(fewest, fewest, fewest)


def test_the_memory_limit_of_the_older_control_groups_counts_too(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{GIB}\n")
    assert machine.memory_bytes(tmp_path) == GIB


@pytest.mark.parametrize("told", ["", "max", "9223372036854771712"])
def test_no_limit_is_no_limit(tmp_path: Path, told: str) -> None:
    assert machine.memory_bytes(group(tmp_path, memory=told)) == machine.memory_bytes(
        tmp_path / "nowhere"
    )


def test_the_back_end_says_so_before_it_is_opened(tmp_path: Path) -> None:
    suggested = LocalBackend(LocalSettings(state=tmp_path)).suggested_runs()
    assert 2 <= suggested.throttled <= suggested.usual <= suggested.short
    assert suggested.short <= CORES * machine.SHORT_PER_CORE
