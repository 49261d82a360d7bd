"""`knit.TryPlan`: the API asks workers what the back-end would refuse of a Plan."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from knit_workflows.client import KnitClient
from knit_workflows.compute.base import RunPod, Trial
from knit_workflows.domain.errors import BackendUnavailable, EngineUnavailable
from knit_workflows.domain.plans.model import PlanQuery
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.testing import MemoryBackend, knit_environment

PLAN = {
    "image": "demo:1",
    "inputs": [{"path": "/in", "tags": ["type:theirs"]}],
    "outputs": [{"path": "/out", "tags": ["type:ours"]}],
    "log": {"tags": []},
    "service_account": "me",
}


class Strict(MemoryBackend):
    """Refuses accounts, and is away for one of them."""

    async def try_launch(self, pod: RunPod) -> Trial:
        if pod.service_account == "away":
            raise BackendUnavailable("the cluster is away")
        assert pod.log is not None
        assert [mount.path for mount in (*pod.inputs, *pod.outputs)] == ["/in", "/out"]
        return Trial((f"no account {pod.service_account}",), ("old",), ("the image",))


async def test_a_plan_is_tried_by_the_back_end(postgres: EmbeddedPostgres) -> None:
    """Refusals are the result; that the back-end is away is an error, and told at once."""
    async with knit_environment(backend=Strict(), postgres=postgres) as knit:
        result = await knit.knit.try_plan(PLAN)
        assert result.refusals == ["no account me"]
        assert (result.warnings, result.unchecked) == (["old"], ["the image"])
        with pytest.raises(BackendUnavailable, match="the cluster is away"):
            await knit.knit.try_plan(PLAN | {"service_account": "away"})
        assert [one for one in await knit.store.plans.find(PlanQuery()) if one.summary.image] == []


async def test_without_a_worker_the_question_ends(postgres: EmbeddedPostgres) -> None:
    async with knit_environment(postgres=postgres, work=False) as knit:
        impatient = KnitClient(knit.temporal, lease=timedelta(seconds=1), queues=knit.deps.queues)
        with pytest.raises(EngineUnavailable, match="no worker"):
            await asyncio.wait_for(impatient.try_plan(PLAN), 60)
