"""A cache of the test's own, and stand-ins for programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Stand = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no program named by the environment."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("KNIT_CACHE", str(folder))
    monkeypatch.delenv("KNIT_TEMPORAL_CLI", raising=False)
    return folder


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Makes a shell script that is found on PATH under the given name, before all others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return make
