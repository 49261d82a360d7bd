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
    try:  # without O_CREAT: outside a pod there is no such file and must be none
        descriptor = os.open(termination_log, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(descriptor, sentence.encode("utf-8", "replace")[:_MOST_BYTES])
    except OSError:
        pass
    finally:
        os.close(descriptor)
