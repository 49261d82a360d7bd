"""`python -m knit_workflows.inspection.rebuild`: a lost lineage, as far as it can be known.

It runs where database, Temporal and back-end are all within reach, as verification does. Without
`--write` it only says what it would write. It prints a line of JSON: `problem`, or what there is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from temporalio.service import RPCError

from knit_workflows import names
from knit_workflows.domain.errors import KnitError
from knit_workflows.domain.instants import format_instant
from knit_workflows.domain.plans.model import UPLOADED
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.inspection.remains import REBUILT, RebuiltRun, Remains, counts, find_remains
from knit_workflows.inspection.verify import opened
from knit_workflows.settings import Settings, SettingsRefused, read_settings
from knit_workflows.start_up import run_and_leave
from knit_workflows.store.snapshot.rebuilding import (
    Lineage,
    NotEmpty,
    held_volumes,
    look,
    write_lineage,
)

NOT_KEPT: Final = (
    "tags that users gave to Data, but those by which Runs have found them",
    "annotations of Plans, and whether they were active: they are inactive now",
    "histories of Runs, what their pods got, and the Runs of uploads",
    "Data that were purged or deleted, unless a Run has used them",
    "ids of uploads into claims that waited for them, unless a Run has used them: they get the "
    "claim's",
    "Runs that wait, were deleted, or have neither outputs nor a log",
    "tokens, and the audit log",
)


async def rebuild(*, writes: bool, by: str, unknown_is_done: bool) -> dict[str, Any]:
    """Gives what was found and whether it was written; `problem` instead if it could not begin."""
    async with AsyncExitStack() as stack:
        try:
            settings = read_settings()
            url = settings.store.url.get_secret_value()
            found, before = await asyncio.to_thread(look, url)
            if before is not None:
                return _answer(before["found"], already=True)
            if any(found.values()):
                return _problem(*_in_use(found))
            client, deps = await opened(settings, stack)
            held = partial(held_volumes, url)
            remains = await find_remains(
                deps.backend, client, held, unknown_is_done=unknown_is_done
            )
            uploads = remains.uploads()
            answer = _answer(counts(remains, uploads), remains.missing, NOT_KEPT, written=writes)
            if writes:
                about = {key: answer[key] for key in ("found", "missing", "notKept")}
                await asyncio.to_thread(_write, settings, remains, uploads, by, about)
        except (KnitError, SettingsRefused) as error:
            reason = getattr(error, "reason", "") or str(error)
            return _problem(reason, getattr(error, "advice", None))
        except RPCError as error:
            return _problem(f"Temporal does not answer: {error.message}", "see that it is up")
        except NotEmpty as refused:
            return _problem(*_in_use(refused.found))
    return answer


def _answer(
    found: dict[str, int],
    missing: Mapping[str, int] = MappingProxyType({}),
    not_kept: Sequence[str] = (),
    *,
    already: bool = False,
    written: bool = False,
) -> dict[str, Any]:
    """Gives what is printed: the same keys, whether it was rebuilt before or not."""
    return {
        "found": found,
        "missing": dict(missing),
        "notKept": list(not_kept),
        "already": already,
        "written": written,
    }


def _write(
    settings: Settings, remains: Remains, uploads: dict[str, str], by: str, about: dict[str, Any]
) -> None:
    url = settings.store.url.get_secret_value()
    lineage = lineage_of(remains, uploads)
    write_lineage(url, lineage, by=by, cause=REBUILT, uploaded=UPLOADED, targets=about)


def lineage_of(remains: Remains, uploads: dict[str, str]) -> Lineage:
    """Gives the rows of what was found; pure but for new ids of the Runs of uploads.

    A Run of an upload has the id of its Data: a second try gives the same rows.
    """
    now = datetime.now(UTC)
    runs, data, edges = [], [], []
    former = remains.readopted()
    for knit_id, volume in uploads.items():
        made = remains.volumes.get(volume, now)
        runs.append(_upload(knit_id, made))
        is_gone = _is_lost(remains, volume) or knit_id in former
        data.append(_data(knit_id, knit_id, None, volume, is_gone=is_gone))
    for run in remains.runs.values():
        runs.append(_run(run, now))
        edges += [
            {"run_id": run.run_id, "position": position, "knit_id": knit_id}
            for position, knit_id in run.inputs
        ]
        for position, knit_id in run.outputs:
            volume = remains.volume_of(run, knit_id)
            is_gone = _is_lost(remains, volume)
            data.append(_data(run.run_id, knit_id, position, volume, is_gone=is_gone))
    return Lineage(list(remains.plans.values()), runs, data, edges)


def _upload(knit_id: str, made: datetime) -> dict[str, Any]:
    at = format_instant(made)
    return {
        "run_id": knit_id, "generation": 1, "status": RunStatus.DONE, "priority": 0,
        "created": at, "ended": at,
    }  # fmt: skip


def _run(run: RebuiltRun, now: datetime) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "plan_id": run.plan_id,
        "digest": run.digest,
        "generation": run.generation,
        "status": run.status,
        "exit_code": run.exit_code,
        "exit_message": run.exit_message,
        "priority": run.priority,
        "created": run.created,
        "ended": format_instant(run.ended or now),
    }


def _is_lost(remains: Remains, volume: str) -> bool:
    """Says whether a volume of knit's is gone; those of others are not listed."""
    return names.is_own_volume(volume) and volume not in remains.volumes


def _data(
    run_id: str, knit_id: str, position: int | None, volume: str, *, is_gone: bool
) -> dict[str, Any]:
    return {
        "knit_id": knit_id,
        "run_id": run_id,
        "position": position,
        "volume": volume,
        "owned": names.is_own_volume(volume),
        "is_gone": is_gone,
    }


def _in_use(found: dict[str, int]) -> tuple[str, str]:
    has = ", ".join(f"{count:,} {what}" for what, count in found.items() if count)
    return (
        f"the database is not empty: it has {has}",
        "rebuild into an empty one: make it anew, and migrate it",
    )


def _problem(reason: str, advice: str | None) -> dict[str, Any]:
    return {"problem": {"reason": reason, "advice": advice}}


async def _printed(**choice: Any) -> int:
    sys.stdout.write(json.dumps(await rebuild(**choice), ensure_ascii=False) + "\n")
    sys.stdout.flush()
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, rebuilds, and leaves the process."""
    parser = argparse.ArgumentParser(
        prog="python -m knit_workflows.inspection.rebuild", description=__doc__
    )
    parser.add_argument("--write", action="store_true", help="write it into the database")
    parser.add_argument("--by", default="", help="who does it, for the audit log")
    parser.add_argument(
        "--unknown-is-done",
        action="store_true",
        help="Runs of which nobody knows how they have ended are done, and not failed",
    )
    options = parser.parse_args(arguments)
    run_and_leave(
        _printed(writes=options.write, by=options.by, unknown_is_done=options.unknown_is_done)
    )


if __name__ == "__main__":
    main()
