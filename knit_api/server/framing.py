"""How the end of a body is marked: by a length or by chunks, never by the end of a connection.

HTTP/1.0 has no chunks. There a body without a length ends with its connection, and a proxy that
speaks HTTP/1.0 to us (nginx does unless configured otherwise) passes on the part before an abort as
a complete response, in correct chunks of its own. So over HTTP/1.0 each body has a length, or the
request is refused.
"""

from __future__ import annotations

from starlette.types import Scope

from knit_api.errors import HttpProblem


def accepts_chunks(scope: Scope) -> bool:
    """Says whether this client may be sent a body whose length is unknown."""
    version: str = scope["http_version"]
    return version != "1.0"


def needs_http_1_1(what: str) -> HttpProblem:
    """Gives the refusal (426) of a body of unknown length over HTTP/1.0."""
    return HttpProblem(
        426,
        f"{what} has no length yet, and over HTTP/1.0 nobody could tell whether it is complete",
        "speak HTTP/1.1; where a proxy is on the way, let it (nginx: proxy_http_version 1.1;)",
        headers={"Upgrade": "HTTP/1.1", "Connection": "Upgrade"},
    )
