"""Calls of hooks that are given up early: what was begun has an outcome, and is told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest
from temporalio.worker import Worker

from knit_workflows import worker as worker_process
from knit_workflows.activities.hooks import calls
from knit_workflows.activities.hooks.transitions import TOLD_AT_ONCE
from knit_workflows.domain.hooks import DeliveryQuery, DeliveryState, HookDelivery, Hooks
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.plugin import ALL_ROLES, Role
from knit_workflows.testing import KnitEnvironment, knit_environment
from knit_workflows.worker import workers
from tests.receiver import Receiver, receiver
from tests.waiting import PATIENCE, until
from tests.workflows.test_hooks import SETTINGS, WHOLE, closed, one_run
from tests.workflows.test_hooks_waiting import Hanging

pytestmark = pytest.mark.patient

ENDED = "the worker ended before the answer came"


@pytest.fixture(autouse=True)
def last_words_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slowly the database takes them."""
    monkeypatch.setattr(calls, "LAST_WORDS", timedelta(seconds=PATIENCE))


@pytest.fixture
def hooks() -> Iterator[Receiver]:
    with receiver() as serving:
        yield serving


@asynccontextmanager
async def all_but_hooks(
    postgres: EmbeddedPostgres, hooks: Receiver, *after: str
) -> AsyncIterator[KnitEnvironment]:
    """A knit with one Before hook, whose hooks nobody calls yet."""
    async with (
        knit_environment(postgres=postgres, hooks=SETTINGS, work=False) as knit,
        AsyncExitStack() as stack,
    ):
        for worker in workers(knit.temporal, knit.deps, ALL_ROLES - {Role.HOOKS}):
            await stack.enter_async_context(worker)
        wanted = Hooks((hooks.url("/before"),), tuple(map(hooks.url, after)))
        await knit.store.hooks.configure(wanted)
        yield knit


def hooks_worker(knit: KnitEnvironment) -> Worker:
    """One that calls them while inside, and is left as it is after SIGTERM."""
    [worker] = workers(knit.temporal, knit.deps, frozenset({Role.HOOKS}))
    return worker


def hangs(hooks: Receiver, path: str) -> Hanging:
    """Does not answer the calls of the first transition to hooks whose path begins so."""
    hanging = Hanging(hooks)
    hanging.wanted = lambda call: call.path.startswith(path) and call.transition == WHOLE[0]
    return hanging


async def failed(knit: KnitEnvironment) -> list[HookDelivery]:
    return list(await knit.store.hooks.find(DeliveryQuery(failed=True)))


async def test_a_call_after_a_transition_has_an_outcome(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    """It is not made again; those that had not been begun are made by the next worker."""
    paths = tuple(f"/after/{number}" for number in range(TOLD_AT_ONCE + 10))
    hanging = hangs(hooks, "/after")
    async with all_but_hooks(postgres, hooks, *paths) as knit:
        async with hooks_worker(knit):
            run = await one_run(knit)
            await until(lambda: len(hanging.calls) == TOLD_AT_ONCE)
        begun = [one for one in await failed(knit) if one.phase == "after"]
        assert len(begun) == TOLD_AT_ONCE
        assert {(one.state, one.answer, one.attempts) for one in begun} == {
            (DeliveryState.FAILED, ENDED, 1)
        }
        assert all(one.duration and one.duration > timedelta(seconds=1) for one in begun)
        hanging.let_go()
        async with hooks_worker(knit):
            await closed(knit, run)
        assert all(hooks.transitions(path) == WHOLE for path in paths)
        assert {one.delivery_id for one in await failed(knit)} == {o.delivery_id for o in begun}


async def test_a_call_that_is_answered_while_the_worker_ends_has_succeeded(
    postgres: EmbeddedPostgres, hooks: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "HOOKS_SHUTDOWN", timedelta(seconds=PATIENCE))
    hanging = hangs(hooks, "/after")
    async with all_but_hooks(postgres, hooks, "/after") as knit:
        async with hooks_worker(knit):
            run = await one_run(knit)
            await until(lambda: hanging.calls)
            asyncio.get_running_loop().call_later(1, hanging.let_go)
        told = [one for one in await knit.store.hooks.find(DeliveryQuery()) if one.phase == "after"]
        assert {(one.state, one.status_code) for one in told} == {(DeliveryState.SUCCEEDED, 200)}
        async with hooks_worker(knit):
            await closed(knit, run)
        assert hooks.transitions("/after") == WHOLE


async def test_a_call_before_a_transition_has_an_outcome_and_is_made_again(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    hanging = hangs(hooks, "/before")
    async with all_but_hooks(postgres, hooks) as knit:
        async with hooks_worker(knit):
            run = await one_run(knit)
            await until(lambda: hanging.calls)
        [one] = await failed(knit)
        assert (one.state, one.answer, one.attempts) == (DeliveryState.FAILED, ENDED, 1)
        hanging.let_go()
        async with hooks_worker(knit):
            await closed(knit, run)
        assert hooks.transitions("/before") == [WHOLE[0], *WHOLE]
        assert await failed(knit) == []


async def test_a_call_that_a_stop_overtakes_has_an_outcome(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    hanging = hangs(hooks, "/before")
    async with all_but_hooks(postgres, hooks) as knit, hooks_worker(knit):
        run = await one_run(knit)
        await until(lambda: hanging.calls)
        await knit.store.runs.stop(run.summary.run_id, fail=True)
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.FAILED
        async with asyncio.timeout(PATIENCE):
            while not (found := [o for o in await failed(knit) if o.answer]):
                await asyncio.sleep(0.05)
        assert [one.answer for one in found] == ["the Run went on before the answer came"]
        hanging.let_go()
