"""Creates the Runs of combinations, each at most once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from knit_workflows import names
from knit_workflows.domain.matching import assignment_hash
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Session, Statement

_SQL: Final = named_sql.beside(__file__)


NEW_DATA: Final = _SQL["new_data"]
"""The part of a statement that creates the Data of the Runs in `made`."""


@dataclass(frozen=True, slots=True)
class Combination:
    """A Plan and one Data per input, in the order of the inputs' positions."""

    plan_id: str
    knit_ids: tuple[str, ...]

    def hash(self) -> bytes:
        """Gives the key that makes the Run of this combination unique within its Plan."""
        return assignment_hash(dict(enumerate(self.knit_ids)))


async def without_run(
    session: Session, combinations: Sequence[Combination]
) -> list[tuple[int, Combination]]:
    """Selects the combinations that have no Run yet, with their index in the sequence."""
    rows = await session.rows(
        _SQL["known"],
        {
            "plan_ids": [one.plan_id for one in combinations],
            "hashes": [one.hash() for one in combinations],
        },
    )
    known = {row.place - 1 for row in rows}
    return [one for one in enumerate(combinations) if one[0] not in known]


async def create_runs(session: Session, combinations: Sequence[Combination], *, cause: str) -> int:
    """Creates the Runs of those combinations that have none; gives how many were created.

    It wakes the Projector, which admits them.
    """
    return created_by(await session.rows(*creating(combinations, cause=cause, wakes=True)))


def created_by(rows: Sequence[Any]) -> int:
    """Reads the rows of `creating`: how many Runs were created."""
    return int(rows[0].made)


def creating(combinations: Sequence[Combination], *, cause: str, wakes: bool) -> Statement:
    """Gives the statement that creates the Runs of those combinations that have none.

    None is made of a Data that is being purged.

    A Run is waiting, or deactivated if its Plan is inactive, and has its Plan's priority; its Data
    exist from now on, with the tags of the Plan's outputs. `wakes` the Projector, which admits
    Runs; not needed where that follows.
    """
    run_ids = [str(uuid4()) for _ in combinations]
    return (
        _SQL["create"],
        {
            "run_ids": run_ids,
            "plan_ids": [one.plan_id for one in combinations],
            "hashes": [one.hash() for one in combinations],
            "input_run_ids": [
                run_id
                for run_id, one in zip(run_ids, combinations, strict=True)
                for _ in one.knit_ids
            ],
            "positions": [place for one in combinations for place in range(len(one.knit_ids))],
            "knit_ids": [knit_id for one in combinations for knit_id in one.knit_ids],
            "volume_prefix": names.volume(""),
            "cause": cause,
            "channel": names.OUTBOX_CHANNEL if wakes else None,
        },
    )


def notifying() -> Statement:
    """Gives the statement that wakes the Projector when its transaction commits."""
    return _SQL["notify"], {"channel": names.OUTBOX_CHANNEL}


async def notify_projector(session: Session) -> None:
    """Wakes the Projector when this transaction commits."""
    await session.do(*notifying())
