"""What is left of the lineage when the database is lost: beside volumes, and in Temporal.

Each volume of a Run has an origin beside it: which Run made it, of which Plan and Data. How a Run
has ended Temporal knows for as long as it keeps histories.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.service import RPCError, RPCStatusCode

from knit_workflows import names
from knit_workflows.compute.base import ComputeBackend, FoundVolume
from knit_workflows.contracts.runs import RunResult
from knit_workflows.domain.ids import is_id
from knit_workflows.domain.instants import parse_instant
from knit_workflows.domain.runs.run import LOST, RunStatus

_AT_ONCE: Final = 16
_VERSION: Final = 1
REBUILT: Final = "rebuilt from its volumes"
_UNKNOWN: Final = (
    "rebuilt from its volumes; how it has ended is not known: knit run retry, or look at its Data"
)


@dataclass
class RebuiltRun:
    """A Run as its volumes tell of it: its Plan, and Data by position.

    `volumes`: those of its outputs by Data; none where a knit has made them that did not say so.
    `status` is final; `ended` is when Temporal has closed it, else when its newest volume was made.
    """

    run_id: str
    generation: int
    plan_id: str
    digest: str
    priority: int
    created: str
    inputs: list[tuple[int, str]]
    outputs: list[tuple[int, str]]
    volumes: dict[str, str] = field(default_factory=dict)
    status: RunStatus = RunStatus.FAILED
    exit_code: int | None = LOST.code
    exit_message: str | None = _UNKNOWN
    ended: datetime | None = None
    known: bool = False
    """Whether Temporal knows how it has ended, or another Run has used what it made."""
    has_not_ended: bool = False
    """Temporal says that it did not come to its end by itself: it is not taken for done."""


@dataclass
class Remains:
    """Everything that was found; `missing` maps what is known to be missing to how many."""

    plans: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, RebuiltRun] = field(default_factory=dict)
    volumes: dict[str, datetime] = field(default_factory=dict)
    """The volumes that there are, with when they were made."""
    used: dict[str, str] = field(default_factory=dict)
    """The volumes of Data that Runs have used, by Data."""
    missing: dict[str, int] = field(default_factory=dict)
    _discarded: set[str] = field(default_factory=set)
    _made: dict[str, str] = field(default_factory=dict)
    """The Data in volumes of Runs, by volume, as origins say it."""
    _used_at: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)
    """When the newest Run that has used a Data was made, and then a volume of it."""
    _described: dict[str, datetime] = field(default_factory=dict)
    """When the volume was made whose origin describes a Plan: the newest."""

    def add(self, found: FoundVolume) -> None:
        """Takes a volume, and what its origin says."""
        made = found.created_at or datetime.now(UTC)
        self.volumes[found.name] = made
        if not found.origin:
            return
        try:
            run, plan, used = _parsed(found.origin)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            self._count("volumes with an origin that cannot be read")
            return
        self._made |= {volume: knit_id for knit_id, volume in run.volumes.items()}
        before = self.runs.get(run.run_id)
        if before is not None and before.generation > run.generation:
            self._discarded.update(knit_id for _, knit_id in run.outputs)
            return
        if before is not None and before.generation < run.generation:
            # A retry has discarded what the earlier generation made.
            self._discarded.update(knit_id for _, knit_id in before.outputs)
            before = None
        # After a restore the same one may have gone again, with other volumes.
        if before is None or before.ended is None or made >= before.ended:
            self.runs[run.run_id], run.ended = run, made
        if made >= self._described.get(run.plan_id, made):
            self.plans[run.plan_id], self._described[run.plan_id] = plan, made
        at = (parse_instant(run.created), made)
        for knit_id, volume in used.items():
            if at >= self._used_at.get(knit_id, at):
                self.used[knit_id], self._used_at[knit_id] = volume, at

    def leave_out(self, volumes: Iterable[str]) -> None:
        """Leaves out volumes that are kept for something else, or are about to be deleted."""
        for name in volumes:
            self.volumes.pop(name, None)

    def volume_of(self, run: RebuiltRun, knit_id: str) -> str:
        """Gives where a Data is that a Run has made.

        Data of Runs that waited when they were restored have volumes that are not called after
        them. Where their own origin does not say so, that of a Run may that has used them.
        """
        used = self.used.get(knit_id, "")
        known = used if names.is_own_volume(used) else names.volume(knit_id)
        return run.volumes.get(knit_id, known)

    def uploads(self) -> dict[str, str]:
        """Gives the volumes of Data that no known Run has made, by Data.

        Those are uploads and imports, adopted volumes that Runs have used, and what Runs have made
        whose origin is lost.
        """
        made = {knit_id for run in self.runs.values() for _, knit_id in run.outputs}
        named = set(self.used.values())
        found = {k: volume for k, volume in self.used.items() if k not in made}
        made |= self._discarded
        for name in self.volumes:
            knit_id = self._made.get(name, name.removeprefix(names.volume("")))
            if name not in named and knit_id not in made and is_id(knit_id):
                found[knit_id] = name
        return found

    def readopted(self) -> set[str]:
        """Gives Data of adopted volumes that others were made of later.

        A volume is adopted again only once its Data is purged: of each, the one is left that was
        used last.
        """
        adopted = {k: volume for k, volume in self.used.items() if not names.is_own_volume(volume)}
        by_use = sorted(adopted, key=lambda knit_id: self._used_at[knit_id])
        newest = {adopted[knit_id]: knit_id for knit_id in by_use}
        return adopted.keys() - newest.values()

    def settle(self, *, unknown_is_done: bool) -> None:
        """Decides how Runs have ended of which Temporal knows nothing any more."""
        self._drop_twins()
        self._drop_repeated()
        for run in self.runs.values():
            has_use = any(knit_id in self.used for _, knit_id in run.outputs)
            if not run.known and (has_use or (unknown_is_done and not run.has_not_ended)):
                run.status, run.exit_code, run.exit_message = RunStatus.DONE, 0, REBUILT
            run.known = run.known or has_use
        unknown = sum(not run.known for run in self.runs.values())
        if unknown:
            self.missing["Runs of which nobody knows how they have ended"] = unknown

    def _drop_twins(self) -> None:
        """Leaves out a Plan that was registered anew in another database: one has an identity once.

        The newest stays; what the Runs of the others have made are Data without a Run.
        """
        newest: dict[str, str] = {}
        for plan_id, plan in sorted(self.plans.items(), key=lambda one: one[1]["created_at"]):
            newest[plan["identity_hash"]] = plan_id
        kept = set(newest.values())
        for run_id in [key for key, run in self.runs.items() if run.plan_id not in kept]:
            del self.runs[run_id]
            self._count("Runs of Plans that were registered once more")
        self.plans = {key: plan for key, plan in self.plans.items() if key in kept}

    def _drop_repeated(self) -> None:
        """Leaves out a Run whose combination was executed again, as after a restore.

        The newest stays; what the others have made are Data without a Run.
        """
        newest: dict[tuple[str, str], str] = {}
        for run in sorted(self.runs.values(), key=lambda one: parse_instant(one.created)):
            newest[run.plan_id, run.digest] = run.run_id
        kept = set(newest.values())
        for run_id in self.runs.keys() - kept:
            del self.runs[run_id]
            self._count("Runs of combinations that were executed once more")

    def _count(self, what: str) -> None:
        self.missing[what] = self.missing.get(what, 0) + 1


def _parsed(origin: str) -> tuple[RebuiltRun, dict[str, Any], dict[str, str]]:
    """Reads an origin; whoever may change a volume's annotations may have written anything.

    Raises:
        ValueError, KeyError, TypeError, OverflowError, RecursionError: it is none.
    """
    value = json.loads(origin)
    if value["version"] != _VERSION:
        raise ValueError("it is of another version")
    if _has_nul(value):
        raise ValueError("it has a character that PostgreSQL cannot keep")
    about, plan = value["run"], value["plan"]
    inputs = [(_number(position, 16), str(knit_id)) for position, knit_id, _ in value["inputs"]]
    run = RebuiltRun(
        run_id=_id(about["run_id"]),
        generation=_number(about["generation"]),
        plan_id=_id(plan["plan_id"]),
        digest=bytes.fromhex(about["assignment_hash"]).hex(),
        priority=_number(about["priority"]),
        created=str(about["created_at"]),
        inputs=[(position, _id(knit_id)) for position, knit_id in inputs],
        outputs=[(_number(position, 16), _id(knit_id)) for position, knit_id in value["outputs"]],
        volumes={_id(key): _own(name) for key, name in dict(value.get("volumes", {})).items()},
    )
    parse_instant(run.created)
    for key in ("identity_hash", "created_at", "inputs", "outputs"):
        plan[key]
    return run, plan, {knit_id: str(volume) for _, knit_id, volume in value["inputs"]}


def _has_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_nul, (*value, *value.values())))
    if isinstance(value, list):
        return any(map(_has_nul, value))
    return isinstance(value, str) and "\0" in value


def _number(value: Any, bits: int = 32) -> int:
    """Reads a number that fits into its column: else nothing could be written at all."""
    if not -(1 << bits - 1) <= (number := int(value)) < 1 << bits - 1:
        raise ValueError("it has a number out of range")
    return number


def _id(value: str) -> str:
    if not is_id(value):
        raise ValueError("it has no id")
    return value


def _own(volume: str) -> str:
    if not names.is_own_volume(volume):
        raise ValueError("it has made a volume that is not knit's")
    return volume


async def find_remains(
    backend: ComputeBackend,
    client: Client,
    held: Callable[[], set[str]],
    *,
    unknown_is_done: bool,
) -> Remains:
    """Reads all volumes, and asks Temporal how their Runs have ended.

    `held`: reads which volumes the empty database has for uploads to come, or to delete. They come
    and go meanwhile, so that it is called before volumes are listed, and afterwards.

    Raises:
        BackendUnavailable: volumes cannot be listed.
        RPCError: Temporal does not answer.
    """
    remains = Remains()
    kept = await asyncio.to_thread(held)
    async with aclosing(backend.own_volumes(with_origins=True)) as found:
        async for one in found:
            remains.add(one)
    remains.leave_out(kept | await asyncio.to_thread(held))
    gate = asyncio.Semaphore(_AT_ONCE)

    async def ask(run: RebuiltRun) -> None:
        async with gate:
            await _ask_temporal(client, run)

    await asyncio.gather(*map(ask, remains.runs.values()))
    remains.settle(unknown_is_done=unknown_is_done)
    others = {run_id async for run_id in _runs_of_temporal(client) if run_id not in remains.runs}
    if others:
        remains.missing["Runs that Temporal knows and no volume tells of"] = len(others)
    return remains


async def _ask_temporal(client: Client, run: RebuiltRun) -> None:
    """Takes over how a Run has ended, if Temporal still knows."""
    workflow_id = names.run_workflow(run.run_id, run.generation)
    handle = client.get_workflow_handle(workflow_id, result_type=RunResult)
    try:
        described = await handle.describe()
        if described.status is not WorkflowExecutionStatus.COMPLETED:
            run.has_not_ended = True
            return
        result = await handle.result()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return
    except WorkflowFailureError:
        run.has_not_ended = True
        return
    if result.status in (RunStatus.DONE, RunStatus.FAILED):
        run.status, run.known = RunStatus(result.status), True
        run.exit_code, run.exit_message = result.exit_code, result.exit_message
        run.ended = described.close_time or run.ended
    else:  # it was superseded
        run.has_not_ended = True


async def _runs_of_temporal(client: Client) -> AsyncIterator[str]:
    async for one in client.list_workflows(f"WorkflowType = '{names.RUN_WORKFLOW}'"):
        if (key := names.run_of_workflow(one.id)) is not None:
            yield key[0]


def counts(remains: Remains, uploads: Iterable[str]) -> dict[str, int]:
    """Gives how many there are of what would be rebuilt."""
    runs = remains.runs.values()
    uploaded = list(uploads)
    return {
        "Plans": len(remains.plans),
        "Runs done": sum(run.status is RunStatus.DONE for run in runs),
        "Runs failed": sum(run.status is RunStatus.FAILED for run in runs),
        "Data of Runs": sum(len(run.outputs) for run in runs),
        "Data without a known Run": len(uploaded),
        "edges": sum(len(run.inputs) for run in runs),
    }
