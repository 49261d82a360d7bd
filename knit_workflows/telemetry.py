"""Configures logging of Temporal's Rust core, which bypasses Python's `logging`."""

from __future__ import annotations

from temporalio.runtime import LoggingConfig, LoggingFormat, Runtime, TelemetryConfig

from knit_workflows.log import LogFormat, is_for_people


def set_up_telemetry(format: LogFormat) -> None:
    """Makes the core log JSON when our own logs are JSON; call it before the first client connects.

    Its lines have their own keys (`timestamp`, `level`, `fields`). A second call replaces the
    first.
    """
    if is_for_people(format):
        return
    warnings = LoggingConfig(filter=LoggingConfig.default.filter, format=LoggingFormat.JSON)
    runtime = Runtime(telemetry=TelemetryConfig(logging=warnings))
    Runtime.set_default(runtime, error_if_already_set=False)
