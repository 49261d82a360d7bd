"""The installation of `knit dev`: its database and its folders are on this machine."""

from __future__ import annotations

from knit_cli.dev.dev_folder import DevFolder
from knit_cli.errors import CliError
from knit_workflows.backup.direct import DirectInstallation
from knit_workflows.backup.folders import FolderVolumes
from knit_workflows.embedded import EmbeddedPostgres


def dev_installation(folder: DevFolder) -> DirectInstallation:
    """Gives the installation in a state folder of `knit dev`, which must be up.

    Raises:
        CliError: it is not.
    """
    running = folder.running()
    if running is None or not running.ready:
        raise CliError(
            f"knit is not running in {folder.root}",
            reason="its database is needed",
            advice="start it (knit dev up --detach), then repeat the command",
        )
    database = EmbeddedPostgres(folder.postgres)
    database.prepare()
    return DirectInstallation(
        database.address(), FolderVolumes(folder.compute), shown=f"knit in {folder.root}"
    )
