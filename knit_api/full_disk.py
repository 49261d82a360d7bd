"""Says of a Temporal that does not answer why it does not, if its disk is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from knit_workflows.disk import DiskSpace
from knit_workflows.domain import errors


@contextmanager
def naming_full_disk(folder: Path | None) -> Iterator[None]:
    """Raises EngineFull instead of EngineUnavailable when the disk of the folder is almost full.

    Temporal itself says many things then, its clients as many more. The folder is that of the
    database: where the two are on one machine they are on one disk. None: somewhere else.
    """
    try:
        yield
    except errors.EngineUnavailable as error:
        room = DiskSpace.if_almost_full(folder)
        if room is None:
            raise
        raise errors.EngineFull(
            f"{room.left()}, and Temporal does not answer",
            advice="make room there, with `knit run rm` or by hand, then try again",
        ) from error
