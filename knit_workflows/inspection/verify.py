"""`python -m knit_workflows.inspection.verify`: compares database, Temporal and back-end.

`knit admin verify` runs it where all three are within reach: in a pod of a worker, or beside
`knit dev`. It prints a JSON object per line: `finding`s as they are found, then `repaired` or
`not_repaired` for what it was asked to mend, at last `counted`. It ends with 0 whatever it found.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, Final

from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError

from knit_workflows.compute.base import ComputeBackend
from knit_workflows.domain.errors import KnitError
from knit_workflows.domain.ports import Store
from knit_workflows.inspection.database_checks import check_edges
from knit_workflows.inspection.engine_checks import EngineChecks
from knit_workflows.inspection.findings import Finding, Repair
from knit_workflows.inspection.volume_checks import VolumeChecks
from knit_workflows.plugin import Deps
from knit_workflows.settings import Settings, SettingsRefused, read_settings
from knit_workflows.start_up import reach_namespace, run_and_leave, seconds
from knit_workflows.temporal.connection import client_config
from knit_workflows.upkeep.keeper import Keeper
from knit_workflows.worker import deps_from

GRACE: Final = timedelta(minutes=1)
_TURN: Final = 300.0
"""Seconds that the reconciliation may take."""
_FAILURES: Final = (KnitError, RPCError, RuntimeError, TimeoutError)


class Verification:
    """One comparison. `counted` says how many there were of what was compared."""

    def __init__(
        self, store: Store, backend: ComputeBackend, client: Client, *, grace: timedelta = GRACE
    ) -> None:
        self.counted: Counter[str] = Counter()
        self._store = store
        self._engine = EngineChecks(client, store, self.counted, grace)
        self._volumes = VolumeChecks(backend, store, self.counted, grace)

    async def findings(self) -> AsyncIterator[Finding]:
        """Gives what disagrees, as it is found; a check that is not possible is a finding too."""
        checks = {
            "edges": check_edges(self._store.agreement, self.counted),
            "upkeep": self._engine.upkeep(),
            "runs": self._engine.runs(),
            "workflows": self._engine.workflows(),
            "transfers": self._engine.transfers(),
            "pods": self._volumes.pods(),
            "volumes": self._volumes.volumes(),
        }
        for name, check in checks.items():
            try:
                async for one in check:
                    yield one
            except _FAILURES as error:
                cure = getattr(error, "advice", None) or "see that it is up, then verify again"
                yield Finding(
                    name, "the check itself", f"it was not possible: {_words(error)}", cure
                )


async def repair(
    findings: Sequence[Finding], client: Client, keeper: Keeper, *, grace: timedelta = GRACE
) -> AsyncIterator[tuple[str, str]]:
    """Mends what needs no decision; gives each step, and why it failed (empty: it did not)."""
    kinds = {one.repair for one in findings}
    if Repair.UPKEEP in kinds:
        yield "Projector and schedules are made", await _tried(keeper.ensure())
    for one in findings:
        if one.repair is Repair.TERMINATE:
            handle = client.get_workflow_handle(one.subject)
            yield f"{one.subject} is terminated", await _tried(handle.terminate(one.message))
    if Repair.RECONCILE in kinds:

        async def reconcile() -> None:
            async with asyncio.timeout(_TURN):
                await (await keeper.reconcile(grace=grace)).result()

        yield "the reconciliation has had a turn", await _tried(reconcile())


async def _tried(step: Any) -> str:
    try:
        await step
    except (*_FAILURES, WorkflowFailureError) as error:
        return _words(error)
    return ""


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it did not end in time; do workers with the roles engine and compute run?"
    return getattr(error, "reason", "") or str(error) or type(error).__name__


def _line(kind: str, value: Any) -> None:
    sys.stdout.write(f"{json.dumps({kind: value}, ensure_ascii=False)}\n")
    sys.stdout.flush()


async def opened(settings: Settings, stack: AsyncExitStack) -> tuple[Client, Deps]:
    """Connects to all three parts, until the stack is closed; raises KnitError."""
    client = await reach_namespace(client_config())
    deps = deps_from(settings)
    await stack.enter_async_context(deps.opened())
    return client, deps


async def verify(*, repairs: bool, grace: timedelta) -> int:
    """Prints what it finds; gives the exit code: 1 if it could not begin."""
    async with AsyncExitStack() as stack:
        try:
            client, deps = await opened(read_settings(), stack)
        except (KnitError, SettingsRefused) as error:
            reason = getattr(error, "reason", "") or str(error)
            _line("problem", {"reason": reason, "advice": getattr(error, "advice", None)})
            return 0
        verification = Verification(deps.store, deps.backend, client, grace=grace)
        repairable = []
        async for one in verification.findings():
            _line("finding", one.as_json())
            if one.repair is not None:
                repairable.append(one)
        if repairs:
            steps = repair(repairable, client, deps.keeper(client), grace=grace)
            async for step, failure in steps:
                _line("not_repaired" if failure else "repaired", f"{step}: {failure}".rstrip(": "))
        _line("counted", dict(verification.counted))
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, verifies, and leaves the process."""
    parser = argparse.ArgumentParser(
        prog="python -m knit_workflows.inspection.verify", description=__doc__
    )
    parser.add_argument("--repair", action="store_true", help="mend what needs no decision")
    parser.add_argument(
        "--grace",
        type=seconds,
        default=GRACE,
        metavar="SECONDS",
        help="what is younger is left alone (default: 60)",
    )
    options = parser.parse_args(arguments)
    run_and_leave(verify(repairs=options.repair, grace=options.grace))


if __name__ == "__main__":
    main()
