"""Which installation a command is about that knows both kinds: on a cluster, or `knit dev`'s."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer

from knit_cli.admin.backup import explained
from knit_cli.admin.backup.on_cluster import ClusterInstallation
from knit_cli.admin.backup.registry import RegistryFiles
from knit_cli.admin.dev_stack import dev_installation
from knit_cli.admin.folder import DEFAULT_FOLDER
from knit_cli.commands.admin.options import administration
from knit_cli.dev.app import DEFAULT_STATE
from knit_cli.dev.dev_folder import RECORD, DevFolder
from knit_cli.errors import BadInput
from knit_cli.invocation import Invocation, find_upward
from knit_workflows.backup.installation import Installation

State = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="PATH",
        help=f"The stack of `knit dev` in this folder (default: the nearest {DEFAULT_STATE}, if "
        "there is no settings folder).",
    ),
]


class Layout(StrEnum):
    """In which form a backup is."""

    KNIT = "knit"
    KNITFAB = "knitfab"


@contextmanager
def installation(
    invocation: Invocation,
    state: str | None,
    settings: str | None,
    namespace: str | None,
    kubeconfig: str | None,
    verbose: bool,
    *,
    storage_class: str | None = None,
) -> Iterator[Installation]:
    """Gives the installation that is meant, ready to be asked.

    Raises:
        CliError: there is none, or it cannot be reached; also for BackupProblem inside.
    """
    folder = dev_folder(invocation, state, named=bool(settings or namespace or kubeconfig))
    if folder is not None:
        if storage_class is not None:
            raise BadInput(
                "--storage-class is for clusters", advice="leave it out: volumes are folders here"
            )
        with explained():
            yield dev_installation(folder)
        return
    work = administration(invocation, settings, namespace, kubeconfig, verbose)
    on_cluster = ClusterInstallation(work.cluster, storage_class)
    with explained(), on_cluster.at_work():
        yield on_cluster


def registry_beside(installed: Installation) -> RegistryFiles:
    """Gives the registry of an installation; raises CliError if it has none."""
    if not isinstance(installed, ClusterInstallation):
        raise BadInput(
            "--images is for clusters", advice="leave it out: `knit dev` has no registry of its own"
        )
    return installed.registry()


def dev_folder(invocation: Invocation, state: str | None, *, named: bool) -> DevFolder | None:
    """Gives the folder of the stack that is meant; None: a cluster is."""
    if state is not None:
        if named:
            raise BadInput(
                "--state means `knit dev`, and the other flags a cluster",
                advice="give the one or the others",
            )
        return DevFolder(invocation.path(state))
    variables = invocation.surroundings.variables
    if named or variables.get("SETTINGS") or invocation.path(DEFAULT_FOLDER).is_dir():
        return None
    record = find_upward(invocation.surroundings.cwd, f"{DEFAULT_STATE}/{RECORD}")
    return None if record is None else DevFolder(record.parent)
