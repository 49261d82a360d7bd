"""What is told apart from the record of a pod and the processes that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from knit_workflows.compute.local import pod_folder, stopping
from knit_workflows.compute.local.processes import boot_id

GONE = (2**22 + 1, 1)
"""A number that no process has: Linux gives none above 2²²."""


def record(folder: Path, *lines: str) -> pod_folder.SupervisorState:
    """Writes what a supervisor reports; gives it as it is read."""
    started = f"started {GONE[0]} {GONE[1]} {boot_id()}"
    text = "".join(f"{line}\n" for line in (started, *lines))
    (folder / pod_folder.STATE).write_text(text)
    reported = pod_folder.read_state(folder)
    assert reported is not None
    return reported


def test_a_pod_whose_supervisor_was_killed_is_orphaned(tmp_path: Path) -> None:
    assert stopping.is_orphaned(tmp_path, record(tmp_path, "running"))


@pytest.mark.parametrize("last", ["exited 0 0", "exited 3 0"])
def test_a_supervisor_that_has_ended_since_it_was_looked_at_left_no_orphan(
    tmp_path: Path, last: str
) -> None:
    """It reports the end, then it is gone, then its number is looked for."""
    seen = record(tmp_path, "running")
    record(tmp_path, "running", last)
    assert not stopping.is_orphaned(tmp_path, seen)
