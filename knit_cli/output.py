"""Output: results on stdout, messages on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from pydantic import BaseModel

from knit_cli.errors import printable
from knit_cli.os_failures import cannot_write_result
from knit_workflows.wire.base import to_wire

_CONTROLS = re.compile("[\x7f-\x9f]")
"""Those that JSON leaves as they are; a terminal may obey them, whoever wrote the tag or name."""


def print_json(value: BaseModel | list[Any] | dict[str, Any]) -> None:
    """Writes a wire value to stdout as JSON with 4 spaces and a final newline."""
    text = json.dumps(to_wire(value), indent=4, ensure_ascii=False)
    print_text(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def print_text(text: str) -> None:
    """Writes a result to stdout, in UTF-8 whatever the locale, with a final newline."""
    print_bytes([text.encode("utf-8", errors="replace"), b"\n"])


def print_bytes(chunks: Iterable[bytes]) -> None:
    """Writes chunks to stdout, flushing each.

    Raises:
        CliError: stdout cannot be written.
        BrokenPipeError: the reader of the pipe is gone.
    """
    _write(b"")
    for chunk in chunks:
        _write(chunk)


def _write(chunk: bytes) -> None:
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as cause:
        raise cannot_write_result(cause) from cause


def say(text: str) -> None:
    """Writes a message to stderr; a closed stderr is ignored."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"knit: {printable(text)}\n")
        sys.stderr.flush()
