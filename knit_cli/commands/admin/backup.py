"""`knit admin backup`: takes a consistent set while Runs go on, now or by a schedule."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from knit_cli.admin.backup import explained
from knit_cli.admin.backup.scheduling import Scheduled, beside_dev, on_cluster
from knit_cli.admin.backup.to_knitfab import back_up_as_knitfab
from knit_cli.admin.backup.watching import Bar
from knit_cli.commands.admin.options import (
    AsJson,
    Kubeconfig,
    Namespace,
    Settings,
    Verbose,
    administration,
)
from knit_cli.commands.admin.which import Layout, State, dev_folder, installation
from knit_cli.errors import BadInput, printable
from knit_cli.invocation import Invocation, invocation_of
from knit_cli.output import print_json, print_text, say
from knit_cli.time_flags import read_duration
from knit_workflows.backup.destinations import open_destination
from knit_workflows.backup.taking import Taken, take_backup

app = typer.Typer()


class Verb(StrEnum):
    """What can be done about the schedule that is there."""

    SHOW = "show"
    PAUSE = "pause"
    RESUME = "resume"
    NONE = "none"


@app.command("backup")
def backup_command(
    context: typer.Context,
    destination: Annotated[
        str | None, typer.Argument(metavar="DEST", help="A folder, or s3://BUCKET/PREFIX.")
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Remove all but the newest N sets afterwards."),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="Take one each time this has passed, such as 6h, from now on."
        ),
    ] = None,
    cron: Annotated[
        str | None,
        typer.Option(
            metavar="EXPRESSION",
            help="Take one at these times, in UTC, from now on: '15 2 * * *'.",
        ),
    ] = None,
    schedule: Annotated[
        Verb | None,
        typer.Option(help="Show the schedule, pause or resume it, or end it (none)."),
    ] = None,
    layout: Annotated[
        Layout,
        typer.Option(help="knitfab: write db and data as the scripts of Knitfab v1.6 do."),
    ] = Layout.KNIT,
    state: State = None,
    settings: Settings = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Take a backup: the database at one instant, and all volumes that were final by then.

    Runs go on meanwhile. What the destination has already is not read again. If it is cut, repeat
    it: it goes on from there. Exit code 1 if Data could not be read; the set is there without them,
    and no older one is removed.

    With --every or --cron nothing is taken here: a worker takes the backups, one at once, and the
    others in time.
    """
    invocation = invocation_of(context)
    if schedule is not None or every is not None or cron is not None:
        if layout is Layout.KNITFAB:
            raise BadInput(
                "a schedule takes backups as knit's own sets", advice="leave --layout knitfab out"
            )
        arguments = _of_schedule(invocation, destination, keep, every, cron, schedule)
        folder = dev_folder(invocation, state, named=bool(settings or namespace or kubeconfig))
        if folder is not None:
            found = beside_dev(folder, invocation.surroundings.variables, arguments(True))
        else:
            work = administration(invocation, settings, namespace, kubeconfig, verbose)
            found = on_cluster(work.cluster, arguments(False))
        _show_schedule(found, as_json)
        return
    if destination is None:
        raise BadInput(
            "where to is missing",
            advice="name a folder or s3://BUCKET/PREFIX, or add --schedule show",
        )
    if layout is Layout.KNITFAB:
        if keep is not None:
            raise BadInput("a backup for Knitfab has no sets", advice="leave --keep out")
        with installation(invocation, state, settings, namespace, kubeconfig, verbose) as source:
            back_up_as_knitfab(invocation, source, destination, as_json=as_json)
        return
    with explained():
        target = open_destination(destination, invocation.surroundings.cwd, new=True)
    bar = Bar(quiet=invocation.quiet)
    with (
        installation(invocation, state, settings, namespace, kubeconfig, verbose) as source,
        bar.shown(),
    ):
        taken = take_backup(source, target, bar, keep=keep)
    if as_json:
        print_json(_as_json(taken, target.shown))
    _tell(taken, target.shown)
    if keep is not None and taken.set.unreadable:
        say("no older set is removed, since one may have what could not be read")
    if taken.set.unreadable:
        raise typer.Exit(1)


def _of_schedule(
    invocation: Invocation,
    destination: str | None,
    keep: int | None,
    every: str | None,
    cron: str | None,
    schedule: Verb | None,
) -> Callable[[bool], list[str]]:
    """Gives the arguments of the program that does it, once it is known whether here or not."""
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
        given.append(f"--every={seconds:g}")
    else:
        given.append(f"--cron={cron}")
    return lambda here: ["set", f"--destination={_named(invocation, destination, here)}", *given]


def _named(invocation: Invocation, destination: str, here: bool) -> str:
    """Gives the destination as it is named where backups are taken."""
    if "://" in destination or destination.startswith("/"):
        return destination
    if not here:
        raise BadInput(
            f"{destination} would be a folder in the worker's pod",
            advice="name s3://BUCKET/PREFIX, or /backups/… on the claim that backup.claim names",
        )
    return str(invocation.path(destination))


def _show_schedule(found: Scheduled, as_json: bool) -> None:
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
    if not found.workers:
        print_text("no worker takes backups: start one with the role backup")


def _tell(taken: Taken, shown: str) -> None:
    made = taken.set
    say(
        f"set {made.id} is in {shown}: {made.volumes:,} volumes, {taken.read:,} of them read; "
        f"{_mib(taken.read_bytes)} read, {_mib(taken.stored_bytes)} stored, {taken.seconds:.1f} s"
    )
    if made.under_way:
        say(
            f"{made.under_way:,} Runs were under way at {made.at}; their outputs are not part of it"
        )
    if made.gone:
        say(f"{len(made.gone):,} Data were deleted meanwhile; the set says which")
    for knit_id, why in made.unreadable.items():
        say(f"Data {knit_id} could not be read: {why}")
    for set_id, why in taken.damaged.items():
        say(f"the earlier set {set_id} is damaged, and was of no use here: {why}")
    if taken.pruned:
        say(f"removed {len(taken.pruned):,} older sets")


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"


def _as_json(taken: Taken, shown: str) -> dict[str, Any]:
    made = taken.set
    return {
        "destination": shown,
        "set": made.id,
        "at": made.at,
        "ended": made.ended,
        "revision": made.revision,
        "runsUnderWay": made.under_way,
        "rows": sum(table.rows for table in made.tables),
        "volumes": made.volumes,
        "volumeBytes": made.volume_bytes,
        "volumesRead": taken.read,
        "bytesRead": taken.read_bytes,
        "bytesStored": taken.stored_bytes,
        "seconds": round(taken.seconds, 1),
        "deletedMeanwhile": list(made.gone),
        "unreadable": made.unreadable,
        "removedSets": list(taken.pruned),
        "damagedSets": taken.damaged,
    }
