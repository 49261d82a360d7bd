"""`python -m knit_workflows.operations.quiescence`: which Runs are under way; ends them.

`knit admin freeze` runs it in a pod: `show` prints what is under way, `fail` first ends as failed
the Runs that have a container. It prints one JSON object: `statuses`, how many Runs there are of
each status, `runs`, the ids of some of them, and `stopped`, how many it has ended just now.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from knit_workflows.domain.errors import IllegalMove, RunNotFound, StoreUnavailable
from knit_workflows.domain.ports import RunStore
from knit_workflows.domain.runs.run import RunQuery, RunStatus
from knit_workflows.settings import SettingsRefused, read_settings
from knit_workflows.store import PostgresStore

ENDED_BY_FORCE: Final = (RunStatus.READY, RunStatus.STARTING, RunStatus.RUNNING)
"""Runs of these statuses are ended, if they have a container."""
UNDER_WAY: Final = (*ENDED_BY_FORCE, RunStatus.ABORTING, RunStatus.COMPLETING)
"""As long as there is one of these, uploads and imports included, knit is not at rest."""
_NAMED: Final = 20


async def fail_runs(runs: RunStore, actor: str) -> int:
    """Ends the Runs with a container that hold resources; gives their number.

    One that ends by itself meanwhile is fine.
    """
    stopped = 0
    for run in await runs.find(RunQuery(statuses=frozenset(ENDED_BY_FORCE))):
        if run.summary.plan.image is None:
            continue  # an upload ends with its client, an import with its importer
        try:
            await runs.stop(run.summary.run_id, fail=True, actor=actor)
        except (IllegalMove, RunNotFound):
            continue
        stopped += 1
    return stopped


async def under_way(runs: RunStore) -> dict[str, Any]:
    """Gives how many Runs are under way by status, and the ids of the first of them."""
    found = await runs.find(RunQuery(statuses=frozenset(UNDER_WAY)))
    counted = Counter(run.summary.status for run in found)
    return {
        "statuses": {status.value: counted[status] for status in UNDER_WAY if counted[status]},
        "runs": [run.summary.run_id for run in found[:_NAMED]],
    }


async def _work(actor: str | None) -> int:
    store = PostgresStore(read_settings().store)
    try:
        await store.open()
        stopped = 0 if actor is None else await fail_runs(store.runs, actor)
        found = {**await under_way(store.runs), "stopped": stopped}
    finally:
        await store.aclose()
    sys.stdout.write(f"{json.dumps(found)}\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Does it; 1 without a database, with the reason on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m knit_workflows.operations.quiescence", description=__doc__
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("show")
    fail = verbs.add_parser("fail")
    fail.add_argument("--by", required=True, help="who does it, for the Runs' histories")
    given = parser.parse_args(arguments)
    try:
        return asyncio.run(_work(given.by if given.verb == "fail" else None))
    except SettingsRefused as refused:
        parser.error(str(refused))
    except StoreUnavailable as error:
        sys.stderr.write(f"error: {error.reason}\nhint: {error.advice or 'look at its log'}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
