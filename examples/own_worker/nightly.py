"""knit inside your own Temporal program: one Worker, and a workflow of yours that awaits a Run.

Start the stack with `knit dev up -d`, register a Plan, push a Data that fits, then

    python examples/own_worker/nightly.py PLAN_ID PATH KNIT_ID

The workflow asks for the Run of that Plan with that Data at that path. If knit ran it already, the
answer comes at once: the same combination is never run twice.
"""

from __future__ import annotations

import argparse
import asyncio
import uuid
from dataclasses import dataclass

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from knit_workflows import KnitPlugin, run_plan

QUEUE = "nightly"


@dataclass
class Order:
    """What to run: a Plan, and the Data for its one input."""

    plan_id: str
    path: str
    knit_id: str


@workflow.defn
class Nightly:
    """A workflow of your own; knit's part is one line of it."""

    @workflow.run
    async def run(self, order: Order) -> str:
        """Awaits the Run, then does what you like with its outputs."""
        finished = await run_plan(order.plan_id, {order.path: order.knit_id})
        made = ", ".join(f"{output.path}={output.knit_id}" for output in finished.outputs)
        return f"run {finished.run_id} is {finished.status}: {made}"


async def main(address: str, order: Order) -> str:
    """Connects, serves the workflow, and runs it once; gives its answer."""
    client = await Client.connect(address, plugins=[KnitPlugin()])
    async with Worker(client, task_queue=QUEUE, workflows=[Nightly]):
        return await client.execute_workflow(
            Nightly.run, order, id=f"nightly-{uuid.uuid4()}", task_queue=QUEUE
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--temporal", default="localhost:7233", help="Temporal's address")
    parser.add_argument("plan_id")
    parser.add_argument("path")
    parser.add_argument("knit_id")
    given = parser.parse_args()
    print(asyncio.run(main(given.temporal, Order(given.plan_id, given.path, given.knit_id))))
