"""Retry and deletion of Runs, by users; and the retry that follows a disruption by itself.

All bypass the table of moves, and all discard a Run's Data. A lock on their rows keeps new users
out, and earlier ones are visible. A transaction that was about to refer to Data discarded here is
run again from its start.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from knit_workflows import names
from knit_workflows.domain.errors import IllegalMove, Superseded
from knit_workflows.domain.ids import KnitId, RunId, is_id
from knit_workflows.domain.ports import Relaunched, RunKey
from knit_workflows.domain.readers import PRESENT_EVERY
from knit_workflows.domain.runs.run import KNIT, RunStatus
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Session
from knit_workflows.store.not_found import missing_run
from knit_workflows.store.projection.creation import NEW_DATA

_SQL: Final = named_sql.beside(__file__, new_data=NEW_DATA)

_RETRYABLE: Final = frozenset({RunStatus.DONE, RunStatus.FAILED})
OPENING_PATIENCE: Final = timedelta(seconds=10)
"""How long a transfer that is not open yet keeps its Data from being discarded; most open within
three seconds."""
SILENCE: Final = PRESENT_EVERY * 6
"""The same for one that is open, since its client was last there."""
SERVES_NOBODY: Final = _SQL["serves_nobody"]
"""A condition for rows of `transfer`, with the parameters `SERVES_NOBODY_SINCE`."""
SERVES_NOBODY_SINCE: Final = {"opening": OPENING_PATIENCE, "silence": SILENCE}
_DELETABLE: Final = _RETRYABLE | {RunStatus.WAITING, RunStatus.DEACTIVATED}


async def retry(db: Database, run_id: RunId, actor: str) -> None:
    """Implements `ports.RunStore.retry`."""

    async def step(session: Session) -> None:
        run = await _locked(session, run_id)
        if run.name is not None:
            raise IllegalMove(
                f"the Run {run_id} is {run.name}: there is nothing to run again",
                advice="push the Data again",
                see=run_id,
            )
        _require(run, _RETRYABLE)
        await _require_inputs(session, run_id)
        await _discard_outputs(session, run_id)
        await _begin_anew(session, run, cause="retried", actor=actor)

    await db.transaction(step)


async def relaunch(db: Database, key: RunKey, cause: str, limit: int) -> Relaunched:
    """Implements `ports.RunExecutionStore.relaunch`."""

    async def step(session: Session) -> Relaunched:
        run = await _locked(session, key.run_id)
        if run.generation != key.generation:
            raise Superseded(f"the Run is in generation {run.generation}", see=key.run_id)
        status = RunStatus(run.status)
        before = await session.row(_SQL["relaunches"], {"run_id": key.run_id})
        if not status.is_under_way or before.times >= limit:
            return Relaunched(status, before.times)
        await _discard_outputs(session, key.run_id)
        times = before.times + 1
        told = f"{cause}; launched again, {times} of at most {limit} times"
        target = await _begin_anew(session, run, cause=told, actor=KNIT)
        return Relaunched(target, times)

    return await db.transaction(step)


async def _begin_anew(session: Session, run: Any, *, cause: str, actor: str) -> RunStatus:
    """Makes the next generation of a Run without outputs; gives its status."""
    target = RunStatus.WAITING if run.active else RunStatus.DEACTIVATED
    await session.do(
        _SQL["retry"],
        {
            **_channels(),
            "run_id": run.run_id,
            "actor": actor,
            "before": run.status,
            "target": target.value,
            "cause": cause,
            "volume_prefix": names.volume(""),
        },
    )
    return target


async def delete(db: Database, run_id: RunId, actor: str) -> list[str]:
    """Implements `ports.RunStore.delete`."""

    async def step(session: Session) -> list[str]:
        run = await _locked(session, run_id)
        _require(run, _DELETABLE)
        kept = await _discard_outputs(session, run_id)
        if run.projected:
            change = {"run_id": run_id, "actor": actor, "before": run.status}
            await session.do(
                _SQL["invalidate"], {**_channels(), **change, "admitted": run.admitted}
            )
        else:
            await session.do(_SQL["remove_runs"], {"run_ids": [run_id]})
        return kept

    return await db.freeing(step)


async def _locked(session: Session, run_id: RunId) -> Any:
    row = await session.row(_SQL["lock"], {"run_id": run_id}) if is_id(run_id) else None
    if row is None or row.status == RunStatus.INVALIDATED:
        raise missing_run(run_id)
    return row


def _require(run: Any, wanted: frozenset[RunStatus]) -> None:
    if run.status not in wanted:
        raise IllegalMove(
            f"the Run {run.run_id} is {run.status}: it has not finished yet",
            advice="stop it first, or wait until it is done or failed",
            see=run.run_id,
        )


async def _require_inputs(session: Session, run_id: RunId) -> None:
    """Keeps the inputs of a Run from being purged; raises IllegalMove if one has been."""
    for one in await session.rows(_SQL["lock_inputs"], {"run_id": run_id}):
        if one.purged_at is not None:
            raise IllegalMove(
                f"the Run {run_id} cannot be retried: the content of its input, the Data "
                f"{one.knit_id}, was purged",
                advice="use a Data with content instead; a new Run of the Plan follows from its "
                "tags",
                see=one.knit_id,
            )


async def _discard_outputs(session: Session, run_id: RunId) -> list[str]:
    """Discards the Data of a Run; raises IllegalMove if one of them is in use.

    Gives the volumes that were only adopted, and stay.
    """
    outputs = await session.rows(_SQL["lock_outputs"], {"run_id": run_id})
    knit_ids = [row.knit_id for row in outputs]
    await end_readers(session, knit_ids)
    tombstones = []
    for user in await session.rows(_SQL["users"], {"knit_ids": knit_ids}):
        if user.run_id is None:
            raise IllegalMove(
                f"a Data of the Run {run_id} is being transferred",
                advice="wait until the transfer has ended",
                see=run_id,
            )
        if not user.is_tombstone:
            raise IllegalMove(
                f"a Data of the Run {run_id} is in use by the Run {user.run_id}",
                advice=f"delete that Run first: knit run rm {user.run_id}",
                see=user.run_id,
            )
        tombstones.append(user.run_id)
    await session.do(_SQL["remove_runs"], {"run_ids": tombstones})
    kept = await session.rows(_SQL["discard"], {"knit_ids": knit_ids})
    return [row.volume for row in kept]


async def end_readers(session: Session, knit_ids: Sequence[KnitId]) -> None:
    """Ends transfers that read these Data, which are locked, but serve nobody."""
    await session.do(_SQL["end_readers"], {"knit_ids": knit_ids, **SERVES_NOBODY_SINCE})


def _channels() -> dict[str, str]:
    return {"run_channel": names.RUN_CHANNEL, "outbox_channel": names.OUTBOX_CHANNEL}
