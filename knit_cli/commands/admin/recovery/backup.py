"""`knit admin backup`: takes a consistent set while Runs go on, now or by a schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from knit_cli.admin.backup import explained
from knit_cli.admin.backup.schedule_options import Verb, program_arguments, show_schedule
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
from knit_cli.commands.admin.recovery.which import (
    Layout,
    State,
    dev_folder,
    installation,
    registry_beside,
)
from knit_cli.errors import BadInput
from knit_cli.invocation import Invocation, invocation_of
from knit_cli.output import print_json, say
from knit_workflows.backup.destinations import Destination, open_destination
from knit_workflows.backup.images import Registry
from knit_workflows.backup.installation import Installation
from knit_workflows.backup.taking import Taken, take_backup

app = typer.Typer()


Where = Annotated[
    str | None, typer.Argument(metavar="DEST", help="A folder, or s3://BUCKET/PREFIX.")
]
Keep = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Remove all but the newest N sets afterwards."),
]
Every = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION",
        help="Have a worker take one this often: one now, then at multiples of it since 1970 in "
        "UTC (6h: at 0, 6, 12 and 18 o'clock).",
    ),
]
Cron = Annotated[
    str | None,
    typer.Option(
        metavar="EXPRESSION",
        help="Have a worker take one now, and at these times, in UTC: '15 2 * * *'.",
    ),
]
Schedule = Annotated[
    Verb | None, typer.Option(help="Show the schedule, pause or resume it, or end it (none).")
]
Images = Annotated[
    bool, typer.Option("--images", help="Also the images in the installation's own registry.")
]
OfLayout = Annotated[
    Layout, typer.Option(help="knitfab: write db and data as the scripts of Knitfab v1.6 do.")
]


@app.command("backup")
def backup_command(
    context: typer.Context,
    destination: Where = None,
    keep: Keep = None,
    images: Images = False,
    every: Every = None,
    cron: Cron = None,
    schedule: Schedule = None,
    layout: OfLayout = Layout.KNIT,
    state: State = None,
    settings: Settings = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Take a backup: the database at one instant, and all volumes that were final by then.

    Runs go on meanwhile. What the destination has already is not read again. If it is cut, repeat
    it: it goes on from there. Exit code 1 if Data or images could not be read; the set is there
    without them, and no older one is removed. Also if older ones cannot be removed: the new one is
    there.

    With --every or --cron nothing is taken here: a worker takes the backups, one immediately, the
    others when they are due.
    """
    invocation = invocation_of(context)
    where = (state, settings, namespace, kubeconfig, verbose)
    if schedule is not None or every is not None or cron is not None:
        if layout is Layout.KNITFAB or images:
            raise BadInput(
                "a schedule takes backups as knit's own sets, of Data and database",
                advice="leave --layout knitfab and --images out",
            )
        arguments = program_arguments(invocation, destination, keep, every, cron, schedule)
        show_schedule(_schedule(invocation, arguments, *where), as_json)
        return
    if destination is None:
        raise typer.BadParameter(
            "name a folder or s3://BUCKET/PREFIX, or use --schedule show", param_hint="DEST"
        )
    if layout is Layout.KNITFAB:
        if keep is not None:
            raise BadInput("a backup for Knitfab has no sets", advice="leave --keep out")
        with installation(invocation, *where) as source:
            registry = registry_beside(source) if images else None
            back_up_as_knitfab(invocation, source, destination, registry, as_json=as_json)
        return
    with explained():
        target = open_destination(destination, invocation.surroundings.cwd, new=True)
    with installation(invocation, *where) as source:
        registry = registry_beside(source) if images else None
        _take(invocation, source, target, keep, registry, as_json=as_json)


def _schedule(
    invocation: Invocation,
    arguments: Callable[[bool], list[str]],
    state: str | None,
    settings: str | None,
    namespace: str | None,
    kubeconfig: str | None,
    verbose: bool,
) -> Scheduled:
    """Sets or asks for the schedule of the installation that is meant."""
    folder = dev_folder(invocation, state, named=bool(settings or namespace or kubeconfig))
    if folder is not None:
        return beside_dev(folder, invocation.surroundings.variables, arguments(True))
    work = administration(invocation, settings, namespace, kubeconfig, verbose)
    return on_cluster(work.cluster, arguments(False))


def _take(
    invocation: Invocation,
    source: Installation,
    target: Destination,
    keep: int | None,
    registry: Registry | None,
    *,
    as_json: bool,
) -> None:
    """Takes a backup and tells of it; raises typer.Exit if Data could not be read."""
    bar = Bar(quiet=invocation.quiet)
    with bar.shown():
        taken = take_backup(source, target, bar, keep=keep, registry=registry)
    if as_json:
        print_json(_as_json(taken, target.shown))
    _tell(taken, target.shown)
    unreadable = taken.set.unreadable or taken.set.image_unreadable
    if keep is not None and unreadable:
        say("no older set is removed, since one may have what could not be read")
    if taken.unpruned:
        say(f"the set is there, but older ones could not be removed: {taken.unpruned}")
    if unreadable or taken.unpruned:
        raise typer.Exit(1)


def _tell(taken: Taken, shown: str) -> None:
    made = taken.set
    say(
        f"set {made.id} is in {shown}: {made.volumes:,} volumes, {taken.read:,} of them read; "
        f"{_mib(taken.read_bytes)} read, {_mib(taken.stored_bytes)} stored, {taken.seconds:.1f} s"
    )
    if made.image_index:
        say(
            f"images: {made.image_blobs:,} blobs, {taken.blobs_read:,} of them read; "
            f"{_mib(made.image_bytes)} in all"
        )
    if made.under_way:
        say(
            f"{made.under_way:,} Runs were under way at {made.at}; their outputs are not part of it"
        )
    if made.gone:
        say(f"{len(made.gone):,} Data were deleted meanwhile; the set says which")
    for knit_id, why in made.unreadable.items():
        say(f"Data {knit_id} could not be read: {why}")
    for digest, why in made.image_unreadable.items():
        say(
            f"the image blob sha256:{digest} is rotten, and no part of it: {why}; remove it from "
            "the registry's volume, then push what has it again"
        )
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
        "imageBlobs": made.image_blobs,
        "imageBytes": made.image_bytes,
        "imageBlobsRead": taken.blobs_read,
        "imageBlobsUnreadable": made.image_unreadable,
        "seconds": round(taken.seconds, 1),
        "deletedMeanwhile": list(made.gone),
        "unreadable": made.unreadable,
        "removedSets": list(taken.pruned),
        "unpruned": taken.unpruned,
        "damagedSets": taken.damaged,
    }
