"""Traces a process that serves: without the packages it serves untraced, and says so."""

from __future__ import annotations

import logging
import os

from knit_workflows import tracing

log = logging.getLogger(__name__)


def start(service: str) -> None:
    """Begins to trace this process, if its environment asks for it and it can."""
    try:
        tracing.start(service, os.environ)
    except tracing.TracesRefused as refused:
        # A cluster may give every pod such variables; that shall not keep knit from its work.
        log.warning("there are no traces: %s", refused, extra={"action": "not_traced"})
        return
    if tracing.is_on():
        log.info("traces are sent", extra={"action": "traced"})
