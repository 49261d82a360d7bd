"""What must hold of a site whenever it has come to rest, whatever was done to it before."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg

from knit_workflows import names
from knit_workflows.domain.ids import RunId
from tests.chaos.campaign.site import Site
from tests.chaos.campaign.work import KINDS, PROGRAMS, Program, Push, Workload
from tests.chaos.hook_record import assert_kept

REST: Final = 600.0
"""Seconds within which everything comes to rest once nothing is broken any more."""
_HOOKS_REST: Final = 300.0
_LOOK: Final = 0.5
_FINAL: Final = ("done", "failed")
_PASSING: Final = (names.PROJECTOR_WORKFLOW, names.GC_WORKFLOW, names.HOUSEKEEPING_WORKFLOW)

_RUNS: Final = """
SELECT run.run_id::text, plan_id::text, generation, status, exit_code, exit_message, name,
       ARRAY(SELECT knit_id::text FROM run_input WHERE run_input.run_id = run.run_id) AS inputs
FROM run JOIN plan USING (plan_id) WHERE status <> 'invalidated'
"""
_ACTIVE: Final = """
SELECT run_id::text FROM run WHERE status NOT IN ('done', 'failed', 'invalidated', 'deactivated')
"""
_DATA: Final = """
SELECT knit_id::text, data.run_id::text, volume, is_log, status
FROM data JOIN plan_output USING (output_id) JOIN run ON run.run_id = data.run_id
"""


async def touched_since(site: Site, event: int) -> set[str]:
    """Gives the Runs that are under way, or have been since an event."""
    query = f"{_ACTIVE} UNION SELECT run_id::text FROM run_event WHERE event_id > %s"
    return {one["run_id"] for one in await site.ask_patiently(query, event)}


async def last_event(site: Site) -> int:
    """Gives the number of the last event of any Run."""
    [row] = await site.ask_patiently("SELECT coalesce(max(event_id), 0) AS last FROM run_event")
    return int(row["last"])


class Compute(Protocol):
    """The back-end seen from outside."""

    async def volumes(self) -> Mapping[str, Path]:
        """Gives the folders that are volumes now, by name."""
        ...

    async def remains(self) -> list[str]:
        """Gives what there is of pods, transfers and processes; nothing at rest."""
        ...


@dataclass
class Ledger:
    """What earlier looks have found, and what faults have excused."""

    hashes: dict[str, str] = field(default_factory=dict)
    """Of the content of each done Data."""
    disturbed: dict[str, str] = field(default_factory=dict)
    """Runs whose own program or pod a fault has hit, and how: these may have failed by right."""
    lost: dict[str, bool] = field(default_factory=dict)
    """Data whose volume a fault has deleted; True: while the program that makes it was running."""
    hooks_checked: set[str] = field(default_factory=set)

    def excuses(self, name: str) -> bool:
        """Says whether a client may be refused what it asks about this Data or Run."""
        return name in self.lost or name in self.disturbed


@dataclass
class Found:
    """One look at everything."""

    runs: list[dict[str, Any]]
    data: list[dict[str, Any]]
    volumes: Mapping[str, Path]

    def of(self, plan_id: str, knit_id: str) -> list[dict[str, Any]]:
        """Gives the Runs of a Plan on a Data."""
        return [one for one in self.runs if one["plan_id"] == plan_id and knit_id in one["inputs"]]

    def output(self, run_id: str, *, log: bool = False) -> dict[str, Any] | None:
        """Gives the output of a Run, or its log."""
        own = [one for one in self.data if one["run_id"] == run_id and one["is_log"] is log]
        return own[0] if own else None

    def text(self, data: Mapping[str, Any] | None, name: str) -> str | None:
        """Reads a file of a Data; None: it is not there."""
        folder = None if data is None else self.volumes.get(data["volume"])
        with suppress(OSError):
            return None if folder is None else (folder / name).read_text()
        return None


async def come_to_rest(site: Site, compute: Compute) -> list[str]:
    """Waits until nothing is under way or left over; gives what still is when it does not end."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + REST
    async with await psycopg.AsyncConnection.connect(site.url, autocommit=True) as heard:
        await heard.execute(f"LISTEN {names.RUN_CHANNEL}")
        while unrest := await _unrest(site, compute):
            if loop.time() > ends:
                return unrest
            async for _ in heard.notifies(timeout=_LOOK, stop_after=1):
                pass
    return []


