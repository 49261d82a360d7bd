"""`knit admin backup --every`: has the schedule set or shown where backups are taken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from knit_cli.admin.cluster import Cluster
from knit_cli.admin.dev_stack import environment_beside
from knit_cli.dev.dev_folder import DevFolder
from knit_cli.errors import CliError

_MODULE: Final = "knit_workflows.backup.scheduled.ask"
_WORKER: Final = "knit-worker-backup"


@dataclass(frozen=True)
class Scheduled:
    """What is there: the schedule, None without one, and how many workers take backups."""

    schedule: dict[str, Any] | None
    workers: int


def on_cluster(cluster: Cluster, arguments: Sequence[str]) -> Scheduled:
    """Does it in the pod of the worker that takes backups; raises CliError."""
    if cluster.find("deployment", _WORKER) is None:
        raise CliError(
            f"no worker takes backups in namespace {cluster.namespace}",
            reason="by default there is none, since it can reach all content and the destination",
            advice="set backup.enabled in values/knit-app.yaml, and where its keys are, then "
            "repeat `knit admin install`",
        )
    command = ("python3", "-m", _MODULE, *arguments)
    where = (f"deployment/{_WORKER}", "--container", "worker")
    return _read(cluster.kubectl("exec", *where, "--", *command))


def beside_dev(
    folder: DevFolder, variables: Mapping[str, str], arguments: Sequence[str]
) -> Scheduled:
    """Does it beside the stack of `knit dev` in a folder; raises CliError if it is not up."""
    environment = environment_beside(folder, variables, needs="its Temporal keeps the schedule")
    command = [sys.executable, "-P", "-m", _MODULE, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    return _read(done.stdout)


def _read(printed: str) -> Scheduled:
    try:
        found = json.loads(printed)
        if "problem" in found:
            raise CliError(
                found["problem"], reason=found["reason"] or None, advice=found["advice"] or None
            )
        return Scheduled(found["schedule"], found["workers"])
    except (ValueError, KeyError, TypeError) as cause:
        raise CliError(
            "the schedule of backups cannot be read",
            advice="see the messages above; is what is installed of this version?",
        ) from cause
