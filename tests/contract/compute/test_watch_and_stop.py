"""The compute contract: watching run pods and stopping them. One test per rule."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import suppress
from datetime import timedelta

import pytest

from knit_workflows.compute.base import Observation, Phase
from tests.contract.compute.abilities import Ability
from tests.contract.compute.pods import NO_GRACE, OUTPUT, Pods

DEAF_COUNTER = (
    "trap '' TERM INT",
    "count=0",
    f"while true; do count=$((count + 1)); echo $count > {OUTPUT}/count; done",
)


# --- watch -------------------------------------------------------------------------------------


async def test_a_watch_yields_the_present_first(pods: Pods) -> None:
    """Also when nothing changes any more."""
    pod = await pods.make("exit 3")
    end = await pods.ran(pod)
    watch = pods.backend.watch(pod.name)
    assert await anext(watch) == end
    await watch.aclose()  # type: ignore[attr-defined]


async def test_a_watch_begun_before_the_launch_sees_the_pod(pods: Pods) -> None:
    """ABSENT is a present state like any other."""
    pod = await pods.make("sleep 0.2")
    seen: list[Phase] = []
    absent = asyncio.Event()

    def note(observation: Observation) -> bool:
        seen.append(observation.phase)
        absent.set()
        return observation.phase is Phase.SUCCEEDED

    watching = asyncio.create_task(pods.until(pod.name, note))
    await absent.wait()
    await pods.backend.launch(pod)
    await watching
    assert seen[0] is Phase.ABSENT
    assert seen[-1] is Phase.SUCCEEDED


async def test_a_watch_follows_a_pod_to_its_end_and_away(pods: Pods) -> None:
    """Forwards only, without saying the same twice."""
    pod = await pods.launched("sleep 0.3")
    seen: list[Observation] = []
    ended = asyncio.Event()

    def note(observation: Observation) -> bool:
        seen.append(observation)
        if observation.phase is Phase.SUCCEEDED:
            ended.set()
        return observation.phase is Phase.ABSENT

    watching = asyncio.create_task(pods.until(pod.name, note))
    await ended.wait()
    await pods.backend.release(pod.name)
    await watching
    assert all(one != next for one, next in itertools.pairwise(seen))
    order = [Phase.PENDING, Phase.RUNNING, Phase.SUCCEEDED, Phase.ABSENT]
    ranks = [order.index(one.phase) for one in seen]
    assert ranks == sorted(ranks)


async def test_all_watchers_of_a_pod_see_its_end(pods: Pods) -> None:
    """Each on its own."""
    pod = await pods.launched("sleep 0.3", "exit 3")
    ends = await asyncio.gather(*(pods.ended(pod.name) for _ in range(5)))
    assert {end.phase for end in ends} == {Phase.FAILED}
    assert len(set(ends)) == 1


async def test_a_cancelled_watch_harms_nobody(pods: Pods) -> None:
    """Neither the pod nor the other watchers, nor those that come later."""
    pod = await pods.launched("sleep 0.5")
    cancelled = asyncio.create_task(pods.gone(pod.name))
    other = asyncio.create_task(pods.ended(pod.name))
    await asyncio.sleep(0.1)
    cancelled.cancel()
    with suppress(asyncio.CancelledError):
        await cancelled
    assert (await other).phase is Phase.SUCCEEDED
    assert (await pods.ended(pod.name)).phase is Phase.SUCCEEDED


# --- stop --------------------------------------------------------------------------------------


async def test_a_stopped_pod_that_is_absent_writes_no_more(pods: Pods) -> None:
    """Also one that ignores SIGTERM; what it has written stays."""
    pod = await pods.launched(*DEAF_COUNTER)
    await pods.until_output(pod, "count")
    await pods.backend.stop(pod.name, grace=NO_GRACE)
    await pods.gone(pod.name)
    count = await pods.output(pod, "count")
    await asyncio.sleep(0.3)
    assert await pods.output(pod, "count") == count
    assert pod.name not in await pods.backend.run_pods()


async def test_children_in_the_background_are_stopped_too(pods: Pods) -> None:
    """All that the container started."""
    pod = await pods.launched(
        f"(while true; do echo more >> {OUTPUT}/count; sleep 0.01; done) &", "sleep 60"
    )
    await pods.until_output(pod, "count")
    await pods.backend.stop(pod.name, grace=NO_GRACE)
    await pods.gone(pod.name)
    count = await pods.output(pod, "count")
    await asyncio.sleep(0.3)
    assert await pods.output(pod, "count") == count


async def test_what_a_command_leaves_in_the_background_ends_with_it(pods: Pods) -> None:
    """Once the end is seen, nothing writes any more."""
    pod = await pods.make(
        f"(while true; do echo more >> {OUTPUT}/count; done) >/dev/null 2>&1 &",
        f"until [ -s {OUTPUT}/count ]; do sleep 0.01; done",
    )
    assert (await pods.ran(pod)).phase is Phase.SUCCEEDED
    count = await pods.output(pod, "count")
    await asyncio.sleep(0.3)
    assert await pods.output(pod, "count") == count


@pytest.mark.needs(Ability.GRACE)
async def test_stop_returns_at_once_and_grace_ends(pods: Pods) -> None:
    """The caller does not wait for the grace, the pod is not spared after it."""
    pod = await pods.launched(*DEAF_COUNTER)
    await pods.until_output(pod, "count")
    await pods.running(pod.name)
    begun, grace = time.monotonic(), timedelta(seconds=3)
    await pods.backend.stop(pod.name, grace=grace)
    seen = await pods.backend.observe(pod.name)
    # A machine that stood still in between has let the grace pass.
    assert seen.phase is Phase.RUNNING or time.monotonic() - begun >= grace.total_seconds()
    await pods.gone(pod.name)


@pytest.mark.needs(Ability.GRACE)
async def test_a_stopped_container_may_tidy_up(pods: Pods) -> None:
    """It gets SIGTERM, and as long as its grace."""
    pod = await pods.launched(
        f"trap 'echo tidy > {OUTPUT}/tidy; exit 0' TERM",
        f"echo ready > {OUTPUT}/ready",
        "while true; do sleep 0.05; done",
    )
    await pods.until_output(pod, "ready")
    await pods.backend.stop(pod.name, grace=timedelta(seconds=30))
    await pods.gone(pod.name)
    assert await pods.output(pod, "tidy") == "tidy\n"


async def test_stop_may_be_repeated(pods: Pods) -> None:
    """While it is under way, and afterwards."""
    pod = await pods.launched(*DEAF_COUNTER)
    await pods.until_output(pod, "count")
    for _ in range(3):
        await pods.backend.stop(pod.name, grace=NO_GRACE)
    await pods.gone(pod.name)
    await pods.backend.stop(pod.name, grace=NO_GRACE)


async def test_what_was_never_launched_can_be_stopped(pods: Pods) -> None:
    """Gone already: fine."""
    await pods.backend.stop((await pods.make("true")).name, grace=NO_GRACE)


async def test_stopping_an_ended_pod_removes_it(pods: Pods) -> None:
    """Its volumes stay."""
    pod = await pods.make(f"echo said > {OUTPUT}/words")
    await pods.ran(pod)
    await pods.backend.stop(pod.name, grace=timedelta(seconds=30))
    await pods.gone(pod.name)
    assert await pods.output(pod, "words") == "said\n"


@pytest.mark.parametrize("pause", [0.0, 0.005, 0.01, 0.02, 0.05])
async def test_a_pod_stopped_while_it_starts_goes_away(pods: Pods, pause: float) -> None:
    """At whichever moment."""
    pod = await pods.make(*DEAF_COUNTER)
    await pods.backend.launch(pod)
    await asyncio.sleep(pause)
    await pods.backend.stop(pod.name, grace=NO_GRACE)
    await pods.gone(pod.name)
    count = await pods.output(pod, "count")
    await asyncio.sleep(0.2)
    assert await pods.output(pod, "count") == count