async def _unrest(site: Site, compute: Compute) -> list[str]:
    """Says what is under way; the cheap questions first."""
    [counts] = await site.ask(
        "SELECT (SELECT count(*) FROM outbox) AS outbox, (SELECT count(*) FROM transfer) AS"
        " transfer, (SELECT count(*) FROM discarded) AS discarded"
    )
    unrest = [f"{number} rows of {table}" for table, number in counts.items() if number]
    active = await site.ask(
        "SELECT run_id::text, status, generation, holdup FROM run"
        " WHERE status NOT IN ('done', 'failed', 'invalidated', 'deactivated')"
    )
    unrest += [f"Run {json.dumps(one, default=str)}" for one in active]
    if unrest:
        return unrest
    unrest = await compute.remains()
    known = {one["volume"] for one in await site.ask(_DATA)}
    unrest += [f"volume {one}" for one in sorted(set(await compute.volumes()) - known)]
    if unrest:
        return unrest
    async for one in site.temporal.list_workflows("ExecutionStatus = 'Running'"):
        if one.workflow_type not in _PASSING:
            unrest.append(f"workflow {one.id}")
    return unrest


async def look(site: Site, compute: Compute) -> Found:
    """Reads what is there."""
    return Found(await site.ask(_RUNS), await site.ask(_DATA), await compute.volumes())


async def check(site: Site, work: Workload, ledger: Ledger, found: Found) -> list[str]:
    """Gives each violation in words."""
    _excuse_readers(ledger, found)
    wrong = [what for what, about in work.wrong if not ledger.excuses(about)]
    work.wrong.clear()
    expected: Counter[tuple[str, str]] = Counter()
    for push in work.pushes:
        wrong += _check_push(work, ledger, found, push, expected)
    wrong += _check_edges(work, found, expected)
    wrong += _check_uploads(work, found)
    wrong += _check_contents(ledger, found)
    wrong += await _check_hooks(site, ledger, found)
    return wrong


def _excuse_readers(ledger: Ledger, found: Found) -> None:
    """What reads a Data that was lost may fail, if it had to."""
    for one in found.runs:
        if any(knit_id in ledger.lost for knit_id in one["inputs"]):
            ledger.disturbed.setdefault(one["run_id"], "its input was deleted")


def _check_push(
    work: Workload,
    ledger: Ledger,
    found: Found,
    push: Push,
    expected: Counter[tuple[str, str]],
) -> list[str]:
    """Follows what was pushed through the Plans that eat it; `expected` collects the edges."""
    wrong: list[str] = []
    knit_id, word = push.knit_id, push.word
    for name in KINDS[push.kind]:
        if not knit_id:
            return wrong
        expected[work.plans[name], knit_id] += 1
        runs = found.of(work.plans[name], knit_id)
        if len(runs) != 1:
            return [*wrong, f"{len(runs)} Runs of {name} on {knit_id}: {runs}"]
        [run] = runs
        wrong += _check_run(PROGRAMS[name], push, word, run, ledger, found)
        output = found.output(run["run_id"])
        word = PROGRAMS[name].result(word) or ""
        knit_id = output["knit_id"] if output and run["status"] == "done" else ""
    return wrong


def _check_run(
    program: Program,
    push: Push,
    word: str,
    run: dict[str, Any],
    ledger: Ledger,
    found: Found,
) -> list[str]:
    """Looks at how a Run has ended, how often its program has run, what it has made and said."""
    about = f"Run {run['run_id']} of {program.name}"
    wrong: list[str] = []
    disturbed = ledger.disturbed.get(run["run_id"], "")
    failed = program.code or push.stop == "abort"
    statuses = {"failed" if failed else "done"} | ({"failed"} if disturbed else set())
    if run["status"] not in statuses:
        told = f"{run['status']} ({run['exit_code']}, {run['exit_message']})"
        wrong.append(f"{about} is {told}, not {' or '.join(sorted(statuses))}")
    if program.code and not disturbed and run["exit_code"] != program.code:
        wrong.append(f"{about} has the exit code {run['exit_code']}")
    output = found.output(run["run_id"])
    knit_id = output["knit_id"] if output else ""
    if run["status"] == "done" and knit_id in ledger.lost and not program.stopped:
        there = output is not None and output["volume"] in found.volumes
        if ledger.lost[knit_id] and not there:
            wrong.append(f"{about} is done, although its output was deleted while it was running")
        return wrong
    counter = found.text(output, "counter")
    # What is done is whole, whatever was done to it.
    ended = not program.stopped and (run["status"] == "done" or not disturbed)
    if counter not in (("x\n",) if ended else ("x\n", "", None)):
        wrong.append(f"{about}: its program was started {(counter or '').count('x')} times")
    result = program.result(word)
    if ended and result is not None and found.text(output, "word") != result:
        wrong.append(f"{about} has made {found.text(output, 'word')!r}, not {result!r}")
    if not ended or disturbed:
        return wrong
    if not push.retries <= run["generation"] - 1 <= push.retries + push.perhaps:
        wrong.append(f"{about} is in generation {run['generation']}, retried {push.retries} times")
    said = found.text(found.output(run["run_id"], log=True), "log")
    says = program.says.format(word=word.replace("\n", " ").strip())
    if said != says:
        wrong.append(f"{about} has said {said!r}, not {says!r}")
    return wrong


