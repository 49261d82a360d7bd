"""Writes small files of the user so that they are there whole or not at all."""

import os
import tempfile
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Puts the text at the path, readable by its owner only; a crash leaves the old or the new.

    Missing parent folders are made, for the owner only. A symbolic link is followed, so that a file
    kept elsewhere stays there. The second call replaces the first. Raises OSError.
    """
    target = path.resolve()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp creates with 0600: the text is never readable by others, not even for a moment.
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
