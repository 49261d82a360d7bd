"""`knit dev up|status|down`: a whole knit on this machine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.live import Live

from knit_cli.dev.services import LOOPBACK, api_root, choose_ports
from knit_cli.dev.state import DevState, Ports, StateFolder
from knit_cli.dev.supervisor import START_WITHIN, Supervisor, end_processes
from knit_cli.dev.view import live, still
from knit_cli.errors import CliError
from knit_cli.invocation import Invocation, invocation_of
from knit_cli.output import say
from knit_cli.profile import Profile, mark_folder, save_profile
from knit_workflows.embedded import EmbeddedPostgres

dev_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

DEFAULT_STATE: Final = ".knit/dev"
StateOption = Annotated[
    str, typer.Option("--state", metavar="PATH", help="Folder that holds everything of it.")
]


@dev_app.callback()
def dev() -> None:
    """A whole knit on this machine: PostgreSQL, Temporal with its Web UI, API and worker."""


@dev_app.command()
def up(
    context: typer.Context,
    state: StateOption = DEFAULT_STATE,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when it is ready; it goes on.")
    ] = False,
    api_port: Annotated[int | None, typer.Option(help="Port of the API.")] = None,
    temporal_port: Annotated[int | None, typer.Option(help="Port of Temporal.")] = None,
    web_port: Annotated[int | None, typer.Option(help="Port of Temporal's Web UI.")] = None,
) -> None:
    """Starts the stack and makes `knit` use it in this folder; running already: shows it."""
    invocation = invocation_of(context)
    folder = StateFolder(invocation.path(state))
    folder.create()
    if _running(folder) is not None:
        say("knit is running already")
        status(context, state)
        return
    chosen = {"api": api_port, "temporal": temporal_port, "web_ui": web_port}
    last = folder.load()
    ports = choose_ports(chosen, last.ports if last else None)
    if detach:
        _detach(invocation, folder, ports)
        Console().print(still(_wait_until_ready(folder)))
        return
    _supervise(invocation, folder, ports)


@dev_app.command()
def status(
    context: typer.Context,
    state: StateOption = DEFAULT_STATE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Shows whether the stack runs, and where it listens; exit code 1 when it does not run."""
    running = _running(StateFolder(invocation_of(context).path(state)))
    if as_json or not sys.stdout.isatty():
        print(json.dumps(_as_json(running), indent=4))  # noqa: T201  the command's result
    elif running is not None:
        Console().print(still(running))
    else:
        say("knit is not running here; start it with `knit dev up`")
    if running is None:
        raise typer.Exit(1)


@dev_app.command()
def down(context: typer.Context, state: StateOption = DEFAULT_STATE) -> None:
    """Ends the stack; its state stays, and Runs go on at the next `knit dev up`."""
    folder = StateFolder(invocation_of(context).path(state))
    record = folder.load()
    if record is None:
        say("knit is not running here")
        return
    supervisor = record.supervisor.process() if record.supervisor else None
    if supervisor is not None:
        supervisor.terminate()
        supervisor.wait(START_WITHIN)
    else:
        # The supervisor was killed: what it left is ended here, PostgreSQL too.
        end_processes(record)
        if (folder.postgres / "postmaster.pid").exists():
            postgres = EmbeddedPostgres(folder.postgres)
            postgres.start()
            postgres.stop()
        folder.save(DevState(ports=record.ports))
    say("knit is down; its state stays in " + str(folder.root))


def _supervise(invocation: Invocation, folder: StateFolder, ports: Ports) -> None:
    stopping: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopping.append(number)
        # A second signal while it is ending must not interrupt the end.

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    with folder.locked() as mine:
        if not mine:
            raise CliError(
                "another `knit dev up` holds this state folder",
                reason=str(folder.root),
                advice="look at it with `knit dev status`, or choose another --state",
            )
        _write_profile(invocation, ports)
        console = Console(stderr=True)
        supervisor = Supervisor(folder, ports)
        with Live(console=console, refresh_per_second=4, transient=not console.is_terminal) as view:
            supervisor.changed = lambda it: view.update(live(it, folder))
            supervisor.run(until=lambda: bool(stopping))


def _detach(invocation: Invocation, folder: StateFolder, ports: Ports) -> None:
    command = [
        *(sys.executable, "-m", "knit_cli", "--profile", _profile_name(invocation)),
        *("--profile-store", str(invocation.store_path)),
        *("dev", "up", "--state", str(folder.root)),
        *("--api-port", str(ports.api), "--temporal-port", str(ports.temporal)),
        *("--web-port", str(ports.web_ui)),
    ]
    with (folder.logs / "supervisor.log").open("wb") as log:
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_until_ready(folder: StateFolder) -> DevState:
    deadline = time.monotonic() + START_WITHIN
    while time.monotonic() < deadline:
        record = _running(folder)
        if record is not None and record.ready:
            return record
        time.sleep(0.05)
    raise CliError(
        "knit does not start",
        reason=(folder.logs / "supervisor.log").read_text(encoding="utf-8", errors="replace"),
        advice=f"look into {folder.logs}",
    )


def _write_profile(invocation: Invocation, ports: Ports) -> None:
    folder = invocation.surroundings.cwd
    name = _profile_name(invocation)
    save_profile(Profile(api_root(ports)), store=invocation.store_path, name=name)
    mark_folder(folder, name)


def _profile_name(invocation: Invocation) -> str:
    # Not the nearest .knitprofile's: that may be another project's, in an ancestor.
    return invocation.profile or str(invocation.surroundings.cwd.absolute())


def _running(folder: StateFolder) -> DevState | None:
    record = folder.load()
    if record is None or record.supervisor is None or record.supervisor.process() is None:
        return None
    return record


def _as_json(record: DevState | None) -> dict[str, object]:
    if record is None:
        return {"running": False}
    return {
        "running": True,
        "ready": record.ready,
        "api": api_root(record.ports),
        "temporal": f"{LOOPBACK}:{record.ports.temporal}",
        "webUi": f"http://{LOOPBACK}:{record.ports.web_ui}",
        "processes": {name: mark.pid for name, mark in record.processes.items()},
    }
