"""Traces of real processes, as a collector receives them: from the command line to a hook."""

from __future__ import annotations

import pytest
import yaml

from tests.e2e.stack import dev_folder, dev_stack, shell_plan, until
from tests.otlp import Collector, Span, collector
from tests.receiver import receiver

pytestmark = [pytest.mark.timeout(900), pytest.mark.engine, pytest.mark.slow]


def ancestry(receiving: Collector, span: Span | None) -> list[tuple[str, str]]:
    """Gives service and name of a span and of all that it is part of, the whole first."""
    found: list[tuple[str, str]] = []
    while span is not None:
        found.insert(0, (span.service, span.name))
        if span.parent and receiving.parent(span) is None:
            return []  # not all has arrived yet
        span = receiving.parent(span)
    return found


def test_a_trace_goes_from_the_command_to_a_hook_and_a_run_has_its_own(
    sandbox: dict[str, str],
) -> None:
    environment = {key: value for key, value in sandbox.items() if not key.startswith("KNIT_")}
    environment |= {"KNIT_COMPUTE__LOCAL__ENGINE": "", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with (
        dev_folder() as folder,
        collector() as receiving,
        receiver() as hooked,
        dev_stack(
            folder,
            **environment,
            OTEL_EXPORTER_OTLP_ENDPOINT=receiving.origin,
            NO_PROXY="127.0.0.1",
        ) as stack,
    ):
        hooks = {"lifecycle-hooks": {"before": [hooked.url("/before")]}}
        (folder / "hooks.yaml").write_text(yaml.safe_dump(hooks))
        stack.knit("dev", "up", "--detach", "--hooks", "hooks.yaml")

        # From the command line on, in one trace.
        asked: list[tuple[str, str]] = []

        def whole() -> list[tuple[str, str]] | None:
            """Asks once more: a command that ends leaves out what it cannot send soon."""
            stack.knit("hook", "test", hooked.url("/before"))
            _, trace, parent, flags = hooked.calls.pop().headers["traceparent"].split("-")
            assert flags == "01"
            asked.append((trace, parent))
            calls = [one for one in receiving.spans if (one.trace, one.id) in asked]
            return next(filter(None, (ancestry(receiving, one) for one in calls)), None)

        found = until(whole)
        assert found[0] == ("knit-cli", "knit hook test")
        assert found[1] == ("knit-api", "POST /api/hooks/test")
        assert found[-2:] == [
            ("knit-worker", "RunActivity:knit.test_hook"),
            ("knit-worker", "POST hook"),
        ]
        assert ("knit-api", "StartWorkflow:knit.TestHook") in found

        # A Run's trace is found by its id; its hooks are part of it.
        plan = stack.apply(shell_plan("true", "trace:run"))
        stack.push("x", "trace:run")
        run = stack.run_in(plan, "done")["runId"]
        trace = run.replace("-", "")
        until(lambda: any("finalize_run" in one.name for one in receiving.of(trace)))
        # A span is sent when it has ended; the processes send theirs when they like.
        roots = until(lambda: [one for one in receiving.of(trace) if not one.parent] or None)
        assert [(one.service, one.name) for one in roots] == [
            ("knit-worker", "StartWorkflow:knit.Run")
        ]
        assert roots[0].attributes["temporalWorkflowID"] == f"knit.run:{run}:1"
        assert {one.headers["traceparent"].split("-")[1] for one in hooked.calls} == {trace}

        # Neither probes nor what nobody has asked for.
        names = {one.name for one in receiving.spans}
        assert not [one for one in names if "healthz" in one or "readyz" in one]
        assert not [one for one in names if "drain_outbox" in one or "collect_garbage" in one]
