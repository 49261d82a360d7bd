"""Bare Temporal, for comparison: workflows with no-op activities on the same server."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

QUEUE = "bare"


@activity.defn
async def nothing() -> None:
    """Does nothing."""


@workflow.defn
class Bare:
    """Some no-op activities, one after the other."""

    @workflow.run
    async def run(self, count: int) -> None:
        """Runs them."""
        for _ in range(count):
            await workflow.execute_activity(nothing, start_to_close_timeout=timedelta(seconds=60))


async def one_after_the_other(client: Client, count: int) -> float:
    """Gives the seconds that one workflow with so many activities takes."""
    async with _worker(client):
        begun = time.perf_counter()
        await client.execute_workflow(Bare.run, count, id="bare-chain", task_queue=QUEUE)
        return time.perf_counter() - begun


async def side_by_side(client: Client, count: int, at_once: int = 16) -> float:
    """Gives the seconds that so many workflows with one activity each take."""
    gate = asyncio.Semaphore(at_once)

    async def start(number: int) -> None:
        async with gate:
            handle = await client.start_workflow(Bare.run, 1, id=f"bare-{number}", task_queue=QUEUE)
        await handle.result()

    async with _worker(client):
        begun = time.perf_counter()
        await asyncio.gather(*(start(number) for number in range(count)))
        return time.perf_counter() - begun


def _worker(client: Client) -> Worker:
    return Worker(client, task_queue=QUEUE, workflows=[Bare], activities=[nothing])
