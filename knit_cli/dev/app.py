"""`knit dev up|status|down`: a complete knit on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.live import Live

from knit_cli.config.profile import Profile, mark_folder, save_profile
from knit_cli.dev.dev_folder import RECORD, DevFolder, DevState, Ports
from knit_cli.dev.ports import LOOPBACK
from knit_cli.dev.prerequisites import obtain_prerequisites, open_way_to_database
from knit_cli.dev.services import api_root
from knit_cli.dev.shutdown import leftovers, stop_leftovers, stop_supervisor
from knit_cli.dev.startup import running_detached, supervise, wait_until_settled
from knit_cli.dev.view import disk_facts, disk_line, live, snapshot, trash_lines
from knit_cli.errors import BadInput, CliError
from knit_cli.invocation import Invocation, find_upward, invocation_of
from knit_cli.output import say
from knit_workflows.hooks.document import HooksRefused
from knit_workflows.hooks.file import read_hooks_file
from knit_workflows.settings import path_variables
from knit_workflows.settings.extra_apis import ExtraApisRefused, read_extra_apis

dev_app = typer.Typer()

DEFAULT_STATE: Final = ".knit/dev"
StateOption = Annotated[
    str, typer.Option("--state", metavar="PATH", help="Folder for everything that belongs to it.")
]
NearestState = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="PATH",
        help=f"Folder of the stack (default: the nearest {DEFAULT_STATE}).",
    ),
]


@dev_app.command()
def up(
    context: typer.Context,
    state: StateOption = DEFAULT_STATE,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when it is ready, and leave it running.")
    ] = False,
    hooks: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Lists URLs that are asked before the status of a Run changes, or told after it.",
        ),
    ] = None,
    extra_apis: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Lists paths of the API that other services serve."),
    ] = None,
    api_port: Annotated[int | None, typer.Option(help="Port of the API.")] = None,
    temporal_port: Annotated[int | None, typer.Option(help="Port of Temporal.")] = None,
    web_port: Annotated[int | None, typer.Option(help="Port of Temporal's Web UI.")] = None,
) -> None:
    """Start the stack and make `knit` use it in this folder; if it runs already, show it."""
    invocation = invocation_of(context)
    folder = DevFolder(invocation.path(state))
    settings = _absolute_paths(invocation)
    if hooks is not None:
        settings["KNIT_HOOKS__FILE"] = str(_checked_hooks(invocation.path(hooks)))
    if extra_apis is not None:
        settings["KNIT_EXTRA_APIS__CONFIG"] = str(_checked_extra_apis(invocation.path(extra_apis)))
    _mention_stack_above(invocation, folder)
    folder.create()
    ports = {"api": api_port, "temporal": temporal_port, "web_ui": web_port}
    record = wait_until_settled(folder)
    if record is not None:
        say("knit is already running")
        for flag, given in (("--hooks", hooks), ("--extra-apis", extra_apis)):
            if given is not None:
                say(f"{flag} counts only when it starts; use it after `knit dev down`")
    else:
        # Here and not in the supervisor, because it may take minutes and the user should see it.
        obtain_prerequisites(quiet=invocation.quiet)
        open_way_to_database(folder.postgres)
        if detach:
            record = running_detached(folder, ports, settings=settings)
    if record is not None:
        _use_here(invocation, record.ports)
        Console().print(snapshot(record))
        return
    _supervise_here(invocation, folder, ports, settings)


@dev_app.command()
def status(
    context: typer.Context,
    state: NearestState = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show whether the stack runs, its addresses and free disk space; exit code 1 if it is down.

    Inside the folder of a stack, that one is meant.
    """
    folder = _found(invocation_of(context), state)
    running = folder.running()
    if as_json or not sys.stdout.isatty():
        print(json.dumps(_as_json(running, folder), indent=4))  # noqa: T201  its result
    elif running is not None:
        Console().print(snapshot(running), disk_line(folder, running), *trash_lines(folder))
    elif leftovers(folder):
        say("its supervisor was killed, but other processes run; restart it with `knit dev up`")
    else:
        say("knit is not running here; start it with `knit dev up`")
    if running is None:
        raise typer.Exit(1)


