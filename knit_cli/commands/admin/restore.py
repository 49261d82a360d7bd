"""`knit admin restore`: fills an empty installation from a backup."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any

import typer

from knit_cli.admin.backup import explained
from knit_cli.admin.backup.watching import Bar
from knit_cli.commands.admin.options import AsJson, Kubeconfig, Namespace, Settings, Verbose
from knit_cli.commands.admin.which import State, installation
from knit_cli.errors import BadInput
from knit_cli.invocation import invocation_of, login_name
from knit_cli.output import print_json, say
from knit_workflows.backup.destinations import Destination, open_destination
from knit_workflows.backup.installation import Installation
from knit_workflows.backup.restoring import (
    check_set,
    choose_set,
    find_obstacles,
    restore,
)
from knit_workflows.backup.sets import BackupSet, load_set, set_ids

app = typer.Typer()

Source = Annotated[
    str, typer.Argument(metavar="SRC", help="A folder, or s3://BUCKET/PREFIX, with a backup.")
]
SetId = Annotated[
    str | None, typer.Option("--set", metavar="ID", help="The set (default: the newest).")
]
ListSets = Annotated[bool, typer.Option("--list", help="List the sets, and do nothing else.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Check the whole set, and the installation; change nothing."),
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
    storage_class: StorageClass = None,
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
    if list_sets and dry_run:
        raise BadInput("--list and --dry-run exclude each other", advice="give one of them")
    invocation = invocation_of(context)
    with explained(), ExitStack() as stack:
        where = open_destination(source, invocation.surroundings.cwd, new=False)
        if list_sets:
            _list(where, as_json=as_json)
            return
        stack.enter_context(where.held())  # so that no backup prunes the set meanwhile
        chosen = choose_set(where, set_id)
        target = stack.enter_context(
            installation(
                *(invocation, state, settings, namespace, kubeconfig, verbose),
                storage_class=storage_class,
            )
        )
        bar = Bar(quiet=invocation.quiet)
        with bar.shown():
            if dry_run:
                done = _try(where, chosen, target, bar)
            else:
                by = login_name(invocation.surroundings.variables)
                done = _restore(where, chosen, target, bar, by)
    if as_json:
        print_json(_about(chosen) | done)
    _tell(chosen, done, target.shown)


def _try(where: Destination, chosen: BackupSet, target: Installation, bar: Bar) -> dict[str, Any]:
    restored = find_obstacles(chosen, target)
    size = check_set(where, chosen, bar)
    return {"dryRun": True, "bytes": size, "already": restored is not None}


def _restore(
    where: Destination, chosen: BackupSet, target: Installation, bar: Bar, by: str
) -> dict[str, Any]:
    result = restore(where, chosen, target, bar, by=by)
    return {
        "dryRun": False,
        "made": result.made,
        "equal": result.equal,
        "already": result.already,
        "seconds": round(result.seconds, 1),
    }


def _tell(chosen: BackupSet, done: dict[str, Any], shown: str) -> None:
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
        "runsUnderWay": chosen.under_way,
        "deletedMeanwhile": list(chosen.gone),
        "unreadable": chosen.unreadable,
    }
