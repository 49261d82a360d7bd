"""`knit admin prune-audit`: archives old rows of the audit log, and removes them as their owner.

No token of knit may do it, not even an administrator's: it needs the rights on the cluster with
which the owner's credential could be read anyway.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from knit_cli.admin.cluster import Cluster, ToolFailed
from knit_cli.admin.job_pod import waiting_pod
from knit_cli.errors import BadInput, CliError
from knit_cli.invocation import login_name
from knit_workflows.domain.instants import format_instant
from knit_workflows.domain.os_errors import advice_for, reason_of

_POD: Final = "knit-prune-audit"
_MODULE: Final = ("python3", "-m", "knit_workflows.store.audit_pruning")


@dataclass(frozen=True)
class Archive:
    """The rows that were written to a file. `sha256`: of its lines but the last, which says it."""

    path: Path
    rows: int
    sha256: str


class Pruner:
    """Works in a pod that has what the migration has: the owner's credential, and the network."""

    def __init__(self, cluster: Cluster, before: datetime) -> None:
        self._cluster = cluster
        self._before = format_instant(before)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Makes the pod, and removes it at the end, as well as one of a command that was killed.

        Raises:
            CliError: knit is not installed, or the pod does not start.
        """
        with waiting_pod(self._cluster, _POD):
            yield

    def export(self, path: Path) -> Archive:
        """Writes the rows to a new file, which only its owner reads.

        Raises:
            CliError: it is there already, cannot be written, or the rows cannot be read.
        """
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as cause:
            advice = "name another one" if isinstance(cause, FileExistsError) else advice_for(cause)
            raise BadInput(
                f"cannot make the archive {path}", reason=reason_of(cause), advice=advice
            ) from cause
        try:
            with os.fdopen(handle, "w+b") as file:
                self._run("export", into=file)
                os.fsync(file.fileno())
                summary = _last_line(file)
        except BaseException:
            path.unlink(missing_ok=True)  # nothing was removed from the log
            raise
        return Archive(path, summary["rows"], summary["sha256"])

    def remove(self, archive: Archive) -> int:
        """Removes what is in the archive from the log; returns the number of rows."""
        by = who(self._cluster)
        printed = self._run("remove", "--sha256", archive.sha256, "--by", by)
        removed: int = json.loads(printed)["removed"]
        return removed

    def _run(self, verb: str, *more: str, into: Any = None) -> str:
        command = [*_MODULE, verb, "--before", self._before, *more]
        return self._cluster.kubectl("exec", _POD, "--", *command, into=into)


def _last_line(file: Any) -> dict[str, Any]:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 4096))
    lines = file.read().splitlines()
    try:
        found: dict[str, Any] = json.loads(lines[-1])
        if found.keys() == {"rows", "sha256"}:
            return found
    except (IndexError, ValueError, AttributeError):
        pass
    raise CliError("the rows did not all arrive", advice="repeat the command: nothing was removed")


def who(cluster: Cluster) -> str:
    """Gives the name of the kubeconfig's user, as the cluster knows it, and of this machine's."""
    here = login_name(cluster.variables)
    try:
        answer = json.loads(cluster.kubectl("auth", "whoami", "--output", "json"))
        return f"{answer['status']['userInfo']['username']} ({here})"
    except (ToolFailed, ValueError, KeyError, TypeError):
        return here
