"""Folders of others on this machine: which may become Data, and that nothing in them changes.

The name of such a volume is its absolute path, with links resolved; the names of knit's own never
begin with a slash.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from knit_workflows.domain.errors import BackendRejected, VolumeRefused
from knit_workflows.domain.os_errors import advice_for, reason_of
from knit_workflows.domain.volumes import Volume

MEASURE_SECONDS: Final = 3.0
"""How long the files of a folder are counted."""
_BLOCK: Final = 512
"""Unit of `st_blocks`, whatever the file system's own."""
_READS: Final = os.R_OK | os.X_OK


def is_adopted(volume: Volume) -> bool:
    """Says whether a volume is a folder of others."""
    return volume.name.startswith("/")


def refuse_change(volume: Volume) -> None:
    """Raises BackendRejected if a volume, which is about to be changed, is a folder of others."""
    if is_adopted(volume):
        raise BackendRejected(
            f"the folder {volume.name} is only adopted: knit changes and deletes nothing in it",
            see=volume.knit_id,
        )


def adoptable_folder(name: str, *, allowed: Iterable[Path], own: Path) -> str:
    """Gives the path of a folder that may become a Data; looks at nothing in it.

    Args:
        name: its absolute path, perhaps with links.
        allowed: folders; it must be one of them, or below one.
        own: knit's own folder.

    Raises:
        VolumeRefused: it may not.
    """
    folder = _readable_folder(name)
    own = own.resolve()
    if folder.parent == folder:
        raise _refused(name, "is the root of the file system", "name a folder in it")
    if folder.is_relative_to(own):
        raise _refused(name, f"is inside knit's own folder {own}", "move or copy it elsewhere")
    if own.is_relative_to(folder):
        raise _refused(name, f"holds knit's own folder {own}, which changes", "name a folder in it")
    within = [one.resolve() for one in allowed]
    if not any(folder.is_relative_to(one) for one in within):
        raise _refused(
            name,
            "is outside of the folders from which this knit adopts",
            f"name one below {' or '.join(map(str, within)) or 'none'}, or ask whoever runs knit "
            "to change KNIT_COMPUTE__LOCAL__ADOPTABLE",
        )
    return str(folder)


def _readable_folder(name: str) -> Path:
    if any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in name):
        raise VolumeRefused(f"{name[:80]!a} is no path of a folder", advice="rename the folder")
    if not Path(name).is_absolute():
        raise VolumeRefused(
            f"{name!r} is not an absolute path", advice="write it from the root: /srv/images"
        )
    try:
        folder = Path(name).resolve(strict=True)
        is_folder = folder.is_dir()
    except OSError as error:
        raise VolumeRefused(
            f"{name} cannot be adopted: {reason_of(error)}", advice=advice_for(error), see=name
        ) from error
    except RuntimeError as error:  # a loop of links, before Python 3.13
        raise _refused(name, "is a link that leads back to itself", "remove the link") from error
    if not is_folder:
        raise _refused(name, "is not a folder", "adopt the folder it is in")
    if not os.access(folder, _READS):
        raise _refused(name, "cannot be read by knit", "let knit's user read and enter the folder")
    return folder


def _refused(name: str, why: str, advice: str) -> VolumeRefused:
    return VolumeRefused(f"{name} {why}", advice=advice, see=name)


def bytes_on_disk(folder: Path) -> int | None:
    """Gives the bytes that a folder takes up on its disk, a file with many names once.

    None if it is gone, or too large to be counted within `MEASURE_SECONDS`. What cannot be read is
    left out.
    """
    give_up = time.monotonic() + MEASURE_SECONDS
    counted: set[tuple[int, int]] = set()
    total = 0
    pending = [str(folder)]
    if not folder.is_dir():
        return None
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    if found.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                        if (found.st_dev, found.st_ino) in counted:
                            continue
                        counted.add((found.st_dev, found.st_ino))
                    total += found.st_blocks * _BLOCK
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    if time.monotonic() > give_up:
                        return None
        except OSError:
            continue
    return total
