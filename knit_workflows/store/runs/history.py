"""Reads the history of a Run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from knit_workflows.domain.ids import is_id
from knit_workflows.domain.plans.options import stored_options
from knit_workflows.domain.runs.milestones import Milestone
from knit_workflows.domain.runs.run import RunEvent, RunStatus, Used
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database
from knit_workflows.store.not_found import missing_run
from knit_workflows.store.runs.details import exit_of

_KNOWN: Final = frozenset(Milestone)
_SQL: Final = named_sql.beside(__file__)


async def read_events(db: Database, run_id: str) -> Sequence[RunEvent]:
    """Gives every change of a Run's status, oldest first.

    Raises:
        RunNotFound: there is no such Run.
    """
    rows = await db.rows(_SQL["run_events"], {"run_id": run_id}) if is_id(run_id) else []
    if not rows:
        raise missing_run(run_id)
    return [_event(row) for row in rows if row.at is not None]


def _event(row: Any) -> RunEvent:
    return RunEvent(
        at=row.at,
        generation=row.generation,
        from_status=None if row.from_status is None else RunStatus(row.from_status),
        to_status=RunStatus(row.to_status),
        cause=row.cause,
        exit=exit_of(row),
        actor=row.actor,
        timeline={
            Milestone(name): datetime.fromisoformat(at)
            for name, at in (row.timeline or {}).items()
            if name in _KNOWN  # a newer worker may know of more
        },
        used=None if row.used is None else _used(row.used),
    )


def _used(document: Mapping[str, Any]) -> Used:
    return Used(
        resources=document.get("resources") or {},
        service_account=document.get("service_account"),
        image_digest=None,  # known once the container has started
        options=stored_options(document.get("options") or {}),
    )
