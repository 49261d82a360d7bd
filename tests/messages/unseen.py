"""Texts that the quick tests do not bring about, by module: a part of each, and why that is so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

UNSEEN: Final[Mapping[str, Sequence[str]]] = {}
