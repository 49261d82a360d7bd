"""What knit does, in plain Python: the specification that the real system is compared with.

Ids are numbers, never used twice. What is refused raises `Refused` with the HTTP status of the
answer and changes nothing. Tags are texts; the pins of an input (`knit#id:3`) are tags like others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count, pairwise, product
from typing import TypeVar

MOVES = {
    "deactivated": ["waiting", "aborting"],
    "waiting": ["deactivated", "ready", "aborting"],
    "ready": ["starting", "running", "aborting", "completing"],
    "starting": ["running", "aborting", "completing"],
    "running": ["aborting", "completing"],
    "completing": ["done"],
    "aborting": ["failed"],
} | {final: [] for final in ("done", "failed", "invalidated")}
SYSTEM, PINS = "knit#", ("knit#id:", "knit#timestamp:")
LOG = "(log)"  # stands for the path of a log
UPLOADED, IMPORTED = "knit#uploaded", "knit#imported"
PLACES = {UPLOADED: "/upload", IMPORTED: "/imported"}
Mounts = tuple[tuple[str, frozenset[str]], ...]  # paths with their tags, in path order
T = TypeVar("T")


class Refused(Exception):
    status = property(lambda self: self.args[0])


@dataclass(frozen=True)
class Spec:
    """A Plan as its user writes it; two that are equal are equivalent."""

    image: str
    inputs: Mounts
    outputs: Mounts
    active: bool = field(default=True, compare=False)

    def well_formed(self) -> bool:
        required = [tags for _, tags in self.inputs]
        paths = sorted(path + "/" for path, _ in [*self.inputs, *self.outputs])
        return (
            bool(required)
            and all(required)
            and not any(inner.startswith(outer) for outer, inner in pairwise(paths))
            and all(tag.startswith(PINS) or SYSTEM not in tag for one in required for tag in one)
            and not any(tag.startswith(SYSTEM) for _, tags in self.outputs for tag in tags)
        )

    def feeds(self, other: Spec) -> bool:
        """Only declared tags count; nobody feeds an input with a pin."""
        required = [
            tags for _, tags in other.inputs if not any(tag.startswith(SYSTEM) for tag in tags)
        ]
        return any(requirement <= tags for _, tags in self.outputs for requirement in required)


@dataclass
class Plan:
    id: int
    spec: Spec
    active: bool


@dataclass
class Run:
    """`source` is what there is instead of a Plan; `late`: an import whose time is over.

    `admitted`, `started`: how far the engine is with this generation.
    """

    id: int
    plan: Plan | None
    inputs: tuple[int, ...]
    status: str
    source: str = ""
    late: bool = False
    exit: int | None = None
    generation: int = 1
    admitted: bool = False
    started: bool = False
    stop_ordered: bool = False
    relaunches: int = 0
    outputs: dict[str, int | None] = field(default_factory=dict)
    history: list[tuple[int, str | None, str]] = field(default_factory=list)

    def move(self, target: str) -> None:
        self.history.append((self.generation, self.status, target))
        self.status = target

    def begin_anew(self, generation: int) -> None:
        self.generation = generation
        self.move("waiting" if self.plan and self.plan.active else "deactivated")
        self.admitted = self.started = self.stop_ordered = False


@dataclass
class Data:
    id: int
    run: Run
    tags: frozenset[str]
    timestamp: str | None = None
    transfers: int = 0
    adopted: int | None = None  # which volume of others it is
    purged: bool = False

    def shown_tags(self) -> frozenset[str]:
        state = {"failed": "failed", "done": None}.get(self.run.status, "processing")
        state = "purged" if self.purged else state
        system = {"id": str(self.id), "timestamp": self.timestamp, "transient": state}
        return self.tags | {SYSTEM + f"{key}:{value}" for key, value in system.items() if value}

    def fills(self, requirement: frozenset[str]) -> bool:
        done = self.run.status == "done" and not self.purged
        return done and requirement <= self.shown_tags()


class Model:
    """All there is: first what users do, from `project` on what the engine does.

    `clock` says when a Run got done or failed: only the real system knows that.
    """

    def __init__(self, clock: Callable[[Run], str]) -> None:
        self.plans: dict[int, Plan] = {}
        self.runs: dict[int, Run] = {}
        self.data: dict[int, Data] = {}
        self._ids, self._clock = count(1), clock

    def register(self, spec: Spec) -> Plan:
        others = [plan.spec for plan in self.plans.values()]
        if not spec.well_formed():
            raise Refused(400)
        reached = [spec]
        for one in reached:
            if one.feeds(spec) or spec in others:
                raise Refused(409)
            reached += [other for other in others if one.feeds(other) and other not in reached]
        plan_id = next(self._ids)
        return self.plans.setdefault(plan_id, Plan(plan_id, spec, spec.active))

    def begin_upload(self) -> Run:
        run = self._create(None, (), "running", UPLOADED)
        self.read(run.outputs["/upload"], 1)
        return run

    def end_upload(self, run_id: int, ok: bool) -> None:
        self.advance(run_id, 1, "completing" if ok else "aborting", None if ok else 1)
        self.finalize(run_id, 1)  # how it ends, a stop may have decided already
        self.read(self.runs[run_id].outputs["/upload"], -1)

    def adopt(self, volume: int | None, tags: frozenset[str], at: str) -> Data:
        if volume is None:  # one of knit's own
            raise Refused(400)
        known = [d for d in self.data.values() if d.adopted == volume and not d.purged]
        if not known:
            run = self._create(None, (), "done", IMPORTED)
            known = [data for data in self.data.values() if data.run is run]
            known[0].adopted, known[0].timestamp = volume, at
        known[0].tags |= tags
        return known[0]

    def begin_import(self) -> Run:
        return self._create(None, (), "running", IMPORTED)

    def end_import(self, run_id: int, there: bool) -> None:
        run = self.runs.get(run_id)
        if run is None or run.status != "running" or run.late:
            raise Refused(409)
        if not there:
            raise Refused(400)
        self.advance(run_id, 1, "completing")
        self.finalize(run_id, 1)

    def purge(self, data_id: int) -> None:
        data = found(self.data, data_id)
        if data.purged:
            return
        readers = [run for run in self.runs.values() if data_id in run.inputs]
        if data.transfers or any(MOVES[run.status] for run in [data.run, *readers]):
            raise Refused(409)
        data.purged = True
        data.run.move(data.run.status)

    def tag(self, data_id: int, add: set[str], remove: set[str], remove_keys: set[str]) -> None:
        if any(one.startswith(SYSTEM) for one in add | remove | remove_keys):
            raise Refused(400)
        data = found(self.data, data_id)
        kept = {tag for tag in data.tags - remove if tag.partition(":")[0] not in remove_keys}
        data.tags = frozenset(kept | add)

    def set_active(self, plan_id: int, active: bool) -> None:
        plan = found(self.plans, plan_id)
        plan.active = active
        for run in self.runs.values():
            if run.plan is plan and run.status == ("deactivated" if active else "waiting"):
                run.begin_anew(run.generation + run.admitted)  # ends a workflow there may be

    def stop(self, run_id: int, fail: bool) -> None:
        run = found(self.runs, run_id)
        target = "aborting" if fail else "completing"
        if target in MOVES[run.status] and (fail or run.source not in PLACES):
            run.move(target)
            run.exit, run.stop_ordered = (253 if fail else 0), run.admitted
        elif run.status != target:
            raise Refused(409)

    def retry(self, run_id: int) -> None:
        run = self._discarded(run_id, {"done", "failed"}, again=True)
        run.begin_anew(run.generation + 1)
        run.relaunches = 0
        self._make_outputs(run)

    def relaunch(self, run_id: int, generation: int, limit: int) -> None:
        """What follows a disruption: a retry by knit, of a Run that has not ended."""
        if found(self.runs, run_id).status == "invalidated":
            raise Refused(404)
        run = found(self.runs, run_id, generation)
        if run.status in ("starting", "running") and run.relaunches < limit:
            self._discarded(run_id, {"starting", "running"}, again=True)
            run.begin_anew(run.generation + 1)
            run.relaunches += 1
            self._make_outputs(run)

    def delete(self, run_id: int) -> None:
        run = self._discarded(run_id, {"done", "failed", "waiting", "deactivated"})
        run.generation += run.admitted
        run.move("invalidated")
        if run.plan is None:
            del self.runs[run.id]

    def read(self, data_id: int | None, readers: int) -> None:  # begins: 1, ends: -1
        data = found(self.data, data_id)
        if data.purged:
            raise Refused(404)
        data.transfers += readers

    def project(self) -> None:
        """Every combination of satisfying Data gets one Run; a tombstone counts as one."""
        known = {(run.plan.id, run.inputs) for run in self.runs.values() if run.plan}
        for plan in self.plans.values():
            required = [tags for _, tags in plan.spec.inputs]
            fitting = [
                [one.id for one in self.data.values() if one.fills(tags)] for tags in required
            ]
            for inputs in product(*fitting):
                if (plan.id, inputs) not in known:
                    self._create(plan, inputs, "waiting" if plan.active else "deactivated")

    def admit(self) -> list[Run]:
        """Gives the admitted Runs whose workflow is to be started."""
        for run in self.runs.values():
            run.admitted |= run.status == "waiting"
        return [r for r in self.runs.values() if r.admitted and not r.started and MOVES[r.status]]

    def advance(self, run_id: int, generation: int, target: str, exit: int | None = None) -> None:
        run = found(self.runs, run_id, generation)
        if target in MOVES[run.status]:
            run.move(target)
            run.exit = run.exit if exit is None else exit

    def finalize(self, run_id: int, generation: int) -> None:
        run = found(self.runs, run_id, generation)
        if len(MOVES[run.status]) > 1:
            raise Refused(409)
        for target in MOVES[run.status]:
            run.move(target)
            for data_id in run.outputs.values():
                found(self.data, data_id).timestamp = self._clock(run)

    def deliver_stops(self) -> None:
        for run in self.runs.values():
            unstarted = run.plan and run.status == "aborting" and not run.admitted
            if unstarted or (run.stop_ordered and run.started and MOVES[run.status]):
                self.finalize(run.id, run.generation)

    def end_late_imports(self) -> None:
        for run in [run for run in self.runs.values() if run.source == IMPORTED]:
            if run.status == "running" and run.late:
                self.advance(run.id, 1, "aborting", 1)
            if run.status == "aborting":
                self.finalize(run.id, 1)

    def _create(
        self, plan: Plan | None, inputs: tuple[int, ...], status: str, source: str = ""
    ) -> Run:
        run = Run(next(self._ids), plan, inputs, status, source, history=[(1, None, status)])
        self._make_outputs(run)
        return self.runs.setdefault(run.id, run)

    def _make_outputs(self, run: Run) -> None:
        alone = ((PLACES.get(run.source, ""), frozenset[str]()),)
        for path, tags in run.plan.spec.outputs if run.plan else alone:
            data = Data(next(self._ids), run, tags)
            self.data[data.id], run.outputs[path] = data, data.id

    def _discarded(self, run_id: int, wanted: set[str], *, again: bool = False) -> Run:
        """A Run that has lost its end and its Data, which nobody used but tombstones: they go."""
        run = found(self.runs, run_id)
        made = {data_id for data_id in run.outputs.values() if data_id is not None}
        users = [user for user in self.runs.values() if made & set(user.inputs)]
        in_use = any(self.data[data_id].transfers for data_id in made)
        in_use |= any(user.status != "invalidated" for user in users)
        # A tombstone may have lost its inputs, but then it is none of those wanted.
        purged = any(self.data[i].purged for i in run.inputs if i in self.data)
        if run.status not in wanted or in_use or (again and (run.plan is None or purged)):
            raise Refused(404 if run.status == "invalidated" else 409)
        self.runs = {one: run for one, run in self.runs.items() if run not in users}
        self.data = {one: data for one, data in self.data.items() if one not in made}
        run.exit, run.outputs = None, dict.fromkeys(run.outputs)
        return run


def found(table: Mapping[int, T], one: int | None, generation: int | None = None) -> T:
    if one is None or one not in table:
        raise Refused(404)
    if generation not in (None, getattr(table[one], "generation", None)):
        raise Refused(409)
    return table[one]
