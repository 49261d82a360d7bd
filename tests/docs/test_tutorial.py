"""Every command of the tutorial works, in the order in which a reader types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import blocks, commands

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home of its own; whatever was started in its folder `iris` is ended."""
    yield tmp_path
    if (tmp_path / "iris").exists():
        down = [sys.executable, "-m", "knit_cli", "dev", "down"]
        environment = {**os.environ, "HOME": str(tmp_path)}
        subprocess.run(down, cwd=tmp_path / "iris", env=environment, check=True)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_command_of_the_tutorial_works(home: Path) -> None:
    typed = [line for block in blocks(TUTORIAL, "console") for line in commands(block)]
    assert typed[-1] == "knit dev down"
    # As one shell, since variables and folders carry over; it tells each command before it runs it.
    script = ["set -eu -o pipefail"]
    for line in typed:
        script += [f"printf '\\n$ %s\\n' {_quoted(line)} >&2", line]
    script.insert(-1, _SNAPSHOT)
    shell = subprocess.run(
        ["bash"],
        input="\n".join(script),
        cwd=ROOT,
        env={**os.environ, "HOME": str(home), "PATH": PATH},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shell.returncode == 0, f"{shell.stdout[-2000:]}\n{shell.stderr[-4000:]}"
    assert "train: 100 flowers" in shell.stdout
    assert "nothing differs" in shell.stderr

    runs = json.loads((home / "iris" / "runs.json").read_text())
    work = [run for run in runs if "image" in run["plan"]]
    by_program: dict[str, int] = {}
    for run in work:
        program = Path(run["plan"]["entrypoint"][-1]).stem
        by_program[program] = by_program.get(program, 0) + 1
    assert all(run["status"] == "done" for run in work)
    # What the page promises: only what is new runs.
    assert (by_program["split"], by_program["train"], by_program["evaluate"]) == (1, 4, 4)


_SNAPSHOT = "knit run find > runs.json"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
