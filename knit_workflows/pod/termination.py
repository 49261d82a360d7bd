"""Reports why a container ended: on stderr, and in the termination log of Kubernetes."""

from __future__ import annotations

import os
import sys

TERMINATION_LOG = "/dev/termination-log"
"""Kubernetes creates this file, and shows its content beside the container's exit code."""

_MAX_BYTES = 4096  # Kubernetes reads no more
_LEAST_LINE_BYTES = 80  # less of a line says nothing


def report(sentence: str, termination_log: str = TERMINATION_LOG) -> None:
    """Writes the sentence to stderr and, inside a pod, to the termination log.

    Never raises, so that it cannot hide the reason it reports. A second call replaces the first in
    the termination log.
    """
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()
    _write(sentence.encode("utf-8", "replace")[:_MAX_BYTES], termination_log)


def write_notes(lines: list[str], termination_log: str = TERMINATION_LOG) -> None:
    """Writes as much of these lines to the termination log as fits into 4 KiB.

    Of each its share, and what others leave of theirs; what is cut ends in "…". As
    `program/main.go`.
    """
    encoded = [line.encode("utf-8", "replace") for line in lines]
    content = b""
    for at, line in enumerate(encoded):
        room = _MAX_BYTES - len(content)
        share = max(room // (len(encoded) - at), _LEAST_LINE_BYTES)
        if room < min(share, len(line) + 1):
            break
        room -= sum(min(share, len(later) + 1) for later in encoded[at + 1 :])
        content += _cut(line, max(room, share) - 1) + b"\n"
    if content:
        _write(content, termination_log)


def _cut(line: bytes, most: int) -> bytes:
    """Shortens a line to so many bytes, at a character."""
    if len(line) <= most:
        return line
    mark = "…".encode()
    return line[: most - len(mark)].decode("utf-8", "ignore").encode() + mark


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
