"""Traces through Temporal, with the interceptor of its SDK, which is safe to replay.

Only what belongs to a trace is traced: what users ask for, and Runs. The Projector and the
schedules would make a trace that never ends, or one per minute that tells nothing.
"""

from __future__ import annotations

from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode
from temporalio.client import (
    OutboundInterceptor,
    QueryWorkflowInput,
    SignalWorkflowInput,
    StartWorkflowInput,
    StartWorkflowUpdateInput,
    StartWorkflowUpdateWithStartInput,
    WorkflowHandle,
    WorkflowUpdateHandle,
)
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from knit_workflows import names
from knit_workflows.tracing.otel import root_of_run

_RUN: Final = names.run_workflow("", 0).partition(":")[0]


class KnitTracing(TracingInterceptor):
    """For a client, and all workers that are made with it."""

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        """See the SDK."""
        return _Client(next, super().intercept_client(next))

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """See the SDK."""
        return _Activity(next, super().intercept_activity(_Marking(next)), self.header_key)


class _Client(OutboundInterceptor):
    def __init__(self, plain: OutboundInterceptor, traced: OutboundInterceptor) -> None:
        super().__init__(plain)
        self._traced = traced

    @property
    def _fit(self) -> OutboundInterceptor:
        """The traced way, if there is a trace to which a call belongs."""
        current = trace.get_current_span().get_span_context()
        return self._traced if current.is_valid else self.next

    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:
        kind, _, rest = input.id.partition(":")
        if kind == _RUN and input.workflow == names.RUN_WORKFLOW:
            with root_of_run(rest.partition(":")[0]):
                return await self._traced.start_workflow(input)
        return await self._fit.start_workflow(input)

    async def query_workflow(self, input: QueryWorkflowInput) -> Any:
        return await self._fit.query_workflow(input)

    async def signal_workflow(self, input: SignalWorkflowInput) -> None:
        await self._fit.signal_workflow(input)

    async def start_workflow_update(
        self, input: StartWorkflowUpdateInput
    ) -> WorkflowUpdateHandle[Any]:
        return await self._fit.start_workflow_update(input)

    async def start_update_with_start_workflow(
        self, input: StartWorkflowUpdateWithStartInput
    ) -> WorkflowUpdateHandle[Any]:
        return await self._fit.start_update_with_start_workflow(input)


class _Activity(ActivityInboundInterceptor):
    def __init__(
        self, plain: ActivityInboundInterceptor, traced: ActivityInboundInterceptor, header: str
    ) -> None:
        super().__init__(plain)
        self._traced = traced
        self._header = header

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        way = self._traced if self._header in input.headers else self.next
        return await way.execute_activity(input)


class _Marking(ActivityInboundInterceptor):
    """Makes the span of every activity that fails an error.

    Temporal's SDK leaves out benign errors, which all domain errors are; that counts for its log
    and its metrics.
    """

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        try:
            return await self.next.execute_activity(input)
        except Exception:
            trace.get_current_span().set_status(Status(StatusCode.ERROR))
            raise
