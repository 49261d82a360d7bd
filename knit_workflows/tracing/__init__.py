"""OpenTelemetry traces of the command line, API, workers and hooks; off unless asked for.

```
off:  nothing of OpenTelemetry is loaded, and every function here does nothing
on:   otel (SDK, sampling, export over OTLP)  ◄── temporal (workflows and activities)
```
The standard variables `OTEL_…` decide and configure; the packages are those of `knit[traces]`. A
trace goes with `traceparent` (W3C) from the command line to the API, through Temporal's headers to
workflows and activities, and on to hooks. A Run has a trace of its own, whose id is that of the Run
without dashes, however it came to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from knit_workflows.tracing.otel import Tracing

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN: Final = "http/protobuf"
_TRUE: Final = "true"
_NOT_TAKEN: Final = (ValueError, RuntimeError)
"""What the SDK raises for values of its variables that it does not take."""

_active: Tracing | None = None


class TracesRefused(Exception):
    """Traces are wanted and cannot be had; the message says what to change."""


class Served:
    """What is found out about a request while it is served: its route, and its status."""

    def __init__(self) -> None:
        self.name = ""
        self.status = 0


def is_wanted(variables: Mapping[str, str]) -> bool:
    """Says whether the environment asks for traces: by naming where they go, or that they go."""
    if variables.get("OTEL_SDK_DISABLED", "").lower() == _TRUE:
        return False
    exporter = variables.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporter:
        return exporter == "otlp"
    return any(variables.get(name) for name in _ENDPOINTS)


def start(service: str, variables: Mapping[str, str]) -> None:
    """Begins to trace this process, if the environment asks for it; a second call does nothing.

    Args:
        service: the service's name, unless `OTEL_SERVICE_NAME` has another one.
        variables: the environment; the SDK itself reads that of the process.

    Raises:
        TracesRefused: the packages are missing, another protocol is asked for, or a variable has
            a value that the SDK does not take.
    """
    global _active
    if _active is not None or not is_wanted(variables):
        return
    protocol = next((variables[name] for name in _PROTOCOLS if variables.get(name)), _SPOKEN)
    if protocol != _SPOKEN:
        raise TracesRefused(
            f"traces cannot be sent by {protocol}: knit speaks {_SPOKEN}, which collectors take at "
            f"port 4318; set {_PROTOCOLS[0]}={_SPOKEN}"
        )
    try:
        from knit_workflows.tracing.otel import Tracing
    except ImportError as cause:
        raise TracesRefused(
            f"traces are asked for, but {cause.name} is missing: pip install 'knit[traces]', or "
            "unset OTEL_EXPORTER_OTLP_ENDPOINT"
        ) from cause
    try:
        _active = Tracing(service)
    except _NOT_TAKEN as cause:
        reason = str(cause).rstrip(".") or type(cause).__name__
        raise TracesRefused(
            f"traces cannot be set up: {reason}; correct the OTEL_… variables"
        ) from cause


def stop() -> None:
    """Sends what has not been sent yet, for three seconds at most; then nothing is traced."""
    global _active
    ending, _active = _active, None
    if ending is not None:
        ending.stop()


def is_on() -> bool:
    """Says whether this process is traced."""
    return _active is not None


def headers() -> dict[str, str]:
    """Gives `traceparent` and what else goes with a request; empty if there is no trace."""
    return {} if _active is None else _active.headers()


@contextmanager
def span(name: str, **attributes: str | int) -> Iterator[None]:
    """Traces a call to somebody else, or a whole command; underscores in attributes are dots."""
    if _active is None:
        yield
        return
    with _active.span(name, attributes):
        yield


@contextmanager
def serving(method: str, received: Iterable[tuple[bytes, bytes]]) -> Iterator[Served | None]:
    """Traces the service of a request, as part of its caller's trace if it names one.

    None: it is not traced.
    """
    if _active is None:
        yield None
        return
    served = Served()
    with _active.serving(method, received, served):
        yield served


def name_command(name: str) -> None:
    """Says which command this is, once that is known."""
    if _active is not None:
        _active.rename(name)


def end_command(code: int) -> None:
    """Says with which exit code the command ends; all but 0 are errors."""
    if _active is not None:
        _active.exited(code)


def interceptors() -> list[Any]:
    """Gives what a Temporal client needs so that it, and its workers, are traced."""
    return [] if _active is None else _active.interceptors()
