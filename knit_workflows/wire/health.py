"""Health on the wire."""

from __future__ import annotations

from knit_workflows.wire.base import Response


class Health(Response):
    """How each part the API needs is: `ok`, or what is the matter.

    `hooks` and `extra_apis` are there only while the newest file of that kind is refused, and say
    why; what was in force before stays, and the API is as ready as without it.
    """

    parts: dict[str, str]
