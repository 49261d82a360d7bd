"""`knit data|plan|run|hook|dev`: which commands there are, each loaded when it is used.

What carries a command out needs HTTP, the wire types and more, which take four times as long to
import as `knit data --help` and completion take without them.
"""

from __future__ import annotations

from collections.abc import Mapping

import typer

from knit_cli.shell.lazy import Entry, LazyNounGroup


def _of(target: str, helps: Mapping[str, str]) -> dict[str, Entry]:
    """Gives the entries of commands that are all in one app."""
    return {name: Entry(target, help, single=True) for name, help in helps.items()}


class DataGroup(LazyNounGroup):
    """The commands of Data."""

    entries = _of(
        "knit_cli.commands.data.group:app",
        {
            "lineage": "Show where a Data came from and what came from it.",
            "adopt": "Make volumes Data where they are.",
            "purge": "Discard the content of Data for good.",
            "find": "Show the Data that carry all the given tags.",
            "push": "Upload each source as one Data.",
            "pull": "Download a Data.",
            "tag": "Remove, then add tags, in one step.",
        },
    )


class PlanGroup(LazyNounGroup):
    """The commands of Plans."""

    entries = _of(
        "knit_cli.commands.plan.group:app",
        {
            "apply": "Register the Plan in the file.",
            "validate": "Check Plan files without a server.",
            "template": "Write a first Plan file for an image.",
            "schema": "Show the JSON Schema of a Plan file, for editors.",
            "show": "Show a Plan.",
            "find": "Show Plans, ordered by id.",
            "graph": "Show which Plans feed a Plan and which it feeds.",
            "active": "Allow or forbid the Runs of a Plan to start.",
            "options": "Set what a Plan asks of a cluster for later Runs.",
            "priority": "Let a Plan's Runs go before those of others.",
            "resource": "Change the resources of Runs that start later.",
            "annotate": "Remove, then add annotations.",
            "serviceaccount": "Set the service account of Runs that start later.",
        },
    )


class RunGroup(LazyNounGroup):
    """The commands of Runs."""

    entries = _of(
        "knit_cli.commands.run:app",
        {
            "find": "Show Runs, least recently changed first.",
            "show": "Show a Run, its log, its history or its timing.",
            "stop": "Stop a Run; it ends a little later.",
            "retry": "Retry a Run that is done or failed.",
            "rm": "Delete a Run and its outputs.",
        },
    )


class HookGroup(LazyNounGroup):
    """The commands of hooks."""

    entries = _of(
        "knit_cli.commands.hook:app",
        {
            "list": "Show the hooks in force, in the order of their calls.",
            "deliveries": "Show what became of the calls of hooks, latest first.",
            "skip": "Let a Run go on without a hook that does not agree.",
            "test": "Send a sample Run to a hook, and show its answer.",
        },
    )


class DevGroup(LazyNounGroup):
    """The commands of a knit on this machine."""

    entries = _of(
        "knit_cli.dev.app:dev_app",
        {
            "up": "Start the stack and make `knit` use it in this folder.",
            "status": "Show whether the stack runs, where, and free disk space.",
            "down": "Stop the stack; its state is kept.",
        },
    )


data = typer.Typer(cls=DataGroup)
plan = typer.Typer(cls=PlanGroup)
run = typer.Typer(cls=RunGroup)
hook = typer.Typer(cls=HookGroup)
dev = typer.Typer(
    cls=DevGroup,
    no_args_is_help=True,
    help="A complete knit on this machine: PostgreSQL, Temporal with its Web UI, API and workers.",
)
