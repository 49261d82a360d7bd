"""Configures Temporal's Rust core, which bypasses Python's `logging`, and measures itself."""

from __future__ import annotations

import socket
from typing import Final

from temporalio.runtime import (
    LoggingConfig,
    LoggingFormat,
    PrometheusConfig,
    Runtime,
    TelemetryConfig,
)

from knit_workflows.log import LogFormat, is_for_people

_ATTEMPTS: Final = 5


def set_up_telemetry(format: LogFormat, *, with_metrics: bool = False) -> int | None:
    """Makes the core log as we do, and measure; call it before the first client connects.

    Its lines have their own keys (`timestamp`, `level`, `fields`). A second call replaces the
    first.

    Returns:
        The port of the loopback address where the core answers `/metrics`, if `with_metrics`.
    """
    logging = LoggingConfig.default
    if not is_for_people(format):
        logging = LoggingConfig(filter=logging.filter, format=LoggingFormat.JSON)
    if with_metrics:
        return _measuring(logging)
    if logging is not LoggingConfig.default:
        _install(TelemetryConfig(logging=logging))
    return None


def _measuring(logging: LoggingConfig) -> int:
    for attempt in range(_ATTEMPTS):
        port = _free_port()
        metrics = PrometheusConfig(
            bind_address=f"127.0.0.1:{port}",
            # As Prometheus wants names: `_total`, `_seconds`.
            counters_total_suffix=True,
            unit_suffix=True,
            durations_as_seconds=True,
        )
        try:
            _install(TelemetryConfig(logging=logging, metrics=metrics, attach_service_name=False))
        except (RuntimeError, ValueError):
            if attempt == _ATTEMPTS - 1:
                raise
            continue  # somebody else has just taken the port
        return port
    raise AssertionError("unreachable")


def _install(config: TelemetryConfig) -> None:
    Runtime.set_default(Runtime(telemetry=config), error_if_already_set=False)


def _free_port() -> int:
    """Finds a port for the core, which cannot say which one it was given if it asks for any."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
