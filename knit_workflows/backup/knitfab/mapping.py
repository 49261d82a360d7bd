"""A database of Knitfab as rows of knit's tables: the same ids, tags, instants and lineage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from knit_workflows.backup.frames import Frame
from knit_workflows.backup.knitfab.copy_text import Value, write_row
from knit_workflows.backup.knitfab.plans import CarriedPlan, carry_plans
from knit_workflows.backup.knitfab.records import KnitfabRun, Records
from knit_workflows.domain.instants import floor_to_millis
from knit_workflows.domain.matching import assignment_hash
from knit_workflows.domain.plans.model import IMPORTED, UPLOADED
from knit_workflows.domain.runs.run import LOST, RunStatus
from knit_workflows.store.data.tags import digest
from knit_workflows.store.snapshot import TABLES

_BUILT_IN: Final = {
    UPLOADED: ("00000000-0000-4000-8000-6b6e69740001", "/upload"),
    IMPORTED: ("00000000-0000-4000-8000-6b6e69740002", "/imported"),
}
"""Ids and paths of the built-in Plans in a new installation, for those that the other lacks."""
_CAUSE: Final = "carried over from Knitfab"
_TWIN: Final = "its combination has another Run, which is kept in its place"
_ROWS: Final = 2000
_COUNTED: Final = {"tag": "tag_id", "plan_input": "input_id", "plan_output": "output_id"}
"""Tables whose ids are as they were, so that counting has to go on after them."""


class Conversion:
    """What a database of Knitfab is in knit.

    `notes`: what is not as it was, by what it is of. `statuses`: those that Runs have in the rows,
    by id; Runs that were under way fail only when the rows are loaded.
    """

    def __init__(self, records: Records, at: datetime) -> None:
        """Puts rows together; `at` is when the database was dumped.

        Raises ValueError for what knit's tables cannot hold.
        """
        self.records = records
        self.notes: list[tuple[str, str]] = []
        self.statuses: dict[str, RunStatus] = {}
        self._at = at
        self._rows: dict[str, list[dict[str, Value | None]]] = defaultdict(list)
        self.plans = carry_plans(records)
        self._tag_rows()
        self._plan_rows()
        self._built_in_rows()
        self._run_rows()
        self._data_rows()

    def frames(self) -> Iterator[Frame]:
        """Gives the tables as `store.snapshot.loading` reads them, and the counters."""
        for table, _ in TABLES:
            rows = self._rows.get(table)
            if not rows:
                continue
            columns = list(rows[0])
            yield {"table": table, "columns": columns}
            for at in range(0, len(rows), _ROWS):
                yield b"".join(write_row(row.values()) for row in rows[at : at + _ROWS])
            yield {"rows": len(rows)}
        yield {"sequences": self._sequences()}

    def _sequences(self) -> dict[str, int]:
        return {
            f"{table}_{column}_seq": max(int(str(row[column])) for row in self._rows[table])
            for table, column in _COUNTED.items()
            if self._rows.get(table)
        }

    def _add(self, table: str, **row: Value | None) -> None:
        self._rows[table].append(row)

    # --- tags and Plans -------------------------------------------------------------------------

    def _tag_rows(self) -> None:
        for tag_id, tag in self.records.tags.items():
            self._add("tag", tag_id=tag_id, digest=digest(tag), key=tag.key, value=tag.value)

    def _plan_rows(self) -> None:
        for plan in self.plans.values():
            self._plan_row(plan)
            self.notes += [(f"Plan {plan.plan_id}", note) for note in plan.notes]
            for position, hole in enumerate(plan.inputs):
                instant = hole.timestamp
                self._add(
                    "plan_input",
                    input_id=hole.id,
                    plan_id=plan.plan_id,
                    position=position,
                    path=plan.spec.inputs[position].path,
                    tag_count=len(hole.tag_ids),
                    pinned_knit_id=plan.spec.inputs[position].requirement.knit_id,
                    pinned_timestamp=None if instant is None else floor_to_millis(instant),
                )
                for tag_id in sorted(hole.tag_ids):
                    self._add("plan_input_tag", tag_id=tag_id, input_id=hole.id)
            for position, hole in enumerate(plan.outputs):
                is_log = plan.spec.log is not None and position == len(plan.outputs) - 1
                self._output_row(hole.id, plan.plan_id, position, hole.path, is_log=is_log)
                for tag_id in sorted(hole.tag_ids):
                    self._add("plan_output_tag", tag_id=tag_id, output_id=hole.id)

    def _plan_row(self, plan: CarriedPlan) -> None:
        spec = plan.spec
        self._add(
            "plan",
            plan_id=plan.plan_id,
            identity_hash=plan.identity,
            name=None,
            repository=spec.image.repository,
            image_tag=spec.image.image_tag,
            entrypoint=spec.entrypoint,
            args=spec.args,
            on_node=[[one.mode.value, one.key, one.value] for one in sorted(spec.on_node)],
            resources=dict(spec.resources),
            service_account=spec.service_account,
            annotations=[[one.key, one.value] for one in sorted(spec.annotations)],
            active=spec.active,
            created_at=self._at,
        )

    def _built_in_rows(self) -> None:
        """Those of Knitfab keep their ids; what an older one does not have is as in a new knit."""
        there = {one.name: one for one in self.records.plans.values() if one.name is not None}
        unknown = there.keys() - _BUILT_IN.keys()
        if unknown:
            raise ValueError(f"there is a built-in Plan {min(unknown)}, which no Knitfab has")
        last = max((int(str(row["output_id"])) for row in self._rows["plan_output"]), default=0)
        last = max([last, *(hole.id for one in there.values() for hole in one.outputs)])
        for name, (plan_id, path) in _BUILT_IN.items():
            plan = there.get(name)
            if plan is None:
                last += 1
                self._built_in_row(plan_id, name)
                self._output_row(last, plan_id, 0, path, is_log=False)
                continue
            self._built_in_row(plan.plan_id, name)
            for position, hole in enumerate(plan.outputs):
                self._output_row(hole.id, plan.plan_id, position, hole.path, is_log=False)

    def _built_in_row(self, plan_id: str, name: str) -> None:
        self._add(
            "plan",
            plan_id=plan_id,
            identity_hash=None,
            name=name,
            repository=None,
            image_tag=None,
            entrypoint=(),
            args=(),
            on_node=[],
            resources={},
            service_account=None,
            annotations=[],
            active=True,
            created_at=self._at,
        )

    def _output_row(
        self, output_id: int, plan_id: str, position: int, path: str, *, is_log: bool
    ) -> None:
        self._add(
            "plan_output",
            output_id=output_id,
            plan_id=plan_id,
            position=position,
            path=path,
            is_log=is_log,
        )

    # --- Runs -----------------------------------------------------------------------------------

    def _run_rows(self) -> None:
        taken: set[tuple[str, bytes]] = set()
        # Where a combination has two, the one that got furthest is the one that counts.
        for run in sorted(self.records.runs.values(), key=_worth):
            combination = self._combination(run)
            status, exit_ = self._status(run), run.exit
            if combination is not None and (run.plan_id, combination) in taken:
                combination = None
                self.notes.append((f"Run {run.run_id}", _TWIN))
                if not status.is_final:
                    status, exit_ = RunStatus.FAILED, (LOST.code, _TWIN)
            if combination is not None:
                taken.add((run.plan_id, combination))
            self._run_row(run, combination, status, exit_)

    def _combination(self, run: KnitfabRun) -> bytes | None:
        """Gives what makes a Run of a user's Plan the only one of its Data; None for uploads."""
        plan = self.plans.get(run.plan_id)
        if plan is None:
            return None
        places = {hole.id: place for place, hole in enumerate(plan.inputs)}
        if places.keys() != run.inputs.keys():
            raise ValueError(f"the Run {run.run_id} has not one Data for each input of its Plan")
        return assignment_hash({places[one]: knit_id for one, knit_id in run.inputs.items()})

    def _status(self, run: KnitfabRun) -> RunStatus:
        """Gives the status, which for Runs that wait follows from whether their Plan is active."""
        plan = self.plans.get(run.plan_id)
        if run.status is RunStatus.WAITING and plan is not None and not plan.spec.active:
            return RunStatus.DEACTIVATED
        return run.status

    def _run_row(
        self,
        run: KnitfabRun,
        combination: bytes | None,
        status: RunStatus,
        exit_: tuple[int, str] | None,
    ) -> None:
        self.statuses[run.run_id] = status
        code, message = exit_ or (None, None)
        ended: dict[str, Value | None] = {"exit_code": code, "exit_message": message}
        self._add(
            "run",
            run_id=run.run_id,
            plan_id=run.plan_id,
            assignment_hash=combination,
            status=status.value,
            created_at=run.updated_at,
            updated_at=run.updated_at,
            **ended,
        )
        for input_id, knit_id in run.inputs.items():
            self._add("run_input", run_id=run.run_id, input_id=input_id, knit_id=knit_id)
        self._add(
            "run_event",
            run_id=run.run_id,
            generation=1,
            at=run.updated_at,
            to_status=status.value,
            cause=_CAUSE,
            **ended,
        )

    # --- Data -----------------------------------------------------------------------------------

    def _data_rows(self) -> None:
        made: set[tuple[str, int]] = set()
        for one in self.records.data.values():
            if (one.run_id, one.output_id) in made:
                raise ValueError(f"the Run {one.run_id} has two Data of one output")
            made.add((one.run_id, one.output_id))
            status = self.statuses[one.run_id]
            instant = None
            if status in (RunStatus.DONE, RunStatus.FAILED):
                instant = one.timestamp or self.records.runs[one.run_id].updated_at
            self._add(
                "data",
                knit_id=one.knit_id,
                run_id=one.run_id,
                output_id=one.output_id,
                volume=one.volume,
                timestamp=instant,
            )
            for tag_id in sorted(one.tag_ids):
                self._add("data_tag", tag_id=tag_id, knit_id=one.knit_id, timestamp=instant)
            if one.knit_id in self.records.pending and status is RunStatus.DONE:
                self._add("outbox", kind="data_ready", subject=one.knit_id, created_at=self._at)


def _worth(run: KnitfabRun) -> tuple[int, str]:
    order: Sequence[RunStatus] = (RunStatus.DONE, RunStatus.INVALIDATED, RunStatus.FAILED)
    return (order.index(run.status) if run.status in order else len(order), run.run_id)
