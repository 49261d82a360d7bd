"""What goes between a backup and the installation: messages, and the content that follows them.

Inside one process they are passed as they are; through a pipe each has a head of five bytes: its
kind and its length. The stream ends with a message of its own, so that a cut one is noticed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from knit_workflows.backup.problems import BackupProblem

Frame = dict[str, Any] | bytes
"""A message, or a part of the content that the last message has announced."""

_HEAD: Final = struct.Struct(">cI")
_MESSAGE: Final = b"M"
_CONTENT: Final = b"C"
_LARGEST: Final = 128 << 20
"""A volume of 16 TiB, the most that an archive may have, has a million pieces: 80 MiB of names."""
_OVER: Final = "over"
_PROBLEM: Final = "problem"


def write_frames(frames: Iterable[Frame], write: Callable[[bytes], object]) -> None:
    """Writes frames and the end of the stream; a BackupProblem among them goes to the reader."""
    try:
        for frame in frames:
            _write(frame, write)
    except BackupProblem as problem:
        told = {"summary": problem.summary, "reason": problem.reason, "advice": problem.advice}
        _write({_PROBLEM: told}, write)
    else:
        _write({_OVER: True}, write)


def _write(frame: Frame, write: Callable[[bytes], object]) -> None:
    is_content = isinstance(frame, bytes)
    body = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
    write(_HEAD.pack(_CONTENT if is_content else _MESSAGE, len(body)))
    write(body)


def read_frames(read: Callable[[int], bytes]) -> Iterator[Frame]:
    """Reads frames to the end of the stream; `read` gives all bytes asked for, fewer at the end.

    Raises:
        BackupProblem: the stream is cut or garbled, or the writer had a problem.
    """
    while True:
        kind, size = _HEAD.unpack(_exactly(read, _HEAD.size))
        if kind not in (_MESSAGE, _CONTENT) or size > _LARGEST:
            raise BackupProblem("what came from the installation is garbled", advice=_AGAIN)
        body = _exactly(read, size)
        if kind == _CONTENT:
            yield body
            continue
        message = json.loads(body)
        if _OVER in message:
            return
        if _PROBLEM in message:
            raise BackupProblem(**message[_PROBLEM])
        yield message


_AGAIN: Final = "repeat the command: it goes on from here"


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    body = read(size)
    if len(body) < size:
        raise BackupProblem("the connection to the installation was cut", advice=_AGAIN)
    return body


def content_until(frames: Iterator[Frame], word: str) -> Iterator[bytes]:
    """Gives the content up to the message that has this word; raises BackupProblem at another."""
    for frame in frames:
        if isinstance(frame, bytes):
            yield frame
        elif word in frame:
            return
        else:
            raise BackupProblem("what came from the installation is out of order", advice=_AGAIN)
