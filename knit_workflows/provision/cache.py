"""A cache folder for what is slow to make: made once, verified at each use."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

STAMP = "stamp.json"


class SetUpError(Exception):
    """A set-up step has failed; the message tells the user what to do."""


def cache_root() -> Path:
    """Returns `$KNIT_CACHE`, else `knit` in the user's cache folder; it exists afterwards."""
    named = os.environ.get("KNIT_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    root = Path(named) if named else Path(base) / "knit"
    root.mkdir(parents=True, exist_ok=True)
    return root.resolve()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on `path`, which is released when the process is killed.

    A second process waits, and says so on stderr.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"waiting for another process, which holds {path} ...\n")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def content_key(*parts: str | bytes) -> str:
    """Returns a key of 16 hexadecimal digits for these parts, in this order."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(f"{len(raw)}:".encode() + raw)
    return digest.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Returns the sha256 of a file's content in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def cached_folder(folder: Path, make: Callable[[Path], None]) -> Path:
    """Returns `folder` with every file as `make` wrote it.

    `make` gets an empty folder beside the final one, which is renamed only when complete. A folder
    whose files no longer match its stamp is made again. Concurrent callers make it once.
    """
    with locked(folder.parent / f".{folder.name}.lock"):
        if not is_intact(folder):
            _make_anew(folder, make)
    return folder


def is_intact(folder: Path) -> bool:
    """Says whether every file in the folder's stamp exists with the stamped digest."""
    try:
        stamp = json.loads((folder / STAMP).read_text())
        return bool(stamp) and all(file_digest(folder / n) == d for n, d in stamp.items())
    except (OSError, ValueError, AttributeError):
        return False


def _make_anew(folder: Path, make: Callable[[Path], None]) -> None:
    for leftover in folder.parent.glob(f".{folder.name}.making-*"):
        shutil.rmtree(leftover)  # We hold the lock, so whoever made it is dead.
    making = Path(tempfile.mkdtemp(prefix=f".{folder.name}.making-", dir=folder.parent))
    try:
        make(making)
        files = sorted(p for p in making.rglob("*") if p.is_file() and not p.is_symlink())
        stamp = {str(p.relative_to(making)): file_digest(p) for p in files}
        (making / STAMP).write_text(json.dumps(stamp, indent=1))
        making.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
