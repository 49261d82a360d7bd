"""`python -m knit_workflows.backup.scheduled.ask`: sets the schedule of backups, or shows it.

`knit admin backup` runs it where backups are taken, so that what is wrong with a destination is
said at once. It prints one JSON object: the `schedule`, None if there is none, or `problem`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from temporalio.client import Client
from temporalio.service import RPCError

from knit_workflows.backup.destinations import open_destination
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.sets import set_ids
from knit_workflows.domain.errors import KnitError
from knit_workflows.domain.instants import format_instant
from knit_workflows.settings import SettingsRefused, read_settings
from knit_workflows.start_up import reach_namespace, run_and_leave
from knit_workflows.temporal.backup_schedule import (
    BackupSchedule,
    FoundSchedule,
    find_schedule,
    pause_schedule,
    put_schedule,
    remove_schedule,
)
from knit_workflows.temporal.connection import client_config
from knit_workflows.temporal.queue_state import activity_queue_state

VERBS: Final = ("set", "show", "pause", "resume", "none")


async def _do(options: argparse.Namespace) -> dict[str, Any]:
    try:
        queue = read_settings().queues.backup
        if options.verb == "set":
            # As the workers would: a folder that cannot be made, a key that is not there.
            set_ids(open_destination(options.destination, Path(), new=True))
        client = await reach_namespace(client_config())
        await _carry_out(client, options, queue)
        found = await find_schedule(client)
        workers = (await activity_queue_state(client, queue)).workers
    except BackupProblem as problem:
        return {"problem": str(problem), "reason": problem.reason, "advice": problem.advice}
    except KnitError as error:
        return {"problem": error.reason, "reason": "", "advice": error.advice}
    except SettingsRefused as refused:
        return {"problem": str(refused), "reason": "", "advice": "correct the settings"}
    except RPCError as error:
        return {"problem": "Temporal refuses it", "reason": error.message, "advice": ""}
    return {"schedule": None if found is None else _shown(found), "workers": workers}


async def _carry_out(client: Client, options: argparse.Namespace, queue: str) -> None:
    match options.verb:
        case "set":
            every = None if options.every is None else timedelta(seconds=options.every)
            wanted = BackupSchedule(options.destination, options.keep, every, options.cron)
            await put_schedule(client, wanted, queue)
        case "pause" | "resume":
            await pause_schedule(client, options.verb == "pause")
        case "none":
            await remove_schedule(client)


def _shown(found: FoundSchedule) -> dict[str, Any]:
    return {
        "destination": found.destination,
        "when": found.when,
        "keep": found.keep,
        "paused": found.is_paused,
        "running": found.running,
        "lastSet": found.last_set,
        "lastAt": _instant(found.last_at),
        "unreadable": found.unreadable,
        "unpruned": found.unpruned,
        "nextAt": _instant(found.next_at),
    }


def _instant(moment: datetime | None) -> str | None:
    return None if moment is None else format_instant(moment)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m knit_workflows.backup.scheduled.ask")
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("--destination")
    parser.add_argument("--every", type=float, metavar="SECONDS")
    parser.add_argument("--cron")
    parser.add_argument("--keep", type=int)
    options = parser.parse_args(given)
    if options.verb == "set" and (
        options.destination is None or (options.every is None) == (options.cron is None)
    ):
        parser.error("set needs --destination, and --every or --cron")
    return options


async def show(options: argparse.Namespace) -> int:
    """Does it and prints what there is then; gives the exit code."""
    sys.stdout.write(f"{json.dumps(await _do(options))}\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Does it, and leaves the process."""
    run_and_leave(show(_arguments(arguments)))


if __name__ == "__main__":
    main()
