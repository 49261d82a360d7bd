"""Moves a Run from step to step: compare-and-set on (run id, generation, status)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from psycopg.types.json import Jsonb

from knit_workflows import names
from knit_workflows.domain.errors import HooksNotCalled, IllegalMove, RunNotFound, Superseded
from knit_workflows.domain.ids import PlanId, RunId, is_id
from knit_workflows.domain.plans.model import NodeMode, NodeRule
from knit_workflows.domain.plans.options import (
    NO_OPTIONS,
    PlanOptions,
    options_document,
    stored_options,
)
from knit_workflows.domain.ports import (
    Concluded,
    Relaunched,
    RunKey,
    RunSpec,
    Started,
    UsedResources,
)
from knit_workflows.domain.runs.milestones import Timeline
from knit_workflows.domain.runs.run import (
    KNIT,
    MOVES,
    Exit,
    PendingReason,
    RunEvent,
    RunStatus,
    may_move,
)
from knit_workflows.domain.runs.timing import Timing, timing
from knit_workflows.domain.volumes import Mount, Volume
from knit_workflows.store import named_sql
from knit_workflows.store.connection import Database, Statement
from knit_workflows.store.plans.images import image_of
from knit_workflows.store.runs import retry_delete
from knit_workflows.store.runs.history import events_in, read_events, reading_events

_IN_FORCE: Final = "EXISTS (SELECT FROM hooks WHERE before_urls <> '{}' OR after_urls <> '{}')"
_NOT_ASKED: Final = """EXISTS (
               SELECT FROM hooks
                WHERE (before_urls <> '{}' OR after_urls <> '{}') AND NOT %(hooks_called)s::boolean
                   OR before_urls <> '{}'
                      AND encode(sha256(convert_to(array_to_string(before_urls, E'\\n'), 'UTF8')),
                                 'hex') <> %(asked)s::text)"""
"""Hooks are in force that were not called: none was, or they are not those that were `asked`."""
_SQL: Final = named_sql.beside(__file__, in_force=_IN_FORCE, not_asked=_NOT_ASKED)

_POD_ENDED: Final = "run pod ended"
_PREPARED_FOR: Final = 2.0
"""Seconds for which what was read ahead of a launch may be used."""
_MOST_ORIGIN: Final = 16 << 10
"""Bytes of what is kept beside each volume of its origin: clusters hold all of it in memory."""
_MAX_REASONS: Final = 20
"""How many pending reasons the history of one execution records: two may alternate for days."""

_SOURCES: Final = {
    target: sorted(status.value for status in MOVES if may_move(status, target)) for target in MOVES
}


class PostgresRunExecutionStore:
    """Implements `ports.RunExecutionStore`."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._prepared: dict[RunKey, tuple[float, RunSpec]] = {}

    async def spec(self, key: RunKey) -> RunSpec:
        """See the port."""
        row = await self._db.row(_SQL["specs"], {"run_ids": [_checked(key)]})
        _guard(key, row)
        return _spec(row)

    async def prepare(self, keys: Sequence[RunKey]) -> None:
        """See the port."""
        now = time.monotonic()
        rows = await self._db.rows(_SQL["specs"], {"run_ids": [key.run_id for key in keys]})
        self._prepared = {
            key: (since, spec)
            for key, (since, spec) in self._prepared.items()
            if now - since < _PREPARED_FOR
        }
        # With any other status a launch might create a pod at once, for a second time.
        self._prepared |= {
            spec.key: (now, spec) for spec in map(_spec, rows) if spec.status is RunStatus.WAITING
        }

    async def spec_to_launch(self, key: RunKey) -> RunSpec:
        """See the port."""
        since, spec = self._prepared.pop(key, (0.0, None))
        if spec is not None and time.monotonic() - since < _PREPARED_FOR:
            return spec
        return await self.spec(key)

    async def advance(
        self,
        key: RunKey,
        target: RunStatus,
        *,
        cause: str,
        exit: Exit | None = None,
        image_digest: str | None = None,
        used: UsedResources | None = None,
        options: PlanOptions = NO_OPTIONS,
        notes: Sequence[str] = (),
        timeline: Timeline | None = None,
        actor: str = KNIT,
        hooks_called: bool = True,
        asked: str | None = None,
    ) -> RunStatus:
        """See the port."""
        if target.is_final:
            raise ValueError(f"{target} is final: use finalize")
        statement = _advancing(
            key,
            target,
            cause=cause,
            exit=exit,
            image_digest=image_digest,
            used=used,
            options=options,
            notes=notes,
            timeline=timeline,
            actor=actor,
            hooks_called=hooks_called,
            asked=asked,
        )
        row = await self._db.row(*statement)
        _guard(key, row)
        _require_called(key, row)
        return RunStatus(row.status)

    async def hold_up(self, key: RunKey, reason: PendingReason | None, *, at: RunStatus) -> bool:
        """See the port."""
        row = await self._db.row(
            _SQL["hold_up"],
            {
                "run_id": _checked(key),
                "generation": key.generation,
                "at": at.value,
                "kind": reason and reason.kind.value,
                "code": reason and reason.code,
                "message": reason and reason.message,
                "until": reason and reason.until,
                "cause": reason and f"[{reason.code}] {reason.message}",
                "most": _MAX_REASONS,
                "outbox_channel": names.OUTBOX_CHANNEL,
            },
        )
        _guard(key, row)
        return bool(row.is_news)

    async def finalize(
        self, key: RunKey, *, cause: str, hooks_called: bool = True, asked: str | None = None
    ) -> RunStatus:
        """See the port."""
        statement = _finalizing(key, cause=cause, hooks_called=hooks_called, asked=asked)
        row = await self._db.row(*statement)
        _guard(key, row)
        return _final(key, row)

    async def conclude(
        self,
        key: RunKey,
        target: RunStatus,
        *,
        cause: str,
        exit: Exit | None = None,
        image_digest: str | None = None,
        notes: Sequence[str] = (),
        timeline: Timeline | None = None,
        running: Started | None = None,
    ) -> Concluded:
        """See the port."""
        begun = [] if running is None else [_starting(key, running)]
        statement = _advancing(
            key,
            target,
            cause=cause,
            exit=exit,
            image_digest=image_digest,
            notes=notes,
            timeline=timeline,
            hooks_called=False,
        )
        finalizing = _finalizing(key, cause=_POD_ENDED, hooks_called=False)
        *_, moved, ended, events = await self._db.together(
            [*begun, statement, finalizing, reading_events(key.run_id)]
        )
        for rows in (moved, ended):
            _guard(key, rows[0] if rows else None)
        _require_called(key, moved[0])
        return Concluded(_final(key, ended[0]), _timing(key, events_in(events)))

    async def relaunch(self, key: RunKey, *, cause: str, limit: int) -> Relaunched:
        """See the port."""
        return await retry_delete.relaunch(self._db, key, cause, limit)

    async def timing(self, key: RunKey) -> Timing:
        """See the port."""
        return _timing(key, await read_events(self._db, key.run_id))

    async def give_up(self, key: RunKey, *, cause: str, exit: Exit) -> RunStatus:
        """See the port."""
        target = RunStatus.ABORTING
        try:
            await self.advance(key, target, cause=cause, exit=exit, hooks_called=False)
        except HooksNotCalled:
            return await self._entrusted(key)
        return await self.finish(key, cause=cause)

    async def finish(self, key: RunKey, *, cause: str) -> RunStatus:
        """See the port."""
        try:
            return await self.finalize(key, cause=cause, hooks_called=False)
        except HooksNotCalled:
            return await self._entrusted(key)

    async def _entrusted(self, key: RunKey) -> RunStatus:
        """Has a workflow started, which calls the hooks of a Run that had none so far."""
        channel = {"outbox_channel": names.OUTBOX_CHANNEL}
        where = {"run_id": key.run_id, "generation": key.generation}
        await self._db.do(_SQL["entrust"], where | channel)
        return (await self.spec(key)).status


