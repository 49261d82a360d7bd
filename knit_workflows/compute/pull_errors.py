"""Classifies failed image pulls by their messages; pure.

Engines, containerd and registries share no error codes that reach us, so it has to be the message.
Observed with Docker 28, podman 4.3 and containerd 1.6; an unknown message blames the image.
"""

from __future__ import annotations

import re
from typing import Final

from knit_workflows.compute.base import StartFailureKind

UNKNOWN: Final = "ImagePullFailed"
"""For messages that no pattern matches."""
_PATTERNS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), kind, reason)
    for pattern, kind, reason in (
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
"""The first match counts: responses of a registry come before failures of a network, registry or
disk that may recover."""

_NAMES: Final = re.compile(r'"[^"]*"|\S+://\S+|\S+/\S*|\S*\w\.\w\S*|\S+[:@]\S*\d\S*')
"""Quoted text and addresses, which are ignored: an image named `denied:503` proves nothing."""


def classify_pull_error(message: str) -> tuple[StartFailureKind, str]:
    """Gives the kind of a failed pull, and one word for its reason."""
    text = _NAMES.sub(" ", message)
    for pattern, kind, reason in _PATTERNS:
        if pattern.search(text):
            return kind, reason
    return StartFailureKind.IMAGE, UNKNOWN
