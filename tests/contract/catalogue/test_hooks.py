"""The hooks in force, and the record of their deliveries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from knit_workflows.domain.errors import (
    DeliveryNotFound,
    IllegalMove,
    InvalidRequest,
    RunNotFound,
    Superseded,
)
from knit_workflows.domain.hooks import (
    DeliveryQuery,
    DeliveryState,
    HookAnswer,
    HookPhase,
    Hooks,
    HooksSource,
    Transition,
)
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.ports import RunKey
from knit_workflows.domain.runs.run import KNIT, USER, RunStatus
from tests.contract.catalogue.conftest import AnyStore
from tests.contract.catalogue.test_lifecycle import pushed, waiting
from tests.memory_store import MemoryStore
from tests.store.build import drain, register, spec

S = RunStatus
URL, OTHER = "http://hooks.example/a", "http://hooks.example/b"
FAILED = HookAnswer(False, "not today", timedelta(milliseconds=40), 503)
ONE = HooksSource("1@one", "/etc/hooks.yaml", "ab" * 32)
TWO = HooksSource("2@two", "/srv/hooks.yaml", "cd" * 32)
AGREED = HookAnswer(True, "", timedelta(milliseconds=7), 200)


async def transition(store: AnyStore) -> Transition:
    """The first transition of a Run that has been admitted."""
    await register(store, spec({"/in": "type:a"}, {"/out": "type:b"}))
    await pushed(store, "type:a")
    await drain(store)
    key = await waiting(store)
    return Transition(key.run_id, key.generation, S.WAITING, S.READY)


async def test_no_hooks_are_in_force_at_first(store: AnyStore) -> None:
    assert await store.hooks.hooks() == Hooks()


async def test_configured_hooks_keep_their_order(store: AnyStore) -> None:
    wanted = Hooks(before=(OTHER, URL), after=(URL,))
    assert await store.hooks.configure(wanted)
    assert not await store.hooks.configure(wanted)
    assert await store.hooks.hooks() == wanted
    assert await store.hooks.configure(Hooks(before=(URL, OTHER), after=(URL,)))
    assert await store.hooks.configure(Hooks())
    assert await store.hooks.hooks() == Hooks()


async def test_why_the_hooks_file_was_refused_is_known_until_it_is_not(store: AnyStore) -> None:
    async def problem() -> str:
        return (await store.hooks.in_force()).problem

    assert await problem() == ""
    await store.hooks.configure(Hooks(before=(URL,)), ONE)
    refused = replace(ONE, digest="")
    await store.hooks.follow(refused, "hooks.yaml, line 3: no\0URL")
    assert (await problem()).startswith("hooks.yaml, line 3: no")
    assert await store.hooks.hooks() == Hooks(before=(URL,))
    await store.hooks.follow(refused, "hooks.yaml is gone")
    # The good file of another worker changes nothing about that.
    await store.hooks.follow(TWO)
    assert await problem() == "1@one: hooks.yaml is gone"
    await store.hooks.follow(ONE)
    await store.hooks.leave(TWO.worker)
    assert await problem() == ""


async def test_who_has_put_the_hooks_in_force_and_when(store: AnyStore) -> None:
    at_first = await store.hooks.in_force()
    assert (at_first.hooks, at_first.source, at_first.followers) == (Hooks(), None, ())
    assert await store.hooks.configure(Hooks(before=(URL,)), ONE)
    first = await store.hooks.in_force()
    assert (first.hooks, first.source) == (Hooks(before=(URL,)), ONE)
    assert first.changed_at > at_first.changed_at
    # Another worker with the same file changes nothing; a comment in the file is no other hook.
    assert not await store.hooks.configure(Hooks(before=(URL,)), replace(ONE, worker="3@three"))
    assert await store.hooks.in_force() == first
    assert not await store.hooks.configure(Hooks(before=(URL,)), TWO)
    assert await store.hooks.in_force() == replace(first, source=TWO)
    assert await store.hooks.configure(Hooks(before=(OTHER,)), ONE)
    last = await store.hooks.in_force()
    assert (last.hooks, last.source) == (Hooks(before=(OTHER,)), ONE)
    assert last.changed_at > first.changed_at


async def test_workers_that_follow_different_files_are_named(store: AnyStore) -> None:
    for source in (TWO, ONE, ONE):
        await store.hooks.configure(Hooks(before=(f"http://{source.worker}.example/",)), source)
        await store.hooks.follow(source)
    found = await store.hooks.in_force()
    assert [one.source for one in found.followers] == [ONE, TWO]
    assert all(one.since <= one.seen_at for one in found.followers)
    assert found.problem == (
        "workers follow different hooks files, 1@one (/etc/hooks.yaml, abababababab), 2@two "
        "(/srv/hooks.yaml, cdcdcdcdcdcd); what changed last is in force: that of 1@one; give all "
        "of them the same file"
    )
    [since] = {one.since for one in found.followers if one.source == ONE}
    await store.hooks.follow(ONE)
    again = (await store.hooks.in_force()).followers[0]
    assert (again.since, again.seen_at > since) == (since, True)
    await store.hooks.follow(replace(TWO, digest=ONE.digest))
    assert (await store.hooks.in_force()).problem == ""
    await store.hooks.leave(TWO.worker)
    await store.hooks.leave(TWO.worker)
    assert [one.source for one in (await store.hooks.in_force()).followers] == [ONE]


async def test_a_before_hook_is_called_until_it_agrees(store: AnyStore) -> None:
    step = await transition(store)
    assert await store.hooks.begin(step, HookPhase.BEFORE, URL) == 1
    await store.hooks.ended(
        step, HookPhase.BEFORE, URL, FAILED, attempt=1, next_in=timedelta(seconds=60)
    )
    (one,) = await store.hooks.find(DeliveryQuery())
    assert one.delivery_id == step.delivery_id(HookPhase.BEFORE, URL)
    assert (one.transition, one.phase, one.url) == (step, HookPhase.BEFORE, URL)
    assert (one.state, one.attempts, one.status_code) == (DeliveryState.FAILED, 1, 503)
    assert (one.answer, one.duration) == ("not today", timedelta(milliseconds=40))
    assert one.next_at is not None
    assert timedelta(seconds=50) < one.next_at - one.called_at < timedelta(seconds=100)
    assert await store.hooks.begin(step, HookPhase.BEFORE, URL) == 2
    (two,) = await store.hooks.find(DeliveryQuery())
    assert (two.state, two.next_at) == (DeliveryState.CALLING, None)
    assert two.created_at == one.created_at <= one.called_at <= two.called_at
    # The worker of the first attempt was frozen, and comes back with another answer.
    await store.hooks.ended(step, HookPhase.BEFORE, URL, FAILED, attempt=1)
    assert list(await store.hooks.find(DeliveryQuery())) == [two]
    await store.hooks.ended(step, HookPhase.BEFORE, URL, AGREED, attempt=2)
    (three,) = await store.hooks.find(DeliveryQuery())
    assert (three.state, three.attempts, three.status_code) == (DeliveryState.SUCCEEDED, 2, 200)


async def test_an_after_hook_is_claimed_once(store: AnyStore) -> None:
    step = await transition(store)
    assert await store.hooks.begin(step, HookPhase.AFTER, URL) == 1
    assert await store.hooks.begin(step, HookPhase.AFTER, URL) is None
    assert await store.hooks.begin(step, HookPhase.AFTER, OTHER) == 1
    # Each transition, each generation and each phase has a delivery of its own.
    assert await store.hooks.begin(step, HookPhase.BEFORE, URL) == 1


async def test_no_hook_is_called_for_a_run_that_has_gone_on(store: AnyStore) -> None:
    step = await transition(store)
    later = Transition(step.run_id, 2, S.WAITING, S.READY)
    with pytest.raises(Superseded):
        await store.hooks.begin(later, HookPhase.BEFORE, URL)
    gone = Transition(RunId(str(uuid4())), 1, S.WAITING, S.READY)
    with pytest.raises(RunNotFound):
        await store.hooks.begin(gone, HookPhase.BEFORE, URL)
    assert await store.hooks.find(DeliveryQuery()) == []


async def test_a_skipped_hook_is_not_called_again(store: AnyStore) -> None:
    step = await transition(store)
    await store.hooks.begin(step, HookPhase.BEFORE, URL)
    await store.hooks.ended(step, HookPhase.BEFORE, URL, FAILED, attempt=1)
    delivery = step.delivery_id(HookPhase.BEFORE, URL)
    skipped = await store.hooks.skip(delivery, actor="ada", reason="it is down")
    assert (skipped.state, skipped.skipped_by) == (DeliveryState.SKIPPED, "ada")
    assert skipped.skip_reason == "it is down"
    assert await store.hooks.skip(delivery, actor="bob", reason="again") == skipped
    assert await store.hooks.begin(step, HookPhase.BEFORE, URL) is None
    await store.hooks.ended(step, HookPhase.BEFORE, URL, AGREED, attempt=1)
    assert await store.hooks.find(DeliveryQuery()) == [skipped]
    event = (await store.runs.events(step.run_id))[-1]
    assert (event.from_status, event.to_status, event.actor) == (S.WAITING, S.WAITING, "ada")
    assert event.cause == f"hook {URL} before → ready skipped: it is down"


async def test_what_cannot_be_skipped(store: AnyStore) -> None:
    step = await transition(store)
    with pytest.raises(DeliveryNotFound):
        await store.hooks.skip(str(uuid4()), actor="ada", reason="")
    with pytest.raises(DeliveryNotFound):
        await store.hooks.skip("no id", actor="ada", reason="")
    await store.hooks.begin(step, HookPhase.AFTER, URL)
    with pytest.raises(IllegalMove):
        await store.hooks.skip(step.delivery_id(HookPhase.AFTER, URL), actor="ada", reason="")
    await store.hooks.begin(step, HookPhase.BEFORE, URL)
    await store.hooks.ended(step, HookPhase.BEFORE, URL, AGREED, attempt=1)
    with pytest.raises(IllegalMove):
        await store.hooks.skip(step.delivery_id(HookPhase.BEFORE, URL), actor="ada", reason="")
    await store.hooks.begin(step, HookPhase.BEFORE, OTHER)
    await store.runs.stop(step.run_id, fail=True)
    with pytest.raises(IllegalMove):
        await store.hooks.skip(step.delivery_id(HookPhase.BEFORE, OTHER), actor="ada", reason="")


async def test_deliveries_by_filter_and_page(store: AnyStore) -> None:
    step = await transition(store)
    urls = [f"http://hooks.example/{number}" for number in range(5)]
    for url in urls:
        await store.hooks.begin(step, HookPhase.AFTER, url)
        answer = AGREED if url == urls[0] else FAILED
        await store.hooks.ended(step, HookPhase.AFTER, url, answer, attempt=1)
    everything = await store.hooks.find(DeliveryQuery())
    assert sorted(one.url for one in everything) == urls
    assert list(everything) == sorted(
        everything, key=lambda one: (one.called_at, one.delivery_id), reverse=True
    )
    failed = await store.hooks.find(DeliveryQuery(failed=True))
    assert sorted(one.url for one in failed) == urls[1:]
    assert list(await store.hooks.find(DeliveryQuery(run_id=step.run_id))) == list(everything)
    assert await store.hooks.find(DeliveryQuery(since=datetime(9999, 1, 1, tzinfo=UTC))) == []
    with pytest.raises(RunNotFound):
        await store.hooks.find(DeliveryQuery(run_id=RunId(str(uuid4()))))
    pages = [await store.hooks.find(DeliveryQuery(), limit=2)]
    while len(pages[-1]) == 2:
        pages.append(await store.hooks.find(DeliveryQuery(), limit=2, after=pages[-1][-1].cursor))
    assert [one for page in pages for one in page] == list(everything)
    with pytest.raises(InvalidRequest):
        await store.hooks.find(DeliveryQuery(), after=everything[0].delivery_id)


async def test_the_deliveries_of_a_removed_run_go_with_it(store: AnyStore) -> None:
    step = await transition(store)
    await store.hooks.begin(step, HookPhase.BEFORE, URL)
    (assigned,) = (await store.runs.get(step.run_id)).inputs
    assert assigned.knit_id is not None
    root = (await store.data.get(assigned.knit_id)).upstream.run.run_id
    await store.runs.delete(step.run_id)
    assert len(await store.hooks.find(DeliveryQuery())) == 1
    await store.runs.delete(root)
    assert await store.hooks.find(DeliveryQuery()) == []


async def test_the_history_says_who_made_a_change(store: AnyStore) -> None:
    step = await transition(store)
    run = RunKey(step.run_id, step.generation)
    await store.runs.stop(step.run_id, fail=True, actor="ada")
    await store.execution.finalize(run, cause="a test")
    await store.runs.retry(step.run_id, actor="bob")
    await store.runs.delete(step.run_id)
    actors = [event.actor for event in await store.runs.events(step.run_id)]
    assert actors == [KNIT, "ada", KNIT, "bob", USER]


async def kept_environment(store: AnyStore, run: RunKey) -> Mapping[str, str]:
    if isinstance(store, MemoryStore):
        return store.memory.runs[run.run_id].environment
    return (await store.execution.spec(run)).environment


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "refused"])
async def test_the_environment_goes_with_a_run_that_never_starts(
    store: AnyStore, stopped: bool
) -> None:
    """It may hold secrets, which nobody reads any more."""
    first = await transition(store)
    run = RunKey(first.run_id, first.generation)
    wanted = {"DATABASE_PASSWORD": "s3cret"}
    await store.execution.advance(run, S.READY, cause="a test")
    await store.hooks.keep_environment(replace(first, source=S.READY, target=S.STARTING), wanted)
    assert await kept_environment(store, run) == wanted
    if stopped:
        await store.runs.stop(run.run_id, fail=True)
    else:
        await store.execution.advance(run, S.ABORTING, cause="refused")
    assert await kept_environment(store, run) == {}
    await store.execution.finalize(run, cause="a test")
    assert await kept_environment(store, run) == {}
