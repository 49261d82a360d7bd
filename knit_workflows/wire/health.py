"""Health on the wire."""

from __future__ import annotations

from knit_workflows.wire.base import Response


class Health(Response):
    """How each part the API needs is: `ok`, or what is the matter."""

    parts: dict[str, str]
