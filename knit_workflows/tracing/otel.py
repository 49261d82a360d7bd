"""The OpenTelemetry SDK, configured by its own variables, and the ids of traces of Runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final
from uuid import UUID

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from knit_workflows import names
from knit_workflows.tracing import Served

_LAST_WORDS: Final = 3.0
"""Seconds that a process which ends spends on sending spans."""
_SAID_EVERY: Final = 600.0
"""Seconds without another line about a collector that does not take spans."""
_COMPLAINING: Final = (OTLPSpanExporter.__module__, "opentelemetry.sdk._shared_internal")
"""Loggers of what sends spans, and of the queue before it."""

_wanted: ContextVar[int | None] = ContextVar("knit_trace_id", default=None)


class _RunIds(IdGenerator):
    """Random ids, but for traces of Runs."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()

    def generate_span_id(self) -> int:
        return self._random.generate_span_id()

    def generate_trace_id(self) -> int:
        return _wanted.get() or self._random.generate_trace_id()


class _RunSampler(Sampler):
    """Samples as another sampler does, which takes ids of Runs for as random as others.

    Sampling by ratio looks at the second half of a trace's id, the first bits of which are the same
    in all UUIDs; those of the first half are random.
    """

    def __init__(self, chosen: Sampler) -> None:
        self._chosen = chosen

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if trace_id == _wanted.get():
            trace_id = trace_id >> 64 | (trace_id & (1 << 64) - 1) << 64
        return self._chosen.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )

    def get_description(self) -> str:
        return self._chosen.get_description()


class _SaidOnce(logging.Filter):
    """Lets one line through, and none of the next ten minutes.

    While a collector is away the SDK writes some twenty per minute, all of which say so.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said_at = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        if time.monotonic() - self._said_at < _SAID_EVERY:
            return False
        self._said_at = time.monotonic()
        record.msg = f"{record.msg} (more about traces is left out for ten minutes)"
        return True


class Tracing:
    """Traces one process; made once."""

    def __init__(self, service: str) -> None:
        # Its own name and attributes of the environment go before ours.
        resource = Resource({"service.version": names.VERSION}).merge(Resource.create())
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": service}))
        self._provider = TracerProvider(
            resource=resource, id_generator=_RunIds(), shutdown_on_exit=False
        )
        self._provider.sampler = _RunSampler(self._provider.sampler)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        said_once = _SaidOnce()
        for name in _COMPLAINING:
            logging.getLogger(name).addFilter(said_once)
        self.tracer = self._provider.get_tracer("knit", names.VERSION)
        self._propagator = TraceContextTextMapPropagator()

    def stop(self) -> None:
        """Sends what is left, for three seconds at most."""
        # A collector that is away is no trouble of whoever ends.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        # The SDK heeds no time-out but that of an export, which is ten seconds.
        ending = threading.Thread(target=self._end, name="last spans", daemon=True)
        ending.start()
        ending.join(_LAST_WORDS)

    def _end(self) -> None:
        self._provider.force_flush()
        self._provider.shutdown()

    def headers(self) -> dict[str, str]:
        """Gives the headers of the current span."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier

    @contextmanager
    def span(self, name: str, attributes: Mapping[str, str | int]) -> Iterator[None]:
        """Traces a call to somebody else."""
        dotted = {key.replace("_", "."): value for key, value in attributes.items()}
        with self._current(name, kind=SpanKind.CLIENT, attributes=dotted):
            yield

    def rename(self, name: str) -> None:
        """Renames the current span."""
        trace.get_current_span().update_name(name)

    def exited(self, code: int) -> None:
        """Notes the exit code of the command whose span is current."""
        one = trace.get_current_span()
        one.set_attribute("process.exit.code", code)
        if code:
            one.set_status(Status(StatusCode.ERROR))

    @contextmanager
    def serving(
        self, method: str, received: Iterable[tuple[bytes, bytes]], served: Served
    ) -> Iterator[None]:
        """Traces the service of a request; its name and status are known at its end."""
        carrier = {key.decode("latin-1"): value.decode("latin-1") for key, value in received}
        parent = self._propagator.extract(carrier, Context())
        about = {"http.request.method": method}
        with self._current(method, parent, kind=SpanKind.SERVER, attributes=about) as one:
            try:
                yield
            finally:
                one.update_name(f"{method} {served.name}".strip())
                one.set_attribute("http.route", served.name)
                one.set_attribute("http.response.status_code", served.status)
                if served.status >= 500:
                    one.set_status(Status(StatusCode.ERROR))

    @contextmanager
    def _current(self, name: str, parent: Context | None = None, **about: Any) -> Iterator[Span]:
        """Has a span that tells the type of an error, not its text.

        The text may quote what must not leave the process: the HTTP client's has the whole URL.
        """
        with self.tracer.start_as_current_span(
            name, parent, record_exception=False, set_status_on_exception=False, **about
        ) as one:
            try:
                yield one
            except Exception as error:
                one.set_attribute("error.type", type(error).__name__)
                one.set_status(Status(StatusCode.ERROR))
                raise

    def interceptors(self) -> list[Any]:
        """Gives Temporal's; loaded late, since they bring the worker's half of its SDK."""
        from knit_workflows.tracing.temporal import KnitTracing

        return [KnitTracing(self.tracer)]


@contextmanager
def root_of_run(run_id: str) -> Iterator[None]:
    """Has the next span begin the trace of a Run, whatever is current."""
    wanted = _wanted.set(UUID(run_id).int)
    token = contexts.attach(Context())
    try:
        yield
    finally:
        contexts.detach(token)
        _wanted.reset(wanted)
