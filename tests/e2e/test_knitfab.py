"""A Knitfab's backup becomes a knit on one machine: tried, killed in between, and gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import dev_folder, dev_stack, shell_plan, until
from tests.e2e.test_backup import killed_once
from tests.knitfab import Knitfab, Plan, write_claim
from tests.postgres import Databases

pytestmark = [pytest.mark.timeout(900), pytest.mark.engine, pytest.mark.slow]

SCRIPT = "cat /in/word > /out/word; echo said"
LARGE = bytes(range(256)) * (64 << 12)


@pytest.fixture
def knitfab(databases: Databases) -> Iterator[Knitfab]:
    url = databases.empty()
    made = Knitfab(url)
    yield made
    made.close()
    databases.drop(url)


def as_plan(knitfab: Knitfab, document: dict[str, Any]) -> Plan:
    """Registers what a document says with Knitfab."""
    [given] = document["inputs"]
    [made] = document["outputs"]
    return knitfab.plan(
        {given["path"]: " ".join(given["tags"])},
        {made["path"]: " ".join(made["tags"])},
        log=" ".join(document["log"]["tags"]),
        image=document["image"],
        entrypoint=document["entrypoint"],
    )


def test_a_knitfab_goes_on_as_a_knit(knitfab: Knitfab, tmp_path: Path) -> None:
    """Lineage is there, nothing that was executed is again, and its Plans run what comes now."""
    quick, slow = shell_plan(SCRIPT, "a:1"), shell_plan("sleep 3000", "b:1")
    plan, other = as_plan(knitfab, quick), as_plan(knitfab, slow)
    first, second, pending = (knitfab.upload("a:1") for _ in range(3))
    executed: dict[str, tuple[str, dict[str, str]]] = {}
    for one in (first, second):
        executed[one] = knitfab.run(plan, {"/in": one}, exit_=(0, ""))
        write_claim(tmp_path, executed[one][1]["/out"], {"word": f"of {one}".encode()})
        write_claim(tmp_path, executed[one][1]["/log"], {"log": b"said\n"})
        write_claim(tmp_path, one, {"word": one.encode(), "large": LARGE})
        knitfab.nominate(one, plan.inputs["/in"], updated=False)
    write_claim(tmp_path, pending, {"word": pending.encode()})
    knitfab.nominate(pending, plan.inputs["/in"], updated=True)
    busy = knitfab.upload("b:1")
    write_claim(tmp_path, busy, {"word": b"x"})
    knitfab.nominate(busy, other.inputs["/in"], updated=False)
    cut, _ = knitfab.run(other, {"/in": busy}, "running")
    knitfab.dump(tmp_path)

    with dev_folder() as folder, dev_stack(folder) as stack:
        stack.up()
        restore = ("admin", "restore", tmp_path, "--layout", "knitfab", "--json")
        tried = stack.knit(*restore, "--dry-run").json()
        assert (tried["data"], tried["plans"], tried["edges"], tried["volumes"]) == (10, 2, 3, 8)
        assert tried["runs"] == {"done": 6, "running": 1}
        assert (tried["withoutContent"], tried["runsUnderWay"]) == ([], 1)
        assert stack.get("/data") == []
        volumes = stack.state / "compute" / "volumes"
        killed_once(stack, lambda: any(volumes.iterdir()), *restore)
        if not stack.get("/data"):
            restored = stack.knit(*restore).json()
            assert restored["made"] + restored["equal"] == 8
        assert stack.knit(*restore).json()["already"] is True

        for one in (first, second):
            run = stack.get(f"/runs/{executed[one][0]}")
            assert run["status"] == "done"
            assert [given["knitId"] for given in run["inputs"]] == [one]
            made = executed[one][1]["/out"]
            assert stack.pulled(made) == {"word": f"of {one}"}
            lineage = stack.knit("data", "lineage", made).out
            assert one in lineage
            assert (
                executed[one][0] in stack.get(f"/data/{made}/metadata")["upstream"]["run"]["runId"]
            )
        under_way = stack.get(f"/runs/{cut}")
        assert under_way["status"] == "failed"
        assert "under way when the backup of" in under_way["exit"]["message"]

        # The same document is the Plan that came over, and it runs what is pending and what is new.
        assert stack.apply(quick) == plan.plan_id
        new = stack.push("new", "a:1")
        until(lambda: [one["status"] for one in stack.runs(plan.plan_id)] == ["done"] * 4)
        inputs = [one["inputs"][0]["knitId"] for one in stack.runs(plan.plan_id)]
        assert sorted(inputs) == sorted([first, second, pending, new])
        stack.knit("run", "retry", cut)
        assert stack.run_in(other.plan_id, "running")["runId"] == cut
