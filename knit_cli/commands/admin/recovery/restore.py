"""`knit admin restore`: fills an empty installation from a backup."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Annotated, Any

import typer

from knit_cli.admin.backup import explained
from knit_cli.admin.backup.from_knitfab import restore_knitfab
from knit_cli.admin.backup.restored import restored_json
from knit_cli.admin.backup.watching import Bar
from knit_cli.commands.admin.options import AsJson, Kubeconfig, Namespace, Settings, Verbose
from knit_cli.commands.admin.recovery.which import Layout, State, installation, registry_beside
from knit_cli.errors import BadInput
from knit_cli.invocation import Invocation, invocation_of, login_name
from knit_cli.output import print_json, say
from knit_workflows.backup.destinations import Destination, open_destination
from knit_workflows.backup.installation import Installation
from knit_workflows.backup.knitfab.migrating import read_backup
from knit_workflows.backup.restoring import (
    check_set,
    choose_set,
    find_obstacles,
    require_images,
    restore,
)
from knit_workflows.backup.sets import BackupSet, load_set, set_ids

app = typer.Typer()

Source = Annotated[
    str, typer.Argument(metavar="SRC", help="A folder, or s3://BUCKET/PREFIX, with a backup.")
]
OfLayout = Annotated[
    Layout,
    typer.Option(
        help="knitfab: SRC is a folder with db, data and images, by the scripts of Knitfab v1.6."
    ),
]
AllowMissing = Annotated[
    bool,
    typer.Option(
        "--allow-missing",
        help="With --layout knitfab: purge Data whose content the backup lacks.",
    ),
]
SetId = Annotated[
    str | None, typer.Option("--set", metavar="ID", help="The set (default: the newest).")
]
ListSets = Annotated[bool, typer.Option("--list", help="List the sets, and do nothing else.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Check the whole set, and the installation; change nothing."),
]
Images = Annotated[
    bool,
    typer.Option("--images", help="Also write the set's images into the installation's registry."),
]
StorageClass = Annotated[
    str | None, typer.Option(metavar="NAME", help="The class of the claims that are made.")
]


@app.command("restore")
def restore_command(
    context: typer.Context,
    source: Source,
    set_id: SetId = None,
    list_sets: ListSets = False,
    dry_run: DryRun = False,
    images: Images = False,
    storage_class: StorageClass = None,
    layout: OfLayout = Layout.KNIT,
    allow_missing: AllowMissing = False,
    state: State = None,
    settings: Settings = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Restore a backup into an empty installation: first the volumes, at last the database.

    Everything is checked by its digest; nothing is switched on before all of it is there. If it is
    cut, repeat it: it goes on from there.
    """
    _require_sense(
        layout, list_sets=list_sets, dry_run=dry_run, set_id=set_id, allow_missing=allow_missing
    )
    invocation = invocation_of(context)
    opened = partial(
        installation,
        *(invocation, state, settings, namespace, kubeconfig, verbose),
        storage_class=storage_class,
    )
    if layout is Layout.KNITFAB:
        flags = {"dry_run": dry_run, "allow_missing": allow_missing, "as_json": as_json}
        _migrate(invocation, source, opened, flags, images=images)
        return
    with explained(), ExitStack() as stack:
        where = open_destination(source, invocation.surroundings.cwd, new=False)
        if list_sets:
            _list(where, as_json=as_json)
            return
        stack.enter_context(where.held())  # so that no backup prunes the set meanwhile
        chosen = choose_set(where, set_id)
        target = stack.enter_context(opened())
        done = (
            _try(invocation, where, chosen, target, images=images)
            if dry_run
            else _restore(invocation, where, chosen, target, images=images)
        )
    if as_json:
        print_json(_about(chosen) | done)
    _tell(chosen, done, target.shown)


