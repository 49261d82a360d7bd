"""`python -m knit_workflows.backup.scheduled.take DEST`: a backup without a person.

A worker with the role `backup` starts it, with its own environment: database and volumes are those
of the settings. It prints one JSON object: the set, or `problem`. When its stdin ends it does, too:
a worker that is killed leaves nobody behind who holds the destination. After SIGTERM it gives back
what it holds, pods and the lock, and ends.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from knit_workflows.backup.destinations import open_destination
from knit_workflows.backup.direct import DirectInstallation
from knit_workflows.backup.folders import FolderVolumes
from knit_workflows.backup.pods import TRANSFER_ID, PodVolumes, served_by_pods
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.taking import take_backup
from knit_workflows.settings import Settings, SettingsRefused, read_settings

_NICENESS: Final = 10
"""People and Runs go first."""
_TERMINATED: Final = 128 + signal.SIGTERM


class Unwatched:
    """A watcher that nobody looks at."""

    def begins(self, what: str, volumes: int, known: int) -> None:
        """See `Watcher`."""

    def moved(self, size: int) -> None:
        """See `Watcher`."""

    def finished(self, volumes: int) -> None:
        """See `Watcher`."""


@contextmanager
def _installation(settings: Settings) -> Iterator[DirectInstallation]:
    url = settings.store.url.get_secret_value()
    kind = settings.compute.kind
    if kind == "local":
        yield DirectInstallation(url, FolderVolumes(settings.compute.local.state), shown=kind)
        return
    if kind != "kubernetes":
        raise BackupProblem(
            f"volumes of the back-end {kind!r} cannot be backed up",
            advice="set KNIT_COMPUTE__KIND to local or kubernetes",
        )
    # Here, since it takes longer to load than all else.
    from knit_workflows.worker import backend_from

    backend = backend_from(served_by_pods(settings.compute))
    volumes = PodVolumes(backend, transfer_id=f"{TRANSFER_ID}{secrets.token_hex(2)}")
    with volumes.at_work():
        yield DirectInstallation(url, volumes, shown=kind)


def _take(destination: str, keep: int | None) -> dict[str, Any]:
    try:
        target = open_destination(destination, Path(), new=True)
        with _installation(read_settings()) as source:
            taken = take_backup(source, target, Unwatched(), keep=keep)
    except BackupProblem as problem:
        return {"problem": problem.words}
    except SettingsRefused as refused:
        return {"problem": str(refused)}
    return {
        "set_id": taken.set.id,
        "volumes": taken.set.volumes,
        "volumes_read": taken.read,
        "bytes_stored": taken.stored_bytes,
        "seconds": round(taken.seconds, 1),
        "unreadable": len(taken.set.unreadable),
        "removed_sets": len(taken.pruned),
        "unpruned": taken.unpruned,
    }


def _ends_with_its_worker() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _ends_in_order(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # giving back is not cut by another one
    raise SystemExit(_TERMINATED)


def main(arguments: Sequence[str] | None = None) -> None:
    """Takes one."""
    parser = argparse.ArgumentParser(prog="python -m knit_workflows.backup.scheduled.take")
    parser.add_argument("destination")
    parser.add_argument("--keep", type=int)
    options = parser.parse_args(arguments)
    threading.Thread(target=_ends_with_its_worker, daemon=True).start()
    os.nice(_NICENESS)
    signal.signal(signal.SIGTERM, _ends_in_order)
    try:
        found = _take(options.destination, options.keep)
    except SystemExit as ending:
        os._exit(_TERMINATED if ending.code == _TERMINATED else 1)
    sys.stdout.write(f"{json.dumps(found)}\n")
    sys.stdout.flush()
    # At once: a thread waits for stdin, and those of a library may crash the interpreter's end.
    os._exit(0)


if __name__ == "__main__":
    main()
