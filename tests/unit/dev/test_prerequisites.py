"""What `knit dev up` says before it starts anything, where something is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from knit_cli.dev.prerequisites import obtain_prerequisites, require_temporal
from knit_cli.errors import CliError


@pytest.mark.patient
def test_a_named_temporal_that_does_not_work_ends_up_in_words(tmp_path: Path) -> None:
    """The real command: exit code 1, what, why and what to do; nothing has been started."""
    done = subprocess.run(
        [sys.executable, "-m", "knit_cli", "dev", "up", "--detach"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "KNIT_TEMPORAL_CLI": "/nowhere/temporal"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    error, reason, hint = done.stderr.splitlines()[-3:]
    assert error == "error: Temporal's dev server cannot be obtained"
    assert reason.startswith("reason: KNIT_TEMPORAL_CLI names /nowhere/temporal, which does not")
    assert hint.startswith("hint: install Temporal's CLI (https://docs.temporal.io/cli)")
    assert not (tmp_path / ".knit" / "dev" / "postgres").exists()


def test_a_supervisor_without_temporal_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KNIT_TEMPORAL_CLI", raising=False)
    monkeypatch.setenv("KNIT_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(CliError, match="there is no Temporal command line") as caught:
        require_temporal()
    assert caught.value.advice is not None
    assert "KNIT_TEMPORAL_CLI" in caught.value.advice


@pytest.mark.parametrize(("kind", "told"), [("local", True), ("kubernetes", False)])
def test_a_missing_sandbox_is_told_where_runs_would_need_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    told: bool,
) -> None:
    program = tmp_path / "temporal"
    program.write_text("#!/bin/sh\necho 'temporal version 1.5.1 (Server 1.29.1)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("KNIT_TEMPORAL_CLI", str(program))
    monkeypatch.setenv("KNIT_COMPUTE__KIND", kind)
    monkeypatch.setenv("PATH", "/nowhere")
    obtain_prerequisites(quiet=False)
    said = capsys.readouterr().err
    assert ("bubblewrap is not installed; install the package bubblewrap" in said) is told
