"""Where backups are kept: a folder, or a prefix of an S3 bucket."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from knit_workflows.backup.destinations.base import Destination
from knit_workflows.backup.destinations.folder import Folder
from knit_workflows.backup.problems import BackupProblem

__all__ = ["Destination", "Folder", "is_address", "open_destination"]

_S3: Final = "s3://"
_SCHEME: Final = re.compile("[a-z0-9]+:/", re.IGNORECASE)


def open_destination(name: str, cwd: Path, *, new: bool) -> Destination:
    """Gives the destination of that name: `s3://bucket/prefix`, or the path of a folder.

    Args:
        name: the name.
        cwd: what a path is relative to.
        new: it may be made; otherwise a folder that does not exist is refused.

    Raises:
        BackupProblem: it cannot be used, or what it takes is not installed.
    """
    if name.startswith(_S3):
        from knit_workflows.backup.destinations.s3 import Bucket  # its library is an extra

        return Bucket.named(name)
    if is_address(name):
        raise BackupProblem(
            f"{name} is no destination", advice="name a folder, or s3://BUCKET/PREFIX"
        )
    return Folder.at(cwd / name, new=new)


def is_address(name: str) -> bool:
    """Says whether a name is meant for something that is no folder, perhaps mistyped: `s3:/b`."""
    return "://" in name or _SCHEME.match(name) is not None
