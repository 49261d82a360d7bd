"""Packs folders into tar streams and unpacks them in constant memory: the door to the archives.

The transfer agent uses it in pods, the API for local volumes, the command line for pull.
Compression and checksums are the caller's. `lost+found` at the top of a folder is the file system's
own: neither packed nor unpacked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from knit_workflows.pod import tree
from knit_workflows.pod.packing import (
    CannotPack,
    Span,
    Writable,
    iter_content_spans,
    iter_pack,
    iter_spans,
    length_of,
    open_files,
    pack,
    read_concatenated,
)
from knit_workflows.pod.tar import ArchiveCut, ArchiveRefused, Readable, TarReader
from knit_workflows.pod.tree import Summary
from knit_workflows.pod.unpacking import DEFAULT_LIMITS, Limits, unpack

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "DEFAULT_LIMITS",
    "ArchiveCut",
    "ArchiveRefused",
    "CannotPack",
    "Limits",
    "Readable",
    "Span",
    "Summary",
    "TarReader",
    "Writable",
    "clear",
    "is_empty",
    "iter_content_spans",
    "iter_pack",
    "iter_spans",
    "length_of",
    "open_files",
    "pack",
    "read_concatenated",
    "unpack",
]


def is_empty(root: Path) -> bool:
    """Whether the folder has no entry besides `lost+found`. Raises OSError if it cannot be read."""
    with tree.opened_folder(root) as folder:
        return tree.is_empty(folder)


def clear(root: Path) -> None:
    """Removes everything in the folder but `lost+found`; again is fine. The folder stays."""
    with tree.opened_folder(root) as folder:
        tree.clear(folder)
