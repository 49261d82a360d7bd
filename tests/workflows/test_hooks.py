"""`knit.Run` with lifecycle hooks: who is asked and told of what, and who waits for whom."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType

from knit_workflows import names
from knit_workflows.activities.hooks.transitions import TOLD_AT_ONCE
from knit_workflows.compute.base import Launch, RunPod
from knit_workflows.domain.data import TagChange
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable
from knit_workflows.domain.hooks import DeliveryQuery, DeliveryState, HookPhase, Hooks
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import SUCCEEDED, Exit, RunDetail, RunQuery, RunStatus, WaitKind
from knit_workflows.domain.tags import Tag
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.settings import EngineSettings, HookSettings
from knit_workflows.testing import QUICK, KnitEnvironment, MemoryBackend, knit_environment
from tests.receiver import AGREED, Answer, Call, Receiver, receiver, with_environment
from tests.waiting import PATIENCE, until
from tests.workflows.test_run import TRAIN, only_run, until_status

SETTINGS = HookSettings(allow_loopback=True, timeout=timedelta(seconds=PATIENCE))
WHOLE = [
    ("waiting", "ready"),
    ("ready", "starting"),
    ("starting", "running"),
    ("running", "completing"),
    ("completing", "done"),
]
UNAVAILABLE: Answer = (503, {"Content-Type": "text/plain"}, b"not now")


@pytest.fixture
def hooks() -> Iterator[Receiver]:
    with receiver() as serving:
        yield serving


@asynccontextmanager
async def hooked(
    postgres: EmbeddedPostgres,
    hooks: Receiver,
    *,
    backend: MemoryBackend | None = None,
    before: tuple[str, ...] = ("/before",),
    after: tuple[str, ...] = ("/after",),
    engine: EngineSettings = QUICK,
) -> AsyncIterator[KnitEnvironment]:
    async with knit_environment(
        postgres=postgres, backend=backend, engine=engine, hooks=SETTINGS
    ) as knit:
        await knit.store.hooks.configure(
            Hooks(tuple(map(hooks.url, before)), tuple(map(hooks.url, after)))
        )
        yield knit


async def one_run(knit: KnitEnvironment) -> RunDetail:
    plan = await knit.apply(TRAIN)
    await knit.push({"type": "dataset"})
    return await only_run(knit, plan.summary.plan_id)


async def closed(knit: KnitEnvironment, run: RunDetail) -> Any:
    """Waits for the end of the Run's workflow, and so of its After hooks; gives its history."""
    await knit.final(run.summary.run_id)
    handle = knit.temporal.get_workflow_handle(names.run_workflow(run.summary.run_id, 1))
    async with asyncio.timeout(PATIENCE):
        await handle.result()
    return await handle.fetch_history()


def refuses(target: str, answer: Answer = UNAVAILABLE) -> Callable[[Call], Answer]:
    """Answers so for one target, and agrees with all others."""
    return lambda call: answer if call.body["transition"]["to"] == target else AGREED


async def waits_for_hook(knit: KnitEnvironment, run: RunDetail, words: str = "") -> RunDetail:
    """Waits until the Run says that it waits for a hook, and why in these words among others."""
    async with asyncio.timeout(PATIENCE):
        while True:
            shown = await knit.store.runs.get(run.summary.run_id)
            waiting = shown.waiting
            if waiting is not None and waiting.kind is WaitKind.HOOK and words in waiting.reason:
                return shown
            await asyncio.sleep(0.02)


