"""Packs folders into tar streams and unpacks them, in constant memory.

Used by the transfer agent in pods, by the API for local volumes, and by the command line.
Compression and checksums are up to the caller. `lost+found` at the top of a volume belongs to the
file system: it is neither packed nor unpacked. Links are data: they are packed and unpacked as they
are, and not followed unless the caller asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from knit_workflows.archive import removal, tree
from knit_workflows.archive.folder_stack import opened_folder
from knit_workflows.archive.packer import (
    FILES_AND_LINKS,
    WHOLE,
    Form,
    Span,
    Writable,
    iter_content_spans,
    iter_pack,
    iter_spans,
    length_of,
    look_through,
    open_files,
    pack,
    read_concatenated,
)
from knit_workflows.archive.removal import remove
from knit_workflows.archive.tar import ArchiveCut, ArchiveRefused, Readable, TarReader
from knit_workflows.archive.tree import Summary
from knit_workflows.archive.unpacker import DEFAULT_LIMITS, Limits, check, unpack
from knit_workflows.archive.walk import CannotPack

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "DEFAULT_LIMITS",
    "FILES_AND_LINKS",
    "WHOLE",
    "ArchiveCut",
    "ArchiveRefused",
    "CannotPack",
    "Form",
    "Limits",
    "Readable",
    "Span",
    "Summary",
    "TarReader",
    "Writable",
    "check",
    "clear",
    "is_empty",
    "iter_content_spans",
    "iter_pack",
    "iter_spans",
    "length_of",
    "look_through",
    "open_files",
    "pack",
    "read_concatenated",
    "remove",
    "unpack",
]


def is_empty(root: Path) -> bool:
    """Says whether the folder has no entry besides `lost+found`; raises OSError."""
    with opened_folder(root) as folder:
        return tree.is_empty(folder)


def clear(root: Path) -> None:
    """Deletes everything in the folder but `lost+found`; may be repeated. The folder stays."""
    with opened_folder(root) as folder:
        removal.clear(folder)
