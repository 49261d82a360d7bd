"""A receiver of OTLP over HTTP: a real server that reads traces with the official messages."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from knit_workflows import tracing


@dataclass(frozen=True)
class Span:
    """One span, as its process has sent it; `parent` is empty at the root of a trace."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, str]
    whole: str
    """All of it as text, with its events and status."""


@dataclass
class Collector:
    """What was received so far."""

    origin: str
    spans: list[Span] = field(default_factory=list)

    def of(self, trace: str) -> list[Span]:
        """Gives the spans of a trace."""
        return [one for one in self.spans if one.trace == trace]

    def parent(self, span: Span) -> Span | None:
        """Gives the span that another one is part of; None: it is not there (yet)."""
        return next((one for one in self.spans if one.id == span.parent), None)


@contextmanager
def collector() -> Iterator[Collector]:
    """Serves on a free port of this machine until left."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            assert self.headers["Content-Type"] == "application/x-protobuf"
            receiving.spans.extend(_read(ExportTraceServiceRequest.FromString(body)))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *arguments: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiving = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiving
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _read(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        about = {one.key: one.value.string_value for one in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    service=about["service.name"],
                    name=span.name,
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    attributes={
                        one.key: one.value.string_value or str(one.value.int_value)
                        for one in span.attributes
                    },
                    whole=str(span),
                )


@contextmanager
def traced(patched: Any) -> Iterator[Collector]:
    """Traces this process, as its environment would have it; `patched` is pytest's monkeypatch."""
    with collector() as receiving:
        patched.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiving.origin)
        patched.setenv("NO_PROXY", "127.0.0.1")
        tracing.start("knit-test", os.environ)
        try:
            yield receiving
        finally:
            tracing.stop()
