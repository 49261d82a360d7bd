"""What is under way when an administrator freezes knit, and who is ended by that."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.operations.quiescence import fail_runs, under_way
from knit_workflows.store import PostgresStore
from tests.store.build import admit_all, begin, drain, only, register, spec, upload

S = RunStatus


@pytest.mark.patient
async def test_runs_with_a_container_are_ended_and_uploads_are_not(
    store: PostgresStore, url: str
) -> None:
    """Whoever waits is left alone; the program says the same as the functions."""
    await register(store, spec({"/a": "k:a"}, {"/o": ""}))
    await upload(store, "k:a")
    await drain(store)
    key = only(await admit_all(store))
    assert await under_way(store.runs) == {"statuses": {}, "runs": []}
    assert await fail_runs(store.runs, "mary") == 0
    await store.execution.advance(key, S.READY, cause="test")
    upload_run, _ = await begin(store)
    found = await under_way(store.runs)
    assert found["statuses"] == {"ready": 1, "running": 1}
    assert set(found["runs"]) == {key.run_id, upload_run.run_id}

    done = subprocess.run(
        [sys.executable, "-m", "knit_workflows.operations.quiescence", "fail", "--by", "mary"],
        env={**os.environ, "KNIT_STORE__URL": url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {
        "statuses": {"running": 1, "aborting": 1},
        "runs": [upload_run.run_id, key.run_id],
        "stopped": 1,
    }
    assert await fail_runs(store.runs, "mary") == 0
    assert (await store.runs.events(key.run_id))[-1].actor == "mary"


@pytest.mark.patient
def test_without_a_database_it_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "knit_workflows.operations.quiescence", "show"],
        env={**os.environ, "KNIT_STORE__URL": "postgresql://127.0.0.1:9/knit"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert not done.stdout