def _check_edges(work: Workload, found: Found, expected: Counter[tuple[str, str]]) -> list[str]:
    edges = Counter((one["plan_id"], knit_id) for one in found.runs for knit_id in one["inputs"])
    by_id = {plan_id: name for name, plan_id in work.plans.items()}
    return [
        f"{word} edge {by_id.get(plan_id, plan_id)} <- {knit_id}"
        for word, difference in (("extra", edges - expected), ("lost", expected - edges))
        for plan_id, knit_id in difference
    ]


def _check_uploads(work: Workload, found: Found) -> list[str]:
    """Each upload has made one Data; what clients have given up, none."""
    done = {
        one["knit_id"]
        for one in found.data
        if one["status"] == "done" and one["run_id"] in _uploads(found)
    }
    wanted = {push.knit_id for push in work.pushes if push.knit_id}
    given_up = sum(not push.knit_id for push in work.pushes)
    wrong = [f"pushed Data {one} is not done" for one in sorted(wanted - done)]
    extra = sorted(done - wanted)
    return wrong + ([f"Data that nobody has pushed: {extra}"] if len(extra) > given_up else [])


def _uploads(found: Found) -> set[str]:
    return {one["run_id"] for one in found.runs if one["name"] is not None}


def _check_contents(ledger: Ledger, found: Found) -> list[str]:
    """What is done has a volume, whose content never changes."""
    wrong = []
    hashes = {}
    for one in found.data:
        if one["status"] != "done":
            continue
        folder = found.volumes.get(one["volume"])
        if folder is None:
            if one["knit_id"] not in ledger.lost:
                wrong.append(f"Data {one['knit_id']} is done and has no volume")
            continue
        hashes[one["knit_id"]] = now = _hash(folder)
        before = ledger.hashes.get(one["knit_id"], now)
        if before != now:
            wrong.append(f"Data {one['knit_id']} was changed after it was done")
    ledger.hashes = hashes
    return wrong


def _hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path.relative_to(folder)} {path.lstat().st_mode}\0".encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def wrong_logs(work: Workload, ledger: Ledger) -> list[str]:
    """Judges the logs that were followed; of a program that a fault has hit, as far as it came."""
    wrong = []
    for run_id, seen, expected in work.followed:
        if seen != expected and not (run_id in ledger.disturbed and expected.startswith(seen)):
            wrong.append(f"followed log of {run_id}: {seen!r}, not {expected!r}")
    work.followed.clear()
    return wrong


async def _check_hooks(site: Site, ledger: Ledger, found: Found) -> list[str]:
    """Of Runs that have begun and ended under hooks."""
    if not site.calls_hooks:
        ledger.hooks_checked |= {one["run_id"] for one in found.runs}
        return []
    wrong = []
    for one in found.runs:
        run_id = one["run_id"]
        if run_id in ledger.hooks_checked:
            continue
        ledger.hooks_checked.add(run_id)
        if one["name"] is not None or one["generation"] > 1 or run_id in ledger.disturbed:
            continue
        if broken := await _broken_promise(site, RunId(run_id)):
            wrong.append(f"hooks of Run {run_id}: {broken[:600]!r}")
    return wrong


async def _broken_promise(site: Site, run_id: RunId) -> str:
    """Says what is not kept of the promises about hooks; After hooks are told a little later."""
    ends = asyncio.get_running_loop().time() + _HOOKS_REST
    while True:
        try:
            await assert_kept(site.store, run_id, site.hooks)
        except AssertionError as broken:
            if asyncio.get_running_loop().time() > ends:
                return str(broken) or "not kept"
        else:
            return ""
        await asyncio.sleep(_LOOK)


async def evidence(site: Site, ids: Mapping[str, object]) -> dict[str, object]:
    """Gives the events of Runs, and the pending activities of their workflows."""
    told: defaultdict[str, list[object]] = defaultdict(list)
    for run_id in ids:
        events = await site.ask(
            "SELECT at, generation, from_status, to_status, cause FROM run_event"
            " WHERE run_id = %s ORDER BY event_id",
            run_id,
        )
        told[run_id] += [" ".join(str(value) for value in one.values()) for one in events]
        [row] = await site.ask("SELECT generation FROM run WHERE run_id = %s", run_id)
        handle = site.temporal.get_workflow_handle(names.run_workflow(run_id, row["generation"]))
        with suppress(Exception):  # there may be none
            description = (await handle.describe()).raw_description
            told[run_id] += [
                f"{one.activity_type.name} attempt {one.attempt}: {one.last_failure.message}"
                for one in description.pending_activities
            ]
    return dict(told)
