#!/bin/sh
# opentelemetry-sdk 1.45.2: `TracerProvider.force_flush(timeout_millis)` with a BatchSpanProcessor and the OTLP
# exporter over HTTP ignores its argument. A collector that takes the connection and never answers holds a call with
# 500 ms for the exporter's own time-out, ten seconds; `shutdown()` knows no other limit either. The answer is True.
# Noted guess: it returns False after 500 ms, as the parameter and its name say.
# So whoever ends a process in time has to put a limit of their own around it, such as a daemon thread that is joined.
# Needs python3 and a package index; sends to the loopback address only. Fails if the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "opentelemetry-sdk==1.45.2" "opentelemetry-exporter-otlp-proto-http==1.45.2"
cat > "$folder/flush.py" <<'PYTHON'
import logging
import os
import socket
import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

logging.disable(logging.CRITICAL)
with socket.create_server(("127.0.0.1", 0)) as silent:
    provider = TracerProvider()
    exporter = OTLPSpanExporter(f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    provider.get_tracer("t").start_span("one").end()
    began = time.monotonic()
    answer = provider.force_flush(500)
    took = time.monotonic() - began
    print(f"force_flush(500) gave {answer} after {took:.1f} s", flush=True)
assert took > 5, "it has changed"
os._exit(0)
PYTHON
env -u http_proxy -u HTTP_PROXY -u https_proxy -u HTTPS_PROXY NO_PROXY=127.0.0.1 "$folder/venv/bin/python" "$folder/flush.py"
