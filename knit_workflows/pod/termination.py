"""Tells people why a container ended: on stderr, and where Kubernetes looks for it."""

from __future__ import annotations

import os
import sys

TERMINATION_LOG = "/dev/termination-log"
"""Kubernetes makes this file and shows what is in it with the container's exit code."""

_MOST_BYTES = 4096  # Kubernetes reads no more


def explain(sentence: str, termination_log: str = TERMINATION_LOG) -> None:
    """Writes the sentence to stderr and, if Kubernetes made the file, to the termination log.

    Never raises: a reason that cannot be told must not hide behind another. A second call replaces
    the first in the termination log.
    """
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()
    _note(sentence.encode("utf-8", "replace")[:_MOST_BYTES], termination_log)


def tell(lines: list[str], termination_log: str = TERMINATION_LOG) -> None:
    """Leaves these lines for whoever reads how the container ended, as many whole ones as fit."""
    told = b""
    for line in lines:
        more = line.encode("utf-8", "replace") + b"\n"
        if len(told) + len(more) > _MOST_BYTES:
            break
        told += more
    if told:
        _note(told, termination_log)


def _note(content: bytes, termination_log: str) -> None:
    try:  # without O_CREAT: outside a pod there is no such file and must be none
        descriptor = os.open(termination_log, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(descriptor, content)
    except OSError:
        pass
    finally:
        os.close(descriptor)
