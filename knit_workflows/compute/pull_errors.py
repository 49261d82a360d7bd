"""What a failed pull of an image means, from the words of whoever tried it; pure.

Engines, containerd and registries agree on no codes that reach us, so words it is. Observed with
Docker 28, podman 4.3 and containerd 1.6; what nobody has seen yet counts as the image's fault.
"""

from __future__ import annotations

import re
from typing import Final

from knit_workflows.compute.base import StartFailureKind

UNKNOWN: Final = "ImagePullFailed"
"""What nobody has seen yet."""
_MEANINGS: Final = tuple(
    (re.compile(words, re.IGNORECASE), kind, reason)
    for words, kind, reason in (
        (r"invalid reference|must be lowercase", StartFailureKind.IMAGE, "InvalidImageName"),
        (
            r"denied|unauthorized|forbidden|authentication required",
            StartFailureKind.IMAGE,
            "ImageDenied",
        ),
        (
            r"not ?found|manifest unknown|name unknown|does not exist|did not resolve"
            r"|no match for platform|no matching manifest|no image found",
            StartFailureKind.IMAGE,
            "ImageNotFound",
        ),
        (
            r"too ?many ?requests|\b429\b|qps exceeded",
            StartFailureKind.TRANSIENT,
            "RegistryRateLimited",
        ),
        (r"no space left", StartFailureKind.TRANSIENT, "NoSpaceForImage"),
        (
            r"time-?out|timed out|deadline ?exceeded|refused|reset by peer|broken pipe"
            r"|no such host|name resolution|temporary failure|server misbehaving|unreachable"
            r"|no route to host|tls handshake|\bEOF\b|\b5\d\d\b|service unavailable|bad gateway"
            r"|internal server error|connection (?:closed|reset)",
            StartFailureKind.TRANSIENT,
            "RegistryUnreachable",
        ),
    )
)
"""The first that fits: what a registry says that answered, before what tells of a network,
registry or disk that may recover."""

_NAMES: Final = re.compile(r'"[^"]*"|\S+://\S+|\S+/\S*|\S*\w\.\w\S*|\S+[:@]\S*\d\S*')
"""What is quoted, and addresses: an image called `denied:503` proves nothing."""


def classify_pull_error(message: str) -> tuple[StartFailureKind, str]:
    """Gives how long to be patient with a pull that failed so, and one word for it."""
    words = _NAMES.sub(" ", message)
    for pattern, kind, reason in _MEANINGS:
        if pattern.search(words):
            return kind, reason
    return StartFailureKind.IMAGE, UNKNOWN
