"""A command and what the API does for it are one trace; and nothing is traced unless asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from knit_workflows import tracing
from knit_workflows.tracing import TracesRefused
from tests.otlp import traced

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.patient
def test_a_command_and_its_requests_are_one_trace(knit, api, monkeypatch):
    """Named by its words, without what the user has given it."""
    with traced(monkeypatch) as receiving:
        with tracing.span("knit"):
            knit("run", "show", "no-such-run")
        tracing.stop()
    [command] = [one for one in receiving.spans if not one.parent]
    assert (command.service, command.name) == ("knit-test", "knit run show")
    requests = [one for one in receiving.spans if one.parent == command.id]
    assert {one.name for one in requests} == {"GET /api/runs/{run_id}"}
    assert requests[0].attributes["http.response.status_code"] == "404"
    assert {one.trace for one in receiving.spans} == {command.trace}
    assert "no-such-run" not in str(receiving.spans)
    # After the end nothing is sent any more.
    knit("plan", "find")
    assert "traceparent" not in api.requests[-1].headers


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": ""}, True),
    ],
)
def test_the_standard_variables_switch_traces_on_and_off(variables, wanted):
    assert tracing.is_wanted(variables) is wanted


def test_another_protocol_is_refused_in_words():
    with pytest.raises(TracesRefused, match="by grpc: knit speaks http/protobuf"):
        tracing.start("x", {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert not tracing.is_on()


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.delitem(sys.modules, "knit_workflows.tracing.otel", raising=False)
    with pytest.raises(TracesRefused, match=r"pip install 'knit\[traces\]'"):
        tracing.start("x", ENDPOINT)


def test_without_a_collector_nothing_of_opentelemetry_is_loaded():
    """So that `knit --help` starts as quickly as before."""
    code = "import sys, knit_cli.main; print([m for m in sys.modules if 'opentel' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_ids_of_runs_are_sampled_by_ratio_as_others_are():
    """The half of an id that is looked at begins with the same bits in all UUIDs."""
    from uuid import UUID

    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    from knit_workflows.tracing.otel import _RunSampler, root_of_run

    sampler = _RunSampler(TraceIdRatioBased(0.25))
    taken = 0
    for number in range(1000):
        run_id = str(UUID(int=number * (2**128 // 1000), version=4))
        with root_of_run(run_id):
            result = sampler.should_sample(None, UUID(run_id).int, "x")
        taken += result.decision.is_sampled()
    assert 200 < taken < 300
