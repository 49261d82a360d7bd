"""Traces through Temporal to hooks, in one process; `tests/e2e/test_traces` has several."""

from __future__ import annotations

import pytest
from temporalio.client import Client

from knit_workflows import tracing
from knit_workflows.domain.errors import BackendUnavailable
from knit_workflows.domain.hooks import HookPhase, Hooks
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.settings import HookSettings
from knit_workflows.testing import MemoryBackend, knit_environment, temporal
from tests.otlp import traced
from tests.receiver import receiver
from tests.workflows.test_hook_test import until_hooks_are_called
from tests.workflows.test_run import TRAIN

pytestmark = pytest.mark.patient  # it needs a whole knit of its own


class AwayOnce(MemoryBackend):
    """Refuses the first call of one kind, with an error that is tried again."""

    gone = True

    async def release(self, pod_name: str) -> None:
        if self.gone:
            self.gone = False
            raise BackendUnavailable("no container engine answers")
        await super().release(pod_name)


async def test_from_a_command_to_a_hook_and_a_run_as_a_trace(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked for is one trace; a Run's has its id; the Projector is in none."""
    settings = HookSettings(allow_loopback=True, proxies=False)
    with traced(monkeypatch) as receiving, receiver() as hooked:
        async with temporal() as plain:
            config = plain.config()
            config["interceptors"] = tracing.interceptors()
            client = Client(**config)
            async with knit_environment(
                postgres=postgres, client=client, hooks=settings, backend=AwayOnce()
            ) as knit:
                url = hooked.url("/before")
                await knit.store.hooks.configure(Hooks(before=(url,)))
                await until_hooks_are_called(knit)
                with tracing.span("knit hook test"):
                    await knit.knit.test_hook(url, HookPhase.BEFORE)
                _, asked, parent, flags = hooked.calls.pop().headers["traceparent"].split("-")
                plan = await knit.apply(TRAIN)
                await knit.push({"type": "dataset"})
                [run] = await knit.runs_of(plan.summary.plan_id, 1)
                traces = {one.headers["traceparent"].split("-")[1] for one in hooked.calls}
        tracing.stop()
        spans = receiving.spans
    assert flags == "01"
    line = []
    span = next(one for one in spans if one.id == parent)
    while True:
        line.insert(0, span.name)
        if not span.parent:
            break
        span = next(one for one in spans if one.id == span.parent)
    assert (line[0], line[-2:]) == ("knit hook test", ["RunActivity:knit.test_hook", "POST hook"])
    assert {one.name for one in spans if one.trace == asked} >= set(line)

    of_run = run.summary.run_id.replace("-", "")
    assert traces == {of_run}
    mine = [one for one in spans if one.trace == of_run]
    assert [one.name for one in mine if not one.parent] == ["StartWorkflow:knit.Run"]
    assert "RunActivity:knit.finalize_run" in {one.name for one in mine}
    failed = [one for one in mine if "STATUS_CODE_ERROR" in one.whole]
    assert [one.name.partition(":")[0] for one in failed] == ["RunActivity"]
    assert "no container engine answers" in failed[0].whole
    call = next(one for one in mine if one.name == "POST hook")
    assert call.attributes["server.address"] == "127.0.0.1"
    assert not [one for one in spans if "drain_outbox" in one.name or "Projector" in one.name]