def _spec(row: Any) -> RunSpec:
    outputs, options = row.outputs or [], stored_options(row.options)
    origin = _origin(row.origin)
    return RunSpec(
        key=RunKey(RunId(row.run_id), row.generation),
        status=RunStatus(row.status),
        plan_id=PlanId(row.plan_id),
        image=image_of(row),
        entrypoint=tuple(row.entrypoint),
        args=tuple(row.args),
        inputs=tuple(_mount(one) for one in row.inputs or []),
        outputs=tuple(_new(_mount(one), options, origin) for one in outputs if not one[3]),
        log=next((_new(_mount(one), options, origin).volume for one in outputs if one[3]), None),
        resources=row.resources,
        on_node=tuple(NodeRule(NodeMode(mode), k, v) for mode, k, v in row.on_node),
        service_account=row.service_account,
        options=options.pod,
        environment=row.hook_env or {},
        hooked=row.hooked,
    )


def _advancing(
    key: RunKey,
    target: RunStatus,
    *,
    cause: str,
    exit: Exit | None,
    image_digest: str | None,
    notes: Sequence[str],
    timeline: Timeline | None,
    hooks_called: bool,
    asked: str | None = None,
    used: UsedResources | None = None,
    options: PlanOptions = NO_OPTIONS,
    actor: str = KNIT,
) -> Statement:
    return _SQL["advance"], {
        "run_id": _checked(key),
        "generation": key.generation,
        "target": target.value,
        "sources": _SOURCES[target],
        "cause": cause,
        "has_exit": exit is not None,
        "exit_code": None if exit is None else exit.code,
        "exit_message": None if exit is None else exit.message,
        "image_digest": image_digest,
        "used_resources": None if used is None else Jsonb(dict(used.resources)),
        "used_service_account": None if used is None else used.service_account,
        "options": Jsonb(options_document(options)),
        "notes": list(notes) or None,
        "timeline": Jsonb(_texts(timeline)) if timeline else None,
        "actor": actor,
        "hooks_called": hooks_called,
        "asked": asked,
        "run_channel": names.RUN_CHANNEL,
    }


