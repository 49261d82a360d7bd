"""`knit admin backup --every`, `--cron` and `--schedule`: what is asked, and what is there."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from posixpath import normpath
from typing import Final

from knit_cli.admin.backup.scheduling import Scheduled
from knit_cli.errors import BadInput, printable
from knit_cli.invocation import Invocation
from knit_cli.output import print_json, print_text
from knit_cli.time_flags import read_duration
from knit_workflows.backup.destinations import is_address

_MOUNT: Final = "/backups/"
"""Where the chart mounts the claim that `backup.claim` names."""


class Verb(StrEnum):
    """What can be done about the schedule that is there."""

    SHOW = "show"
    PAUSE = "pause"
    RESUME = "resume"
    NONE = "none"


def program_arguments(
    invocation: Invocation,
    destination: str | None,
    keep: int | None,
    every: str | None,
    cron: str | None,
    schedule: Verb | None,
) -> Callable[[bool], list[str]]:
    """Gives the arguments of the program that does it, once it is known whether here or not.

    Raises:
        BadInput: the options do not go together.
    """
    if schedule is not None:
        if destination is not None or keep is not None or every is not None or cron is not None:
            raise BadInput(
                f"--schedule {schedule.value} is about the schedule that is there",
                advice="leave the rest out; to change it, repeat DEST with --every or --cron",
            )
        return lambda _: [schedule.value]
    if destination is None or (every is None) == (cron is None):
        raise BadInput(
            "a schedule needs a destination, and --every or --cron",
            advice="such as: knit admin backup /backups/knit --every 6h --keep 14",
        )
    given = [] if keep is None else [f"--keep={keep}"]
    if every is not None:
        seconds = read_duration(every, "--every").total_seconds()
        if seconds < 1:
            raise BadInput("--every is at least 1s", advice="write it like 6h or 30m")
        given.append(f"--every={seconds}")
    else:
        given.append(f"--cron={cron}")
    return lambda here: ["set", f"--destination={_named(invocation, destination, here)}", *given]


def _named(invocation: Invocation, destination: str, here: bool) -> str:
    """Gives the destination as it is named where backups are taken."""
    if is_address(destination):
        return destination
    if here:
        return str(invocation.path(destination))
    if not f"{normpath(destination)}/".startswith(_MOUNT):
        raise BadInput(
            f"{destination} would be a folder in the worker's pod, and be lost with it",
            advice="name s3://BUCKET/PREFIX, or /backups/… on the claim that backup.claim names",
        )
    return destination


def show_schedule(found: Scheduled, as_json: bool) -> None:
    """Says where to, when, and what came of it last."""
    if as_json:
        print_json({"schedule": found.schedule, "workers": found.workers})
        return
    one = found.schedule
    if one is None:
        print_text("no backup is scheduled")
        return
    kept = "" if one["keep"] is None else f", the newest {one['keep']:,} sets are kept"
    print_text(printable(f"backups into {one['destination']}: {one['when']}{kept}"))
    if one["paused"]:
        print_text("paused: knit admin backup --schedule resume")
    elif one["nextAt"]:
        print_text(f"the next one begins at {one['nextAt']}")
    if one["running"]:
        print_text("one is being taken")
    last = "none yet" if one["lastSet"] is None else f"{one['lastAt']}, set {one['lastSet']}"
    print_text(f"last complete set: {last}")
    if one["unreadable"]:
        print_text(f"it is without {one['unreadable']:,} Data that could not be read")
    if unpruned := one.get("unpruned"):  # which an earlier worker does not say
        print_text(printable(f"older sets could not be removed: {unpruned}"))
    if not found.workers:
        print_text("no worker takes backups: start one with the role backup")
