"""Reports why a container ended: on stderr, and in the termination log of Kubernetes."""

from __future__ import annotations

import os
import sys

TERMINATION_LOG = "/dev/termination-log"
"""Kubernetes creates this file, and shows its content beside the container's exit code."""

_MAX_BYTES = 4096  # Kubernetes reads no more


def report(sentence: str, termination_log: str = TERMINATION_LOG) -> None:
    """Writes the sentence to stderr and, inside a pod, to the termination log.

    Never raises, so that it cannot hide the reason it reports. A second call replaces the first in
    the termination log.
    """
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()
    _write(sentence.encode("utf-8", "replace")[:_MAX_BYTES], termination_log)


def write_notes(lines: list[str], termination_log: str = TERMINATION_LOG) -> None:
    """Writes these lines to the termination log, as many whole ones as fit into 4 KiB."""
    content = b""
    for line in lines:
        more = line.encode("utf-8", "replace") + b"\n"
        if len(content) + len(more) > _MAX_BYTES:
            break
        content += more
    if content:
        _write(content, termination_log)


def _write(content: bytes, termination_log: str) -> None:
    try:  # without O_CREAT: outside a pod the file must not appear
        descriptor = os.open(termination_log, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(descriptor, content)
    except OSError:
        pass
    finally:
        os.close(descriptor)
