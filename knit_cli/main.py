"""Composes `knit` and is its outermost border: an exit code comes out, never a traceback."""

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from typer.main import get_command

from knit_cli.arguments import arrange
from knit_cli.errors import EXIT_FAILURE, CliError, render
from knit_cli.invocation import Invocation, Surroundings, invocation_of
from knit_cli.lazy import Entry, LazyGroup

_INTERRUPTED = 130  # what Typer makes of Ctrl-C


class KnitGroup(LazyGroup):
    """All of `knit`."""

    entries = {  # noqa: RUF012  declared ClassVar where it comes from
        "init": Entry("knit_cli.commands.init:app", "Use a knit: keep its profile.", single=True),
        "data": Entry("knit_cli.commands.data:app", "Push, pull, find, tag and trace Data."),
        "plan": Entry("knit_cli.commands.plan:app", "Register, show and switch Plans."),
        "run": Entry("knit_cli.commands.run:app", "Find, show and stop Runs."),
        "dev": Entry("knit_cli.dev.app:dev_app", "A whole knit on this machine."),
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


@app.callback()
def knit(
    context: typer.Context,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the profile to use (default: what the nearest .knitprofile says).",
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
) -> None:
    """Runs containers when the data they need exists, and remembers what came from what."""
    context.obj = replace(
        invocation_of(context), profile=profile, profile_store=profile_store, env=env, quiet=quiet
    )


def run(arguments: Sequence[str], surroundings: Surroundings) -> int:
    """Runs one command line and gives its exit code: 0 fine, 2 wrong usage, 1 anything else.

    Results go to stdout, talk and errors to stderr. Nothing but SystemExit can come out, and only
    where an embedding program raised it.
    """
    command = get_command(app)
    try:
        command.main(arrange(arguments), prog_name="knit", obj=Invocation(surroundings))
    except SystemExit as end:
        return _exit_code(end)
    except KeyboardInterrupt:  # before or after Typer looks out for it
        return _exit_code(SystemExit(_INTERRUPTED))
    except CliError as error:
        _complain(render(error))
        return error.exit_code
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        _complain(render(CliError(f"{error.strerror or error}{place}")))
        return EXIT_FAILURE
    except Exception:  # noqa: BLE001  the outermost border: a bug must not show its inside
        _complain(render(_bug()))
        return EXIT_FAILURE
    return 0


def _exit_code(end: SystemExit) -> int:
    if end.code == _INTERRUPTED:
        _complain("interrupted")
        return EXIT_FAILURE
    return end.code if isinstance(end.code, int) else EXIT_FAILURE if end.code else 0


def _bug() -> CliError:
    handle, name = tempfile.mkstemp(prefix="knit-error-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(traceback.format_exc())
    last = traceback.format_exc().strip().rpartition("\n")[2]
    return CliError(
        "knit failed in a way it should not",
        reason=last,
        advice=f"please report it with the file {name}",
    )


def _complain(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main() -> None:
    """Is the `knit` program."""
    home = os.environ.get("HOME") or os.environ.get("USERPROFILE")
    surroundings = Surroundings(
        cwd=Path.cwd(),
        home=Path(home) if home else None,
        variables=dict(os.environ),
    )
    sys.exit(run(sys.argv[1:], surroundings))
