"""Where words go: results on stdout, talk on stderr."""

import json
import sys
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from knit_api.schemas.wire import to_wire
from knit_cli.errors import printable


def print_json(value: BaseModel | list[Any] | dict[str, Any]) -> None:
    """Writes a wire value to stdout as JSON with 4 spaces and a final newline."""
    print_text(json.dumps(to_wire(value), indent=4, ensure_ascii=False))


def print_text(text: str) -> None:
    """Writes a result to stdout, in UTF-8 whatever the locale, with a final newline."""
    print_bytes([text.encode("utf-8", errors="replace"), b"\n"])


def print_bytes(chunks: Iterable[bytes]) -> None:
    """Copies chunks to stdout as they come, each visible at once."""
    sys.stdout.flush()
    for chunk in chunks:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def say(text: str) -> None:
    """Writes one line of talk to stderr."""
    sys.stderr.write(f"knit: {printable(text)}\n")
    sys.stderr.flush()
