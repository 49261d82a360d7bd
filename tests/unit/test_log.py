"""Logs are one JSON object a line, with whatever is worth searching for."""

from __future__ import annotations

import json
import logging
import sys

from knit_workflows.log import JsonFormatter


def test_a_line_holds_what_extra_says() -> None:
    """Message and extra fields, readable by a machine; what JSON does not know becomes text."""
    record = logging.makeLogRecord(
        {"name": "knit", "levelname": "INFO", "msg": "run is %s", "args": ("done",)}
    )
    record.run_id, record.cause = "r1", ValueError("x")
    line = json.loads(JsonFormatter().format(record))
    assert line["message"] == "run is done"
    assert line["run_id"] == "r1"
    assert line["cause"] == "x"
    assert line["at"].endswith("+00:00")


def test_an_exception_stays_on_its_line() -> None:
    """A traceback is a field, never more lines."""
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": sys.exc_info()})
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert "RuntimeError: broken" in json.loads(text)["exception"]
