"""Groups that know names and short helps; the modules of commands are imported only when used.

Importing every command takes about four times as long as Typer itself, and neither `knit --help`
nor shell completion needs them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_group

from knit_cli.invocation import Invocation
from knit_cli.shell.arguments import (
    normalize_arguments,
    normalize_switches,
    split_short_values,
)
from knit_cli.shell.extensions import find_extensions, run_extension
from knit_workflows import tracing


@dataclass(frozen=True)
class Entry:
    """Where a command is defined: `module:attribute` is its Typer app.

    `single` picks the command of that name out of the app, else the whole app is the group.
    """

    target: str
    help: str
    single: bool = False


def _named(ctx: Any, resolved: Any) -> Any:
    """Names the trace of this command, if there is one, by its words without their arguments."""
    if resolved[0]:
        tracing.name_command(f"{ctx.command_path} {resolved[0]}")
    return resolved


class LazyGroup(TyperGroup):
    """A group whose commands are in `entries`."""

    entries: ClassVar[Mapping[str, Entry]] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, entry in self.entries.items():
            # A placeholder, sufficient for `--help` and for suggestions after a typo.
            self.commands[name] = TyperCommand(name=name, help=entry.help)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Finds the command to run, and imports it."""
        name = args[0] if args else ""
        if name in self.entries:
            self.commands[name] = load(name, self.entries[name])
        return _named(ctx, super().resolve_command(ctx, args))


class TopGroup(LazyGroup):
    """The top of the command tree; a name that is not in `entries` may be an extension on PATH."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the common flags, wherever on the line they are."""
        return super().parse_args(ctx, normalize_arguments(args))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Finds the command to run, or the extension."""
        name = args[0] if args else ""
        if name in self.entries:
            args = split_short_values(args)
        elif isinstance(ctx.obj, Invocation):
            extension = find_extensions(ctx.obj).get(name)
            if extension is not None:
                self.commands[name] = ExtensionCommand(name, extension)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """Lists the built-in commands in their order, then the extensions on PATH."""
        if isinstance(ctx.obj, Invocation):
            for name, path in sorted(find_extensions(ctx.obj).items()):
                self.commands.setdefault(name, ExtensionCommand(name, path))
        return super().list_commands(ctx)


class NounGroup(TyperGroup):
    """The commands of one noun, with switches as the contract has them."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Finds the command to run, and normalizes its switches, which only it knows."""
        name, command, rest = _named(ctx, super().resolve_command(ctx, args))
        if command is None:  # while completing
            return name, command, rest
        switches = {
            flag: next(iter(one.secondary_opts), None)
            for one in command.params
            if _is_switch(one)
            for flag in one.opts
        }
        return name, command, normalize_switches(rest, switches)


class LazyNounGroup(LazyGroup, NounGroup):
    """The commands of one noun, each imported when it is used."""


def _is_switch(parameter: Any) -> bool:
    return isinstance(parameter, TyperOption) and parameter.is_flag


def load(name: str, entry: Entry) -> Any:
    """Imports the module of an entry and returns its command."""
    module, _, attribute = entry.target.partition(":")
    app: typer.Typer = getattr(import_module(module), attribute)
    app.rich_markup_mode = None  # the same help style everywhere, see main
    if not (isinstance(app.info.cls, type) and issubclass(app.info.cls, LazyGroup)):
        app.info.cls = NounGroup
    group = get_group(app)
    if entry.single:
        return group.commands[name]
    group.name = name
    return group


class ExtensionCommand(TyperCommand):
    """`knit NAME …`, handed over to an executable with everything after the name."""

    def __init__(self, name: str, executable: Path) -> None:
        super().__init__(name=name, help=f"Extension: {executable}")
        self._executable = executable

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Takes all words as they are, but `--help`; the first `--` ends what knit looks at."""
        at = args.index("--") if "--" in args else len(args)
        if set(args[:at]) & set(ctx.help_option_names):
            sys.stdout.write(f"{self.get_help(ctx)}\n")
            ctx.exit()
        ctx.args = args[:at] + args[at + 1 :]
        return list(ctx.args)

    def invoke(self, ctx: Any) -> None:
        """Runs the extension."""
        run_extension(self._executable, ctx.args, ctx.find_object(Invocation))
