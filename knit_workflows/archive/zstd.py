"""Zstandard (RFC 8878), where it is there: from Python 3.14 on it is in the standard library."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from backports import zstd
else:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        zstd = None

__all__ = ["CODING", "LARGEST_WINDOW_LOG", "is_available", "zstd"]

CODING: Final = "zstd"
"""Its name as a content coding (RFC 9659)."""
LARGEST_WINDOW_LOG: Final = 23
"""What every decoder of that coding has room for: 8 MiB."""


def is_available() -> bool:
    """Says whether this Python can compress and decompress it."""
    return zstd is not None