@dev_app.command()
def down(context: typer.Context, state: NearestState = None) -> None:
    """Stop the stack; its state is kept, and Runs continue at the next `knit dev up`.

    Inside the folder of a stack, that one is meant.
    """
    folder = _found(invocation_of(context), state)
    running = folder.running()
    if running is not None and running.supervisor is not None:
        stop_supervisor(running.supervisor)
    elif not folder.root.is_dir():
        say("knit is not running here")
        return
    with folder.locked() as mine:
        if not mine:
            raise CliError(
                "knit is being restarted",
                reason=f"another command holds {folder.root}",
                advice="check it with `knit dev status`",
            )
        # A killed supervisor leaves its processes running, PostgreSQL too.
        left = stop_leftovers(folder)
        record = folder.load()
        if record is not None and record.supervisor is not None:
            folder.save(DevState(ports=record.ports))
    if running is None and not left:
        say("knit is not running here")
        return
    say(f"knit is down; its state is kept in {folder.root}")


def _found(invocation: Invocation, state: str | None) -> DevFolder:
    """Gives the folder of --state, else the nearest one with a record, else the cwd's.

    So, like `.knitprofile`, it is found from any folder below.
    """
    if state is not None:
        return DevFolder(invocation.path(state))
    return _nearest(invocation) or DevFolder(invocation.path(DEFAULT_STATE))


def _nearest(invocation: Invocation) -> DevFolder | None:
    record = find_upward(invocation.surroundings.cwd, f"{DEFAULT_STATE}/{RECORD}")
    return None if record is None else DevFolder(record.parent)


def _mention_stack_above(invocation: Invocation, folder: DevFolder) -> None:
    """Mentions a stack that runs in a parent folder, which the user may have meant."""
    above = _nearest(invocation)
    if above is None or above.root == folder.root or above.running() is None:
        return
    say(f"another knit runs in a parent folder ({above.root}); this folder gets its own")


def _absolute_paths(invocation: Invocation) -> dict[str, str]:
    """Gives the settings that are paths as they are meant here: the stack has another folder."""
    variables = invocation.surroundings.variables
    given = {name: variables.get(name) for name in sorted(path_variables())}
    return {name: str(invocation.path(path).absolute()) for name, path in given.items() if path}


def _checked_hooks(hooks: Path) -> Path:
    """Gives the path of a hooks file from everywhere; raises BadInput if it is not a valid one."""
    try:
        read_hooks_file(hooks)
    except HooksRefused as cause:
        raise BadInput(
            "the hooks file cannot be used",
            reason=str(cause),
            advice="correct it; docs/reference/hooks.md describes it",
        ) from cause
    return hooks.absolute()


def _checked_extra_apis(file: Path) -> Path:
    """Gives the path of a file of extra APIs from everywhere; raises BadInput."""
    try:
        read_extra_apis(file)
    except ExtraApisRefused as cause:
        raise BadInput(
            "the file of extra APIs cannot be used",
            reason=str(cause),
            advice="correct it; docs/how-to/extra-apis.md describes it",
        ) from cause
    return file.absolute()


def _supervise_here(
    invocation: Invocation,
    folder: DevFolder,
    ports: dict[str, int | None],
    settings: Mapping[str, str],
) -> None:
    console = Console(stderr=True)

    def use_ports(chosen: Ports) -> None:
        _use_here(invocation, chosen)

    if not console.is_terminal:
        mine = supervise(folder, ports, settings=settings, on_ports=use_ports)
    else:
        view = Live(console=console, refresh_per_second=4)
        view.start()
        try:
            mine = supervise(
                folder,
                ports,
                settings=settings,
                on_ports=use_ports,
                on_change=lambda it: view.update(live(it, folder)),
            )
        finally:
            with suppress(OSError):  # the terminal may have been closed
                view.stop()
    if not mine:
        raise CliError(
            "another `knit dev up` is using this state folder",
            reason=str(folder.root),
            advice="check it with `knit dev status`, or choose another --state",
        )


def _use_here(invocation: Invocation, ports: Ports) -> None:
    """Saves a profile for the stack, and makes this folder use it."""
    folder = invocation.surroundings.cwd
    # Not the name in the nearest .knitprofile, which may belong to another project above.
    name = invocation.profile or str(folder.absolute())
    save_profile(Profile(api_root(ports)), store=invocation.store_path, name=name)
    mark_folder(folder, name)


def _as_json(record: DevState | None, folder: DevFolder) -> dict[str, object]:
    if record is None:
        return {"running": False}
    return {
        "running": True,
        "ready": record.ready,
        "api": api_root(record.ports),
        "temporal": f"{LOOPBACK}:{record.ports.temporal}",
        "webUi": f"http://{LOOPBACK}:{record.ports.web_ui}",
        "processes": {name: mark.pid for name, mark in record.processes.items()},
        "supervisor": record.supervisor.pid if record.supervisor else None,
        "disk": disk_facts(folder, record),
    }