def _starting(key: RunKey, running: Started) -> Statement:
    return _advancing(
        key,
        RunStatus.RUNNING,
        cause=running.cause,
        exit=None,
        image_digest=running.image_digest,
        notes=(),
        timeline=running.timeline,
        hooks_called=False,
    )


def _finalizing(
    key: RunKey, *, cause: str, hooks_called: bool, asked: str | None = None
) -> Statement:
    return _SQL["finalize"], {
        "run_id": _checked(key),
        "generation": key.generation,
        "cause": cause,
        "hooks_called": hooks_called,
        "asked": asked,
        "run_channel": names.RUN_CHANNEL,
        "outbox_channel": names.OUTBOX_CHANNEL,
    }


def _final(key: RunKey, row: Any) -> RunStatus:
    _require_called(key, row)
    status = RunStatus(row.status)
    if not status.is_final:
        raise IllegalMove(
            f"the Run {key.run_id} is {status}, neither completing nor aborting", see=key.run_id
        )
    return status


def _timing(key: RunKey, events: Sequence[RunEvent]) -> Timing:
    found = timing(events, datetime.now(UTC))
    if found.generation != key.generation:
        raise Superseded(see=key.run_id)
    return found


def _checked(key: RunKey) -> str:
    if not is_id(key.run_id):
        raise RunNotFound(f"there is no Run {key.run_id}", see=key.run_id)
    return key.run_id


def _guard(key: RunKey, row: Any) -> None:
    if row is None:
        raise RunNotFound(f"there is no Run {key.run_id}", see=key.run_id)
    if row.generation != key.generation:
        raise Superseded(
            f"the Run {key.run_id} is in generation {row.generation}, not {key.generation}",
            see=key.run_id,
        )


def _require_called(key: RunKey, row: Any) -> None:
    if row.refused:
        raise HooksNotCalled(see=key.run_id)


def _texts(timeline: Timeline) -> dict[str, str]:
    return {milestone.value: at.isoformat() for milestone, at in timeline.items()}


def _mount(entry: Sequence[Any]) -> Mount:
    path, knit_id, volume, *_ = entry
    return Mount(path, Volume(volume, knit_id))


def _new(mount: Mount, options: PlanOptions, origin: str) -> Mount:
    """Says how the volume of an output is made."""
    how = options.of_volume(mount.path)
    return replace(mount, volume=replace(mount.volume, options=how, origin=origin))


def _origin(found: Any) -> str:
    """Writes where the volumes of a Run come from; empty if that is too long to be kept there."""
    if found is None:
        return ""
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    return text if len(text.encode()) <= _MOST_ORIGIN else ""
