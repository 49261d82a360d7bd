"""Logging: one line per change of state; JSON lines for programs, rich on a terminal."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final, Literal

LogFormat = Literal["json", "rich", "auto"]

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """One JSON object per line: at, level, logger, message, and whatever `extra` holds."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats one record; values that JSON does not know become text."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def is_for_people(format: LogFormat) -> bool:
    """Says whether logs are for people on a terminal rather than for programs."""
    return format == "rich" or (format == "auto" and sys.stderr.isatty())


def set_up(format: LogFormat, level: str) -> None:
    """Sends all logs to stderr in one format; a second call replaces the first."""
    handler: logging.Handler
    if is_for_people(format):
        # Here, since services write JSON, and this takes 2 MiB.
        from rich.console import Console
        from rich.logging import RichHandler

        handler = RichHandler(console=Console(stderr=True), show_path=False)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
