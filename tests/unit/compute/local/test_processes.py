"""What `/proc` says of processes, and what it keeps to itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from knit_workflows.compute.local import processes


def test_processes_that_nobody_may_look_at_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """`/proc` may be mounted with `hidepid=1`: those of others are listed, and cannot be read."""
    read = Path.read_text

    def read_ours(path: Path, **how: str) -> str:
        if path == Path("/proc/1/stat"):
            raise PermissionError("Operation not permitted")
        return read(path, **how)

    monkeypatch.setattr(Path, "read_text", read_ours)
    assert processes.find_process(1) is None
    found = processes.find_process(os.getpid())
    assert found is not None
    assert found in processes.in_session(os.getsid(0))
    processes.descendants(os.getpid())
