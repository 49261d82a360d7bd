"""`knit admin rebuild`: what can be known of a lost database without a backup."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from knit_cli.admin.verification import REBUILD, beside_dev, on_cluster
from knit_cli.commands.admin.options import (
    AsJson,
    Kubeconfig,
    Namespace,
    Settings,
    Verbose,
    administration,
)
from knit_cli.commands.admin.recovery.which import State, dev_folder
from knit_cli.errors import CliError
from knit_cli.invocation import invocation_of, login_name
from knit_cli.output import print_json, print_text

app = typer.Typer()


@app.command("rebuild")
def rebuild_command(
    context: typer.Context,
    state: State = None,
    settings: Settings = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    write: Annotated[
        bool,
        typer.Option("--write", help="Write it; without this, only show what would be written."),
    ] = False,
    unknown_is_done: Annotated[
        bool,
        typer.Option(
            "--unknown-is-done",
            help="Take Runs whose end nobody knows for done; otherwise they are failed.",
        ),
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Rebuild Data, Runs, Plans and lineage from volumes and Temporal, into an empty database.

    For a database that is lost, and of which there is no backup; `knit admin restore` brings back
    more. It says what cannot be known. It is written in one step; Plans are inactive afterwards.
    """
    invocation = invocation_of(context)
    arguments = [f"--by={login_name(invocation.surroundings.variables)}"]
    arguments += ["--write"] if write else []
    arguments += ["--unknown-is-done"] if unknown_is_done else []
    folder = dev_folder(invocation, state, named=bool(settings or namespace or kubeconfig))
    if folder is not None:
        lines = beside_dev(folder, invocation.surroundings.variables, REBUILD, arguments)
    else:
        work = administration(invocation, settings, namespace, kubeconfig, verbose)
        lines = on_cluster(work.cluster, REBUILD, arguments)
    result = _read(lines)
    if as_json:
        print_json(result)
    else:
        _show(result)


def _read(lines: Iterator[str]) -> dict[str, Any]:
    try:
        [result] = [json.loads(line) for line in lines]
    except ValueError as cause:
        raise CliError(
            "the rebuilding answers in another form",
            advice="is what is installed of this version?",
        ) from cause
    if problem := result.get("problem"):
        raise CliError("nothing can be rebuilt", reason=problem["reason"], advice=problem["advice"])
    found: dict[str, Any] = result
    return found


def _show(result: dict[str, Any]) -> None:
    found = ", ".join(f"{count:,} {what}" for what, count in result["found"].items())
    if result["already"]:
        print_text(f"it was rebuilt before, there is nothing to do: {found}")
        return
    print_text(f"{'rebuilt' if result['written'] else 'would be rebuilt'}: {found}")
    for what, count in result["missing"].items():
        print_text(f"✘ {count:,} {what}")
    for what in result["notKept"]:
        print_text(f"  not known: {what}")
    if not result["written"]:
        print_text("nothing is written yet: repeat the command with --write")
