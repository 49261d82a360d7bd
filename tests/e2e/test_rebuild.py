"""A database is dropped, and rebuilt from volumes and Temporal; so is the content's reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.errors import DeadlockDetected

from knit_cli.dev.dev_folder import DevFolder
from knit_workflows.embedded import EmbeddedPostgres
from tests.e2e.stack import DevStack, dev_folder, dev_stack, shell_plan, until

pytestmark = [pytest.mark.timeout(600), pytest.mark.engine, pytest.mark.slow]


def emptied(stack: DevStack) -> None:
    """Drops all tables, and makes them anew, as a new database has them."""
    database = EmbeddedPostgres(DevFolder(stack.state).postgres)
    with psycopg.connect(database.address(), autocommit=True) as connection:
        for left in reversed(range(10)):  # the stack is at work with it
            try:
                connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
                return
            except DeadlockDetected:
                if not left:
                    raise


def by_id(stack: DevStack, path: str, key: str) -> dict[str, Any]:
    return {one[key]: one for one in stack.get(path, limit="1000")}


def of_data(one: dict[str, Any]) -> dict[str, Any]:
    """What is claimed to be rebuilt of a Data; its time is that of its Run's workflow."""
    upstream = one["upstream"]
    return {
        "tags": [tag for tag in one["tags"] if "knit#timestamp" not in str(tag)],
        "made by": (upstream.get("mountpoint"), upstream.get("log")),
        "used by": sorted(
            (used["run"]["runId"], used["mountpoint"]["path"]) for used in one["downstreams"]
        ),
    }


def of_run(one: dict[str, Any]) -> dict[str, Any]:
    return {key: one.get(key) for key in ("status", "plan", "inputs", "outputs", "log", "exit")}


def stage(script: str, tag: str, made: str) -> dict[str, Any]:
    return {**shell_plan(script, tag), "outputs": [{"path": "/out", "tags": [made]}]}


def test_a_chain_is_rebuilt_and_nothing_is_executed_again(tmp_path: Path) -> None:
    documents = [
        stage("cat /in/word > /out/word; echo said", "a:1", "b:1"),
        stage("cat /in/word > /out/word", "b:1", "c:1"),
        stage("exit 3", "c:1", "d:1"),
    ]
    with dev_folder() as folder, dev_stack(folder) as stack:
        stack.up()
        plans = [stack.apply(one) for one in documents]
        ids = [stack.push(f"word {number}", "a:1") for number in range(2)]
        until(lambda: len(stack.runs(plans[2])) == 2
              and all(one["status"] == "failed" for one in stack.runs(plans[2])))  # fmt: skip
        data, runs = by_id(stack, "/data", "knitId"), by_id(stack, "/runs", "runId")
        hashed = stack.knit("admin", "verify", "--state", stack.state, "--hashes", "--json").json()
        assert hashed["counted"]["contents recorded"] == len(data)

        changed = stack.state / "compute" / "volumes" / f"data-knitid-{ids[0]}" / "word"
        before = changed.read_text()
        changed.write_text("another")
        told = stack.knit("admin", "verify", "--state", stack.state, "--hashes", "--json", code=3)
        [finding] = told.json()["findings"]
        assert (finding["check"], finding["subject"]) == ("hashes", f"Data {ids[0]}")
        changed.write_text(before)
        stack.knit("admin", "verify", "--state", stack.state, "--hashes", "--data", ids[0])

        emptied(stack)
        stack.down()
        stack.up()
        tried = stack.knit("admin", "rebuild", "--state", stack.state, "--json").json()
        assert not tried["written"]
        assert stack.get("/data") == []
        written = stack.knit("admin", "rebuild", "--state", stack.state, "--write", "--json").json()
        assert written["found"] == tried["found"]
        assert written["found"]["edges"] == 6
        again = stack.knit("admin", "rebuild", "--state", stack.state, "--write", "--json").json()
        assert again["already"]

        found, ran = by_id(stack, "/data", "knitId"), by_id(stack, "/runs", "runId")
        assert {k: of_data(one) for k, one in found.items()} == {
            k: of_data(one) for k, one in data.items()
        }
        of_plans = {k: one for k, one in runs.items() if one["plan"].get("planId") in plans}
        assert {k: of_run(ran[k]) for k in of_plans} == {
            k: of_run(one) for k, one in of_plans.items()
        }
        assert stack.pulled(ids[1])["word"].startswith("word 1")

        # Registered again each Plan is the one that is known; only what is new is executed.
        for plan_id, document in zip(plans, documents, strict=True):
            stack.knit("plan", "active", "yes", plan_id)
            assert stack.apply(document) == plan_id
        stack.push("new", "a:1")
        until(lambda: len(stack.runs(plans[2])) == 3)
        assert [len(stack.runs(one)) for one in plans] == [3, 3, 3]
        assert (
            stack.knit("admin", "verify", "--state", stack.state, "--json").json()["findings"] == []
        )
