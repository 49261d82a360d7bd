"""Completions on the wire."""

from __future__ import annotations

from knit_workflows.wire.base import Response


class Completion(Response):
    """An id, a tag or the key of one, and a short description, which may be empty."""

    value: str
    words: str
