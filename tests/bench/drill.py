"""The disaster drill on one machine: everything is lost, and comes back elsewhere from a backup.

`python -m tests.bench drill` prints the seconds of each step: 30 Data of `KNIT_BENCH_MIB` MiB
together (100) and a Run for each, backed up while the installation is up; then all its processes
are killed and its folder is removed; another one is started, filled, verified, and goes on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psutil

from tests.bench.figures import figure
from tests.e2e.stack import DevStack, dev_folder, dev_stack, shell_plan, until

_DATA: Final = 30


async def drill() -> None:
    """Carries it out; fails if anything of what was backed up is missing afterwards."""
    with tempfile.TemporaryDirectory(prefix="knit-drill-") as place, dev_folder() as first:
        kept = Path(place) / "kept"
        with dev_stack(first) as stack:
            plan_id, before = _work(stack, Path(place))
            contents = _contents(stack)
            assert len(contents) == 2 * _DATA
            with _step("backup"):
                made = stack.knit("admin", "backup", kept, "--json").json()
            assert made["unreadable"] == {}
            with _step("all is lost"):
                _lose(stack)
        with dev_folder() as second, dev_stack(second) as other:
            with _step("another one is up"):
                other.up()
            with _step("restore"):
                restored = other.knit("admin", "restore", kept, "--json").json()
            assert restored["made"] == made["volumes"]
            with _step("verify"):
                verified = other.knit("admin", "verify", "--state", other.state, "--json").json()
            assert verified["findings"] == []
            assert _runs(other, plan_id) == before
            assert _contents(other) == contents
            with _step("a push, and its Run"):
                other.push("new", "drill:yes")
                until(lambda: len(_done(other, plan_id)) == _DATA + 1)


def _work(stack: DevStack, place: Path) -> tuple[str, dict[str, Any]]:
    """Fills an installation; gives its Plan and what there is of Runs."""
    stack.up()
    plan_id = stack.apply(shell_plan("wc -c < /in/word > /out/word", "drill:yes"))
    folder = place / "data"
    folder.mkdir()
    for number in range(_DATA):
        size = (int(os.environ.get("KNIT_BENCH_MIB", "100")) << 20) // _DATA
        (folder / "word").write_bytes(number.to_bytes(4, "big") + os.urandom(size - 4))
        stack.knit("data", "push", "--tag", "drill:yes", folder)
    until(lambda: len(_done(stack, plan_id)) == _DATA)
    return plan_id, _runs(stack, plan_id)


def _lose(stack: DevStack) -> None:
    """Kills all of it at once, and removes its folder."""
    processes = stack.processes()
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # ended with one killed before
            process.kill()
    psutil.wait_procs(processes, timeout=30)
    shutil.rmtree(stack.state)


def _runs(stack: DevStack, plan_id: str) -> dict[str, Any]:
    found = stack.get("/runs", plan=plan_id, limit="1000")
    return {run["runId"]: run for run in found}


def _contents(stack: DevStack) -> dict[str, str]:
    """Gives the hash of each Data's file by its path, read without knit."""
    volumes = stack.state / "compute" / "volumes"
    return {
        str(path.relative_to(volumes)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in volumes.rglob("word")
    }


def _done(stack: DevStack, plan_id: str) -> list[Any]:
    return [run for run in _runs(stack, plan_id).values() if run["status"] == "done"]


@contextmanager
def _step(name: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    figure(f"drill: {name}", time.monotonic() - begun, "s", "-", data=_DATA)
