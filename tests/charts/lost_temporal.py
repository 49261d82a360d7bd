"""Temporal comes back without anything that it knew, and is prepared as the runbook says."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from knit_workflows import names
from tests.charts.installation import Installation
from tests.docs.command_words import commands_of

AT_ONCE: Final = 6
"""How many Runs of a Plan are under way at once, as the installation is to be told."""
_MORE: Final = 2
_PAGE: Final = Path(__file__).parents[2] / "docs" / "operations" / "disasters.md"
_UNDER_WAY: Final = frozenset({"ready", "starting", "running", "completing"})
_BETWEEN: Final = _UNDER_WAY - {"running"}
_FINAL: Final = frozenset({"done", "failed"})


class Held:
    """Runs that end when they are let go: as many as may are under way, the others wait."""

    def __init__(self, one: Installation) -> None:
        self._one = one
        self._let_go: set[str] = set()
        waits = "until [ -e /out/go ]; do sleep 0.3; done"
        self.plan_id = one.apply("held", f"cp /in/word /out/word; {waits}")
        words = [f"held {number}" for number in range(AT_ONCE + _MORE)]
        with ThreadPoolExecutor(4) as pool:
            pushed = pool.map(partial(one.push, "type:held"), words)
            self.words = dict(zip(pushed, words, strict=True))

    def all_there(self) -> list[Any]:
        """Waits until they run and wait; gives those that run."""
        wanted = Counter(running=AT_ONCE, waiting=_MORE)
        runs = self._one.eventually(
            lambda: self._one.runs(self.plan_id),
            lambda runs: Counter(run["status"] for run in runs) == wanted,
        )
        return [run for run in runs if run["status"] == "running"]

    def let_go(self, run: Any) -> None:
        job = f"job/{names.run_pod(run['runId'], run['generation'])}"
        self._one.kubectl("exec", job, "--container", "main", "--", "touch", "/out/go")
        self._let_go.add(run["runId"])

    def ended(self) -> list[Any]:
        """Lets each go as soon as it runs, and waits for the end of all."""
        return self._one.eventually(self._ended, lambda found: len(found) == len(self.words))

    def _ended(self) -> list[Any]:
        runs = self._one.runs(self.plan_id)
        for run in runs:
            if run["status"] == "running" and run["runId"] not in self._let_go:
                self.let_go(run)
        return [run for run in runs if run["status"] in _FINAL]


def lose_temporal(
    one: Installation, database: Path, held: Held, plans: Iterable[str]
) -> tuple[list[Any], dict[str, float]]:
    """Removes all that Temporal has stored, while Runs of these Plans run, wait, and are between.

    One of those held ends before its workflow is there again. Gives the Runs that were under way,
    and seconds.
    """
    missed, make, recovered = the_commands()
    first, *_ = held.all_there()
    plans = [*plans, held.plan_id]
    before = one.eventually(partial(under_way, one, plans), are_between)
    for file in (files := stored(database)):
        file.unlink()
    assert files
    one.beside.restart_temporal()
    began = time.monotonic()
    one.eventually(
        partial(one.kubectl, *missed), lambda log: "Temporal has no namespace 'knit'" in log
    )
    took = {"until a worker missed the namespace": time.monotonic() - began}
    held.let_go(first)
    one.kubectl(*make)
    began = time.monotonic()
    one.eventually(partial(left_behind, one, plans, before), lambda left: not left)
    took["from the new namespace until all Runs went on"] = time.monotonic() - began
    one.eventually(partial(one.kubectl, *recovered), lambda log: '"engine_recovered"' in log)
    one.eventually(lambda: one.ask("GET", "/api/status")["problems"], lambda problems: not problems)
    return before, {what: round(seconds, 1) for what, seconds in took.items()}


def the_commands() -> list[list[str]]:
    """Those of the page, in its order, without kubectl's name and that of the namespace."""
    text = _PAGE.read_text("utf-8").partition("\n## Temporal is lost\n")[2].partition("\n## ")[0]
    every = [words for words in commands_of(_PAGE, "kubectl") if " ".join(words) in text]
    return [[word for word in words[1:] if word not in ("-n", "knit")] for words in every]


def stored(database: Path) -> list[Path]:
    """The file of the database, and those that SQLite keeps beside it."""
    return sorted(database.parent.glob(f"{database.name}*"))


def under_way(one: Installation, plans: Iterable[str]) -> list[Any]:
    runs = [run for plan_id in plans for run in one.runs(plan_id)]
    return [run for run in runs if run["status"] in _UNDER_WAY]


def are_between(runs: Iterable[Any]) -> bool:
    return any(run["status"] in _BETWEEN for run in runs)


def left_behind(one: Installation, plans: Iterable[str], before: Iterable[Any]) -> list[Any]:
    """Gives those that were under way, are not over, and have no workflow."""
    return asyncio.run(_left_behind(one, plans, before))


async def _left_behind(one: Installation, plans: Iterable[str], before: Iterable[Any]) -> list[Any]:
    client = await Client.connect(f"127.0.0.1:{one.beside.temporal_port}", namespace="knit")
    unknown = [run for run in before if not await is_known(client, run)]
    runs = {run["runId"]: run for plan_id in plans for run in one.runs(plan_id)}
    return [run for run in unknown if runs[run["runId"]]["status"] not in _FINAL]


async def is_known(client: Client, run: Any) -> bool:
    """Says whether Temporal has the workflow of a Run's generation."""
    workflow_id = names.run_workflow(run["runId"], run["generation"])
    try:
        await client.get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        raise
    return True
