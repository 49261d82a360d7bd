"""How a client is told where a body ends: by its length, or by chunks; never by silence.

HTTP/1.0 has no chunks. A body without a length ends there with its connection, and a proxy that
speaks it to us (nginx does unless told otherwise) hands on what came before a cut as a whole
answer, in faultless chunks of its own. So over HTTP/1.0 each body has a length, or is refused.
"""

from __future__ import annotations

from starlette.types import Scope

from knit_api.errors import HttpProblem


def accepts_chunks(scope: Scope) -> bool:
    """Tells whether a body may be sent to this client whose length is not known yet."""
    version: str = scope["http_version"]
    return version != "1.0"


def needs_http_1_1(what: str) -> HttpProblem:
    """Gives the refusal of a body whose length cannot be known, over HTTP/1.0."""
    return HttpProblem(
        426,
        f"{what} has no length yet, and over HTTP/1.0 nobody could tell whether it is complete",
        "speak HTTP/1.1; where a proxy is on the way, let it (nginx: proxy_http_version 1.1;)",
        headers={"Upgrade": "HTTP/1.1", "Connection": "Upgrade"},
    )
