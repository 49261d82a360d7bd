"""Health on the wire."""

from __future__ import annotations

from knit_workflows.wire.base import Response


class Health(Response):
    """How each part the API needs is: `ok`, or what is the matter.

    `hooks` is there only while the newest hooks file is refused, and says why; the hooks before it
    are in force, and the API is as ready as without it.
    """

    parts: dict[str, str]