def _require_sense(
    layout: Layout, *, list_sets: bool, dry_run: bool, set_id: str | None, allow_missing: bool
) -> None:
    if list_sets and dry_run:
        raise BadInput("--list and --dry-run exclude each other", advice="give one of them")
    if layout is Layout.KNITFAB and (list_sets or set_id is not None):
        raise BadInput("a backup of Knitfab has no sets", advice="leave --list and --set out")
    if layout is Layout.KNIT and allow_missing:
        raise BadInput("--allow-missing is for --layout knitfab", advice="leave it out")


def _migrate(
    invocation: Invocation,
    source: str,
    opened: Callable[[], AbstractContextManager[Installation]],
    flags: dict[str, bool],
    *,
    images: bool,
) -> None:
    if "://" in source:
        raise BadInput(f"{source} is no folder", advice="copy it into a folder first")
    with explained():
        backup = read_backup(invocation.path(source))
    with opened() as target:
        registry = registry_beside(target) if images else None
        restore_knitfab(invocation, backup, target, registry=registry, **flags)


def _try(
    invocation: Invocation,
    where: Destination,
    chosen: BackupSet,
    target: Installation,
    *,
    images: bool,
) -> dict[str, Any]:
    """Reads the whole set, its images too; and sees that there is a registry to write them to."""
    if images:
        require_images(chosen)
        registry_beside(target).blobs()
    bar = Bar(quiet=invocation.quiet)
    with bar.shown():
        restored = find_obstacles(chosen, target)
        size = check_set(where, chosen, bar)
    return {"dryRun": True, "bytes": size, "already": restored is not None}


def _restore(
    invocation: Invocation,
    where: Destination,
    chosen: BackupSet,
    target: Installation,
    *,
    images: bool,
) -> dict[str, Any]:
    registry = registry_beside(target) if images else None
    bar = Bar(quiet=invocation.quiet)
    by = login_name(invocation.surroundings.variables)
    with bar.shown():
        result = restore(where, chosen, target, bar, by=by, registry=registry)
    return restored_json(result) | {"imageBlobs": result.blobs if images else None}


def _tell(chosen: BackupSet, done: dict[str, Any], shown: str) -> None:
    if (blobs := done.get("imageBlobs")) is not None:
        say(f"images: {chosen.image_blobs:,} blobs, {blobs:,} of them written")
    elif chosen.image_index and not done["dryRun"]:
        say("the set has images; --images writes them into the registry")
    if done["already"]:
        say(f"set {chosen.id} was restored into {shown} before; there is nothing to do")
        return
    if done["dryRun"]:
        say(f"set {chosen.id} is whole, and {shown} can take it: {chosen.volumes:,} volumes")
        return
    say(
        f"set {chosen.id} is restored into {shown}, as it was at {chosen.at}: "
        f"{done['made']:,} volumes made, {done['equal']:,} were there, {done['seconds']} s"
    )
    if chosen.under_way:
        say(f"{chosen.under_way:,} Runs were under way then; they have failed: knit run retry")
    without = len(chosen.gone) + len(chosen.unreadable)
    if without:
        say(f"{without:,} Data have no content, since the backup could not read it: purged")


def _list(where: Destination, *, as_json: bool) -> None:
    found = [load_set(where, one) for one in set_ids(where)]
    if as_json:
        print_json([_about(one) for one in found])
        return
    if not found:
        say(f"there is no set in {where.shown}")
    for one in found:
        typer.echo(f"{one.id}  {one.at}  {one.volumes:,} volumes  {one.volume_bytes:,} bytes")


def _about(chosen: BackupSet) -> dict[str, Any]:
    return {
        "set": chosen.id,
        "at": chosen.at,
        "revision": chosen.revision,
        "knit": chosen.knit,
        "volumes": chosen.volumes,
        "volumeBytes": chosen.volume_bytes,
        "images": bool(chosen.image_index),
        "imageBytes": chosen.image_bytes,
        "runsUnderWay": chosen.under_way,
        "deletedMeanwhile": list(chosen.gone),
        "unreadable": chosen.unreadable,
    }
