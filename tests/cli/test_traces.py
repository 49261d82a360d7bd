"""A command and what the API does for it are one trace; and nothing is traced unless asked for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from knit_workflows import tracing
from knit_workflows.tracing import TracesRefused
from tests.otlp import collector, traced
from tests.waiting import PATIENCE

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
PATIENT = f"""if True:
    from knit_cli.main import main
    from knit_workflows.tracing import otel
    otel._LAST_WORDS = {PATIENCE}
    main()
"""
"""The command, with all the time that its last spans may need."""


@pytest.fixture
def patient(monkeypatch):
    """Gives the last spans of this process all the time that they may need."""
    monkeypatch.setattr("knit_workflows.tracing.otel._LAST_WORDS", PATIENCE)


@pytest.mark.patient
def test_a_command_and_its_requests_are_one_trace(knit, api, monkeypatch, patient):
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


@pytest.mark.patient
def test_requests_of_its_threads_are_part_of_a_commands_trace(knit, api, monkeypatch, patient):
    for number in range(3):
        knit.write(
            "plan.yaml",
            f"image: step:{number}\ninputs: [{{path: /in, tags: ['k:{number}']}}]\n"
            f"outputs: [{{path: /out, tags: ['k:{number + 1}']}}]\n",
        )
        plan = knit("plan", "apply", "plan.yaml").json["planId"]
    with traced(monkeypatch) as receiving:
        with tracing.span("knit"):
            assert len(knit("plan", "graph", plan, "--format", "json").json["plans"]) == 3
        tracing.stop()
    [command] = [one for one in receiving.spans if not one.parent]
    requests = [one for one in receiving.spans if one.name == "GET /api/plans/{plan_id}"]
    assert len(requests) == 3
    assert {one.parent for one in requests} == {command.id}


def started(origin, *arguments, program=("-m", "knit_cli"), **variables):
    """A real command that sends traces there."""
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {"OTEL_EXPORTER_OTLP_ENDPOINT": origin, "NO_PROXY": "127.0.0.1"}
        | variables,
    )


@pytest.mark.patient
@pytest.mark.parametrize(
    ("arguments", "code"), [(("version",), 0), (("plan", "validate", "none.yaml"), 1)]
)
def test_a_command_that_fails_is_an_error_in_its_trace(arguments, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = ("-c", PATIENT)
    with (
        collector() as receiving,
        started(receiving.origin, *arguments, program=program) as process,
    ):
        assert process.wait(PATIENCE) == code
    [command] = receiving.spans
    assert command.attributes["process.exit.code"] == str(code)
    assert ("STATUS_CODE_ERROR" in command.whole) is bool(code)


@pytest.mark.patient
def test_the_completion_of_a_line_is_not_traced():
    """Whoever has pressed TAB waits for it."""
    completing = {"_KNIT_COMPLETE": "complete_bash", "COMP_WORDS": "knit da", "COMP_CWORD": "1"}
    with collector() as receiving, started(receiving.origin, **completing) as process:
        assert process.wait(PATIENCE) == 0
    assert receiving.spans == []


@contextmanager
def silent():
    """A collector that takes connections and says nothing: its socket, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening, f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.patient
def test_a_collector_that_says_nothing_is_not_waited_for_as_long_as_an_export_may_last():
    for_long = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1000"}
    with silent() as (_, origin), started(origin, "version", **for_long) as process:
        assert process.wait(PATIENCE) == 0


@pytest.mark.patient
def test_whoever_does_not_wait_for_it_sees_no_traceback():
    with silent() as (listening, origin), started(origin, "version") as process:
        with listening.accept()[0]:
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""


@pytest.mark.patient
def test_a_collector_that_is_away_is_told_of_once():
    """Every span is a failure here, while the process works on."""
    code = """if True:
        import os, time
        from knit_workflows import tracing
        tracing.start("x", os.environ)
        for _ in range(20):
            with tracing.span("y"):
                time.sleep(0.05)
        tracing.stop()
    """
    often = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_EXPORTER_OTLP_TIMEOUT": "0.3"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"} | often,
    )
    [line] = done.stderr.splitlines()
    assert line.endswith(" (more about traces is left out for ten minutes)")


@pytest.mark.parametrize(
    "wrong",
    [
        {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4096"},
        {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many"},
        {"OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER": "none"},
    ],
)
def test_a_value_that_the_sdk_does_not_take_is_refused_in_words(wrong, monkeypatch):
    """Neither API nor workers end because of it."""
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TracesRefused, match=r"cannot be set up: \S.*; correct the OTEL_… var"):
        tracing.start("x", ENDPOINT)
    assert not tracing.is_on()


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
