"""What Temporal's core, which is no Python, says on stderr by itself."""

from __future__ import annotations

from temporalio.runtime import LoggingConfig, LoggingFormat, Runtime, TelemetryConfig

from knit_workflows.log import LogFormat, is_for_people


def set_up_telemetry(format: LogFormat) -> None:
    """Lets the core warn in JSON, too, for programs; to be called before the first client.

    Its lines have its own keys (`timestamp`, `level`, `fields`). A second call replaces the first.
    """
    if is_for_people(format):
        return
    warnings = LoggingConfig(filter=LoggingConfig.default.filter, format=LoggingFormat.JSON)
    runtime = Runtime(telemetry=TelemetryConfig(logging=warnings))
    Runtime.set_default(runtime, error_if_already_set=False)
