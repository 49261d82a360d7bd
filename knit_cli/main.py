"""The entry point of `knit`: composes it, and turns every error into an exit code."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from typer.main import get_command

from knit_cli.errors import EXIT_FAILURE, CliError, render
from knit_cli.invocation import Invocation, Surroundings, invocation_of
from knit_cli.os_failures import cannot_write_result, explain
from knit_cli.shell.arguments import BASH_PREFIX, join_bash_words
from knit_cli.shell.lazy import Entry, TopGroup
from knit_cli.signals import end_on_signals, ended_by
from knit_cli.standard_streams import close_quietly, open_missing
from knit_cli.version import version
from knit_workflows import tracing

_INTERRUPTED = 130  # Typer's exit code for Ctrl-C
_COMPLETING = "_KNIT_COMPLETE"  # set by a shell that completes a line


class KnitGroup(TopGroup):
    """The top-level commands."""

    entries = {  # noqa: RUF012  declared ClassVar where it comes from
        "init": Entry(
            "knit_cli.commands.init:app", "Save a profile, and use it in this folder.", single=True
        ),
        "data": Entry("knit_cli.commands.nouns:data", "Push, pull, find, tag and trace Data."),
        "plan": Entry("knit_cli.commands.nouns:plan", "Register, show and change Plans."),
        "run": Entry("knit_cli.commands.nouns:run", "Find, show, stop, retry and delete Runs."),
        "status": Entry(
            "knit_cli.commands.status:app", "Show what runs, waits and fails.", single=True
        ),
        "hook": Entry(
            "knit_cli.commands.nouns:hook", "See and steer the calls of lifecycle hooks."
        ),
        "login": Entry(
            "knit_cli.commands.login:app", "Log in at your knit's identity provider.", single=True
        ),
        "logout": Entry("knit_cli.commands.login:app", "End your login.", single=True),
        "whoami": Entry("knit_cli.commands.login:app", "Show who you are to knit.", single=True),
        "admin": Entry("knit_cli.commands.admin:app", "Install knit on a cluster, look after it."),
        "dev": Entry("knit_cli.commands.nouns:dev", "A complete knit on this machine."),
        "version": Entry("knit_cli.commands.about:app", "Show the version.", single=True),
        "license": Entry("knit_cli.commands.about:app", "Show the licences.", single=True),
    }


app = typer.Typer(
    name="knit",
    cls=KnitGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: half the start-up time of the decorated one, and it pipes and greps well.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"knit {version()}\n")
        raise typer.Exit


@app.callback()
def knit(
    context: typer.Context,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the profile to use (default: that in the nearest .knitprofile).",
        ),
    ] = None,
    profile_store: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="File with the profiles (default: ~/.knit/profile)."),
    ] = None,
    env: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Project defaults (default: the nearest knitenv)."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress bars.")] = False,
    _: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Runs containers as soon as the data they need exists, and records what came from what."""
    context.obj = replace(
        invocation_of(context), profile=profile, profile_store=profile_store, env=env, quiet=quiet
    )


def run(arguments: Sequence[str], surroundings: Surroundings) -> int:
    """Runs one command line and returns its exit code.

    0: success, 1: failure or Ctrl-C, 2: wrong usage, 128 + N: ended by another signal N. Results
    go to stdout, messages and errors to stderr. No exception escapes.
    """
    command = get_command(app)
    try:
        command.main(list(arguments), prog_name="knit", obj=Invocation(surroundings))
    except SystemExit as end:
        return _exit_code(end)
    except KeyboardInterrupt:  # before or after Typer handles it
        return _exit_code(SystemExit(_INTERRUPTED))
    except CliError as error:
        _print_error(render(error))
        return error.exit_code
    except Exception as error:  # noqa: BLE001  users see no traceback
        _print_error(render(explain(error) or _bug()))
        return EXIT_FAILURE
    return 0


def _exit_code(end: SystemExit) -> int:
    if end.code == _INTERRUPTED:
        _print_error("interrupted")
        return EXIT_FAILURE
    if message := ended_by(end.code):
        with suppress(OSError):  # the terminal may be gone
            _print_error(message)
    return end.code if isinstance(end.code, int) else EXIT_FAILURE if end.code else 0


def _bug() -> CliError:
    trace = traceback.format_exc()
    try:
        handle, name = tempfile.mkstemp(prefix="knit-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(trace)
        advice = f"please report it with the file {name}"
    except OSError:  # such as a full disk, which may be the cause
        advice = "please report it with the command you typed"
    last = trace.strip().rpartition("\n")[2]
    return CliError("knit failed because of a bug", reason=last, advice=advice)


def _print_error(text: str) -> None:
    with suppress(OSError, ValueError):  # stderr is closed; the exit code must do
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _rejoin_bash_words(variables: MutableMapping[str, str]) -> None:
    """Rejoins the words that bash has split at colons, which every tag contains."""
    current = variables.get("COMP_CWORD", "")
    if variables.get(_COMPLETING) != "complete_bash" or not current.isdecimal():
        return
    words = variables.get("COMP_WORDS", "").split("\n")
    joined, split_off = join_bash_words(words, int(current))
    variables["COMP_WORDS"] = "\n".join(joined)
    variables["COMP_CWORD"] = str(len(joined) - 1)
    variables[BASH_PREFIX] = split_off


def main() -> None:
    """Runs the `knit` program."""
    open_missing()
    end_on_signals()
    _rejoin_bash_words(os.environ)
    try:
        cwd = Path.cwd()
    except OSError:
        _print_error(
            render(CliError("the current folder no longer exists", advice="change to another one"))
        )
        sys.exit(EXIT_FAILURE)
    surroundings = Surroundings(cwd=cwd, home=_home(), variables=dict(os.environ))
    if _COMPLETING not in os.environ:  # nobody waits for traces while a line is completed
        with suppress(tracing.TracesRefused):  # whoever wants them has the packages
            tracing.start("knit-cli", os.environ)
    with tracing.span("knit"):
        code = run(sys.argv[1:], surroundings)
        tracing.end_command(code)
    with suppress(KeyboardInterrupt):  # whoever presses Ctrl-C now waits for spans alone
        tracing.stop()
    lost = close_quietly()
    if lost is not None and code == 0:
        _print_error(render(cannot_write_result(lost)))
        code = EXIT_FAILURE
    sys.exit(code)


def _home() -> Path | None:
    """Finds the home folder, by the environment, else by the system; None: there is none."""
    home = os.environ.get("HOME") or os.environ.get("USERPROFILE")
    if home:
        return Path(home)
    with suppress(RuntimeError, KeyError):  # the user id is unknown
        return Path.home()
    return None