async def test_every_transition_is_asked_for_and_told(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    async with hooked(postgres, hooks, before=("/a", "/b"), after=("/c", "/d")) as knit:
        run = await one_run(knit)
        history = await closed(knit, run)
        for path in ("/a", "/b", "/c", "/d"):
            assert hooks.transitions(path) == WHOLE
        final = await knit.store.runs.get(run.summary.run_id)
        assert final.summary.status is RunStatus.DONE
        assert len(history.events) <= 200
        for before in (call for call in hooks.calls if call.path in ("/a", "/b")):
            assert before.body["status"] == before.transition[0]
        for after in (call for call in hooks.calls if call.path in ("/c", "/d")):
            assert after.body["status"] == after.transition[1]
            assert ("exit" in after.body) == (after.transition[1] in ("completing", "done"))
        events = [e for e in await knit.store.runs.events(run.summary.run_id) if e.from_status]
        assert [(e.from_status, e.to_status) for e in events] == WHOLE
        shown = [call.body["updatedAt"] for call in hooks.calls if call.path == "/c"]
        # Compared as instants: zeros at the end of a fraction are left out.
        assert [datetime.fromisoformat(one) for one in shown] == [e.at for e in events]
        deliveries = await knit.store.hooks.find(DeliveryQuery(run_id=run.summary.run_id))
        assert {one.state for one in deliveries} == {DeliveryState.SUCCEEDED}
        sent = Counter(call.headers["webhook-id"] for call in hooks.calls)
        assert sent == {one.delivery_id: one.attempts for one in deliveries}


async def test_a_chain_asks_in_order_and_again_from_its_start(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    refusals = iter([UNAVAILABLE, UNAVAILABLE])

    def answer(call: Call) -> Answer:
        wanted = (call.path, call.body["transition"]["to"]) == ("/b", "ready")
        return next(refusals, AGREED) if wanted else AGREED

    hooks.answer = answer
    async with hooked(postgres, hooks, before=("/a", "/b", "/c"), after=()) as knit:
        run = await one_run(knit)
        history = await closed(knit, run)
        asked = [c.path for c in hooks.calls if c.transition == ("waiting", "ready")]
        assert asked == ["/a", "/b", "/a", "/b", "/a", "/b", "/c"]
        attempts = [c.body["transition"]["attempt"] for c in hooks.calls if c.path == "/a"]
        assert attempts[:3] == [1, 2, 3]
        summaries = [
            (await knit.temporal.data_converter.decode([event.user_metadata.summary]))[0]
            for event in history.events
            if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
        ]
        answered = f"{hooks.url('/b')} answered 503 Service Unavailable: not now"
        told = f"before → ready: 3 hooks, try 3, {answered}"
        assert told in summaries
        assert any(
            event.event_type == EventType.EVENT_TYPE_TIMER_STARTED for event in history.events
        )


async def test_what_before_hooks_answer_reaches_the_container(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    """The later URL wins; only before → starting; nothing of it is kept afterwards."""
    pods: list[RunPod] = []

    def answer(call: Call) -> Answer:
        if call.body["transition"]["to"] != "starting":
            return with_environment(WRONG="transition")
        return with_environment(**{"FROM": call.path, call.path[1:].upper(): "yes"})

    def behave(pod: RunPod) -> Exit:
        pods.append(pod)
        return SUCCEEDED

    hooks.answer = answer
    async with hooked(
        postgres, hooks, backend=MemoryBackend(behave), before=("/a", "/b"), after=()
    ) as knit:
        run = await one_run(knit)
        await closed(knit, run)
        key = RunKey(run.summary.run_id, run.generation)
        assert [dict(pod.env) for pod in pods] == [{"FROM": "/b", "A": "yes", "B": "yes"}]
        assert (await knit.store.execution.spec(key)).environment == {}


BIG = {f"BIG_{number}": "x" * 100_000 for number in range(3)}


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (
            {"/a": with_environment(**{"1ST": "x"})},
            "knitfabExtension.env has '1ST', which is no name of an environment variable",
        ),
        (
            {
                "/a": with_environment(**BIG),
                "/b": with_environment(**{k + "B": v for k, v in BIG.items()}),
            },
            "knitfabExtension.env of it and the hooks before has 600,039 bytes, more than 524,288",
        ),
        (
            {"/b": with_environment(**{f"V{number}": "" for number in range(1001)})},
            "has 1,001 variables, more than 1,000",
        ),
        (
            {"/a": (302, {"Location": "http://127.0.0.1:9/secret"}, b"")},
            "answered 302 Found to http://127.0.0.1:9/secret: redirects are never followed",
        ),
        (
            {"/a": (200, {"Content-Type": "application/json"}, b"<!doctype html><p>log in</p>")},
            "its answer says that it is application/json, but is not JSON",
        ),
    ],
    ids=["name", "bytes", "number", "redirect", "html"],
)
async def test_an_answer_that_cannot_be_used_is_said_and_asked_for_again_ever_more_seldom(
    postgres: EmbeddedPostgres, hooks: Receiver, answers: dict[str, Answer], words: str
) -> None:
    """The container is not created with half of it; a right answer later is taken."""
    pods: list[RunPod] = []
    said, fine = threading.Event(), threading.Event()

    def behave(pod: RunPod) -> Exit:
        pods.append(pod)
        return SUCCEEDED

    def answer(call: Call) -> Answer:
        if call.body["transition"]["to"] != "starting":
            return AGREED
        tries = hooks.transitions("/a").count(("ready", "starting"))
        # Of one try, which begins with /a, all answers are usable, or as they were.
        if call.path == "/a" and tries > 3 and said.is_set():
            fine.set()
        return with_environment(FINE="yes") if fine.is_set() else answers.get(call.path, AGREED)

    hooks.answer = answer
    async with hooked(
        postgres, hooks, backend=MemoryBackend(behave), before=("/a", "/b"), after=()
    ) as knit:
        run = await one_run(knit)
        await waits_for_hook(knit, run, words)
        said.set()
        history = await closed(knit, run)
        assert [dict(pod.env) for pod in pods] == [{"FINE": "yes"}]
        pauses = [
            event.timer_started_event_attributes.start_to_fire_timeout.ToTimedelta()
            for event in history.events
            if event.event_type == EventType.EVENT_TYPE_TIMER_STARTED
        ]
        for number, pause in enumerate(pauses):
            assert 0.5 * 2**number <= pause.total_seconds() <= 2**number
        asked = hooks.transitions("/a").count(("ready", "starting"))
        assert asked == len(pauses) + 1
        assert max(call.body["transition"]["attempt"] for call in hooks.calls) == asked


async def test_a_page_for_people_agrees(postgres: EmbeddedPostgres, hooks: Receiver) -> None:
    """2xx without JSON: the body is not looked at."""
    hooks.answer = lambda _: (200, {"Content-Type": "text/html"}, b"<p>welcome</p>")
    async with hooked(postgres, hooks) as knit:
        run = await one_run(knit)
        await closed(knit, run)
        assert hooks.transitions("/before") == WHOLE


async def test_a_run_says_which_hook_it_waits_for(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    hooks.answer = refuses("running")
    backend = MemoryBackend()
    backend.hold()
    async with hooked(postgres, hooks, backend=backend) as knit:
        run = await one_run(knit)
        shown = await waits_for_hook(knit, run, "not now")
        assert shown.summary.status is RunStatus.STARTING
        assert shown.waiting is not None
        assert shown.waiting.reason == (
            f"the hook {hooks.url('/before')} has not agreed to → running: "
            "answered 503 Service Unavailable: not now"
        )
        assert shown.waiting.since is not None
        hooks.answer = lambda _: AGREED
        backend.finish(_pod(run))
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.DONE


@pytest.mark.parametrize("hangs", [False, True], ids=["fails", "hangs"])
@pytest.mark.parametrize("target", ["ready", "starting", "running"])
async def test_a_stop_does_not_wait_for_a_hook(
    postgres: EmbeddedPostgres, hooks: Receiver, target: str, hangs: bool
) -> None:
    released = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(call: Call) -> Answer:
        if call.body["transition"]["to"] == target:
            asyncio.run_coroutine_threadsafe(released.wait(), loop).result()
        return AGREED

    hooks.answer = hang if hangs else refuses(target)
    backend = MemoryBackend()
    backend.hold()
    async with hooked(postgres, hooks, backend=backend) as knit:
        run = await one_run(knit)
        async with asyncio.timeout(PATIENCE):
            while target not in [told for _, told in hooks.transitions("/before")]:
                await asyncio.sleep(0.02)
        await knit.store.runs.stop(run.summary.run_id, fail=True)
        final = await knit.final(run.summary.run_id)
        assert final.summary.status is RunStatus.FAILED
        released.set()
        await closed(knit, run)
        # A user's stop is not asked for; its end is, and is told.
        assert hooks.transitions("/before")[-1] == ("aborting", "failed")
        assert hooks.transitions("/after")[-1] == ("aborting", "failed")
        assert "aborting" not in [told for _, told in hooks.transitions("/after")]


async def test_a_stopped_run_that_never_began_has_its_end_told(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    backend = MemoryBackend()
    async with hooked(postgres, hooks, backend=backend) as knit:
        plan = await knit.apply(TRAIN)
        await knit.push({"type": "other"})
        backend.storage_full_reason = "no room"
        [data] = await knit.data_with({"type": "other"})
        dataset = TagChange(add=frozenset({Tag("type", "dataset")}))
        await knit.store.data.change_tags(data.knit_id, dataset)
        run = await only_run(knit, plan.summary.plan_id)
        await knit.store.runs.stop(run.summary.run_id, fail=True)
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.FAILED
        await closed(knit, run)
        assert hooks.transitions("/before") == [("aborting", "failed")]
        assert hooks.transitions("/after") == [("aborting", "failed")]


async def test_a_skipped_hook_is_not_waited_for(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    hooks.answer = refuses("starting")
    async with hooked(postgres, hooks) as knit:
        run = await one_run(knit)
        await waits_for_hook(knit, run, "not now")
        failed = await knit.store.hooks.find(DeliveryQuery(failed=True))
        # The After hook of the transition before may just be called.
        [delivery] = [one for one in failed if one.phase is HookPhase.BEFORE]
        await knit.store.hooks.skip(delivery.delivery_id, actor="ada", reason="it is down")
        workflow = names.run_workflow(run.summary.run_id, 1)
        await knit.temporal.get_workflow_handle(workflow).signal("hook_skipped")
        final = await knit.final(run.summary.run_id)
        assert final.summary.status is RunStatus.DONE
        causes = {
            event.cause: event.actor for event in await knit.store.runs.events(run.summary.run_id)
        }
        assert causes[f"hook {hooks.url('/before')} before → starting skipped: it is down"] == "ada"


async def test_hooks_that_come_during_a_run_are_called_from_then_on(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    """The configuration in force at each transition counts; when it goes, nobody is asked."""
    backend = MemoryBackend()
    backend.hold()
    async with hooked(postgres, hooks, backend=backend, before=(), after=()) as knit:
        first = await one_run(knit)
        await until_status(knit, first.summary.run_id, RunStatus.RUNNING)
        await knit.store.hooks.configure(Hooks((hooks.url("/before"),), (hooks.url("/after"),)))
        backend.finish(_pod(first))
        await closed(knit, first)
        assert hooks.transitions("/before") == WHOLE[3:]
        assert hooks.transitions("/after") == WHOLE[3:]
        hooks.calls.clear()
        backend.hold()
        await knit.push({"type": "dataset"})
        async with asyncio.timeout(PATIENCE):
            while len(hooks.transitions("/after")) < 3:
                await asyncio.sleep(0.02)
        await knit.store.hooks.configure(Hooks())
        second = (await knit.store.runs.find(RunQuery(statuses=frozenset({RunStatus.RUNNING}))))[0]
        backend.finish(_pod(second))
        await closed(knit, second)
        assert hooks.transitions("/after") == WHOLE[:3]


@pytest.mark.parametrize("earlier", [(), ("/first",)])
async def test_a_hook_that_comes_while_a_step_is_tried_again_is_asked_for_it(
    postgres: EmbeddedPostgres, hooks: Receiver, earlier: tuple[str, ...]
) -> None:
    """Nothing slips through in between, though others have agreed to the step, or only listen."""

    class Away(MemoryBackend):
        is_away = True
        tries = 0

        async def launch(self, pod: RunPod) -> Launch:
            self.tries += 1
            if self.is_away:
                raise BackendUnavailable("it is away")
            return await super().launch(pod)

    backend = Away()
    before = tuple(map(hooks.url, earlier))
    async with hooked(postgres, hooks, backend=backend, before=earlier) as knit:
        run = await one_run(knit)
        await until(lambda: backend.tries)
        both = Hooks((*before, hooks.url("/before")), (hooks.url("/after"),))
        await knit.store.hooks.configure(both)
        assert not hooks.transitions("/before")
        backend.is_away = False
        await closed(knit, run)
        assert hooks.transitions("/before") == WHOLE[1:]
        assert (await knit.final(run.summary.run_id)).summary.status is RunStatus.DONE


async def test_a_run_that_the_back_end_refuses_has_its_end_asked_for(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    class Refusing(MemoryBackend):
        async def launch(self, pod: RunPod) -> Launch:
            raise BackendRejected("no such node")

    async with hooked(postgres, hooks, backend=Refusing()) as knit:
        run = await one_run(knit)
        await closed(knit, run)
        wanted = [
            ("waiting", "ready"),
            ("ready", "starting"),
            ("ready", "aborting"),
            ("aborting", "failed"),
        ]
        assert hooks.transitions("/before") == wanted
        assert hooks.transitions("/after") == [wanted[0], *wanted[2:]]


async def test_a_failing_after_hook_delays_nothing(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    hooks.answer = lambda call: UNAVAILABLE if call.path == "/c" else AGREED
    async with hooked(postgres, hooks, before=(), after=("/c", "/d")) as knit:
        run = await one_run(knit)
        await closed(knit, run)
        assert hooks.transitions("/c") == WHOLE
        assert hooks.transitions("/d") == WHOLE
        failed = await knit.store.hooks.find(DeliveryQuery(failed=True))
        assert {(one.url, one.attempts, one.status_code) for one in failed} == {
            (hooks.url("/c"), 1, 503)
        }


async def test_more_hooks_than_files_a_process_may_open_are_all_told(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    """They are told in turns, each while it waits for its answer."""
    waiting, most = 0, 0
    counting = threading.Lock()

    def answer(_: Call) -> Answer:
        nonlocal waiting, most
        with counting:
            waiting += 1
            most = max(most, waiting)
        time.sleep(0.02)
        with counting:
            waiting -= 1
        return AGREED

    hooks.answer = answer
    paths = tuple(f"/{number}" for number in range(2 * TOLD_AT_ONCE))
    async with hooked(postgres, hooks, before=(), after=paths) as knit:
        run = await one_run(knit)
        await closed(knit, run)
        assert all(hooks.transitions(path) == WHOLE for path in paths)
        assert most <= TOLD_AT_ONCE
        assert await knit.store.hooks.find(DeliveryQuery(failed=True)) == []


async def test_a_cancellation_in_temporal_ends_like_a_stop(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    hooks.answer = refuses("starting")
    async with hooked(postgres, hooks) as knit:
        run = await one_run(knit)
        await waits_for_hook(knit, run)
        workflow = names.run_workflow(run.summary.run_id, 1)
        await knit.temporal.get_workflow_handle(workflow).cancel()
        final = await knit.final(run.summary.run_id)
        assert final.summary.status is RunStatus.FAILED
        assert hooks.transitions("/before")[-1] == ("aborting", "failed")


async def test_a_failed_container_is_told_with_its_exit(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    backend = MemoryBackend(lambda _: Exit(3, "(container main) Error"))
    async with hooked(postgres, hooks, backend=backend) as knit:
        run = await one_run(knit)
        await closed(knit, run)
        exits = [call.body.get("exit") for call in hooks.calls if call.path == "/after"][-2:]
        assert exits == [{"code": 3, "message": "(container main) Error"}] * 2
        assert hooks.transitions("/after")[-1] == ("aborting", "failed")


def _pod(run: RunDetail) -> str:
    return names.run_pod(run.summary.run_id, run.generation)
