"""Says so where a Temporal that fails and a disk that is almost full may be cause and effect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from knit_workflows.disk import DiskSpace
from knit_workflows.domain import errors


@contextmanager
def explaining_full_disk(folder: Path | None) -> Iterator[None]:
    """Raises EngineFull instead of EngineUnavailable when the disk of the folder is almost full.

    Temporal reports a full disk in many ways, its clients in as many more; a worker that is down
    looks alike. So the message states both facts. The folder is that of the database, which is on
    one disk with Temporal's where both are on this machine; None: it is not on this machine.
    """
    try:
        yield
    except errors.EngineUnavailable as error:
        room = DiskSpace.if_almost_full(folder)
        if room is None:
            raise
        raise errors.EngineFull(
            f"{error.reason.rstrip('.')}; also, {room.left()}",
            advice="make room there, with `knit run rm` or by hand, then try again",
        ) from error
