"""The stack of `knit dev` that an administrator's command is about: it is on this machine."""

from __future__ import annotations

from collections.abc import Mapping

from knit_cli.dev.dev_folder import DevFolder, DevState
from knit_cli.dev.services import environment_of
from knit_cli.errors import CliError
from knit_workflows.backup.direct import DirectInstallation
from knit_workflows.backup.folders import FolderVolumes
from knit_workflows.embedded import (
    EmbeddedPostgres,
    forget_libpq_variables,
    without_libpq_variables,
)


def dev_installation(folder: DevFolder) -> DirectInstallation:
    """Gives the installation in a state folder of `knit dev`.

    Raises:
        CliError: it is not up.
    """
    _running(folder, "its database is needed")
    database = EmbeddedPostgres(folder.postgres)
    database.prepare()
    forget_libpq_variables()
    return DirectInstallation(
        database.address(), FolderVolumes(folder.compute), shown=f"knit in {folder.root}"
    )


def environment_beside(
    folder: DevFolder, variables: Mapping[str, str], *, needs: str
) -> dict[str, str]:
    """Gives the environment of a program that joins the stack; `needs` says what it is up for.

    Raises:
        CliError: it is not up.
    """
    ports = _running(folder, needs).ports
    database = EmbeddedPostgres(folder.postgres)
    database.prepare()
    own = without_libpq_variables(variables)
    return {**own, **environment_of(folder, ports, database.address(), {})}


def _running(folder: DevFolder, needs: str) -> DevState:
    record = folder.running()
    if record is None or not record.ready:
        raise CliError(
            f"knit is not running in {folder.root}",
            reason=needs,
            advice="start it (knit dev up --detach), then repeat the command",
        )
    return record
