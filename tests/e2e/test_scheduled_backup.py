"""Backups that nobody takes: by a schedule, with a worker that is killed, and old sets that go."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from knit_workflows.backup.blobs import Reader
from knit_workflows.backup.destinations import open_destination
from knit_workflows.backup.restoring import check_set, choose_set
from tests.e2e.stack import dev_folder, dev_stack, until
from tests.unit.backup.memory import Silent

pytestmark = [pytest.mark.timeout(900), pytest.mark.engine, pytest.mark.slow]


def test_a_schedule_takes_backups_and_removes_old_sets(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with dev_folder() as folder, dev_stack(folder) as stack:
        stack.up()

        def scheduled(*more: str | Path) -> Any:
            return json.loads(stack.knit("admin", "backup", *more, "--json").out)["schedule"]

        def sets() -> list[str]:
            return sorted(one.stem for one in (kept / "sets").glob("*.json"))

        assert scheduled("--schedule", "show") is None
        first = stack.push("first", "a:1")
        made = scheduled(kept, "--every", "5s", "--keep", "1")
        assert (made["destination"], made["keep"], made["paused"]) == (str(kept), 1, False)
        until(lambda: bool(sets()))
        [oldest] = sets()
        later = stack.push("later", "a:1")
        until(lambda: bool(sets()) and oldest not in sets())

        # A worker that is killed leaves nobody behind, and what follows is taken all the same.
        [worker] = [
            one
            for one in psutil.process_iter(["cmdline"])
            if "engine,compute,watch,backup" in (one.info["cmdline"] or [])
            and one.environ().get("KNIT_DEV_STATE") == str(stack.state)
        ]
        os.kill(worker.pid, signal.SIGKILL)
        before = sets()
        until(lambda: bool(sets()) and sets()[-1] > before[-1])

        paused = scheduled("--schedule", "pause")
        assert paused["paused"]
        until(lambda: not scheduled("--schedule", "show")["running"])
        shown = scheduled("--schedule", "show")
        assert shown["lastSet"] == sets()[-1]
        status = stack.get("/status")
        assert status["backups"]["last_set"] == sets()[-1]
        assert scheduled("--schedule", "none") is None

    source = open_destination(str(kept), tmp_path, new=False)
    left = choose_set(source, None)
    assert check_set(source, left, Silent()) > 0  # whole, although the older ones are gone
    with Reader(source) as reader:
        assert {one.knit_id for one in left.entries(reader)} == {first, later}
