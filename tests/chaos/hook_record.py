"""What is promised of the calls of hooks, checked on what a receiver got and on knit's record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from knit_workflows.domain.hooks import (
    DeliveryQuery,
    DeliveryState,
    HookDelivery,
    HookPhase,
    Hooks,
)
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.ports import Store
from knit_workflows.domain.runs.run import KNIT
from tests.receiver import Call, Receiver

BEFORE, AFTER = ("/a", "/b"), ("/c", "/d")
"""The hooks of these tests: paths of one receiver."""


def in_force(hooks: Receiver) -> Hooks:
    """Gives all of them, to be put in force."""
    return Hooks(tuple(map(hooks.url, BEFORE)), tuple(map(hooks.url, AFTER)))


async def assert_kept(store: Store, run_id: RunId, hooks: Receiver) -> None:
    """Checks the record of an ended Run, all of whose hooks agree and have been called.

    Each transition that knit has made was asked for by a call of each Before hook at least, and
    told to each After hook at most once. The record never knows of fewer calls than were received,
    and what it calls a success was received. A Before hook may have been asked for a transition
    that a user's stop has overtaken.
    """
    events = await store.runs.events(run_id)
    left_by_users = {event.from_status for event in events if event.actor != KNIT}
    made = {
        (event.from_status, event.to_status)
        for event in events
        if event.actor == KNIT and event.from_status not in (None, event.to_status)
    }
    assert made
    received: defaultdict[str, list[Call]] = defaultdict(list)
    for call in list(hooks.calls):
        if call.body["runId"] == run_id:
            received[call.headers["webhook-id"]].append(call)
    deliveries = await store.hooks.find(DeliveryQuery(run_id=run_id))
    expected = {
        (phase, hooks.url(path), *transition)
        for phase, paths in ((HookPhase.BEFORE, BEFORE), (HookPhase.AFTER, AFTER))
        for path in paths
        for transition in made
    }
    known = {
        (one.phase, one.url, one.transition.source, one.transition.target): one
        for one in deliveries
    }
    overtaken = {
        (phase, url, source, target)
        for phase, url, source, target in set(known) - expected
        if phase is HookPhase.BEFORE and source in left_by_users
    }
    assert set(known) - overtaken == expected
    assert set(received) <= {one.delivery_id for one in deliveries}
    for (phase, *_), one in known.items():
        calls = received[one.delivery_id]
        assert all(hooks.url(call.path) == one.url for call in calls), one
        if phase is HookPhase.BEFORE:
            _assert_asked(calls, one.attempts, one.state)
        else:
            _assert_told(calls, one)


def _assert_asked(calls: Sequence[Call], attempts: int, state: DeliveryState) -> None:
    numbers = [call.body["transition"]["attempt"] for call in calls]
    assert 1 <= len(numbers) <= attempts
    assert numbers == sorted(set(numbers)), "the number of the attempt grows from call to call"
    # The Run has gone on: its last call was received, and its success is on record.
    assert (numbers[-1], state) == (attempts, DeliveryState.SUCCEEDED)


def _assert_told(calls: Sequence[Call], one: HookDelivery) -> None:
    assert one.attempts == 1
    assert len(calls) <= 1
    # A call whose outcome is not on record may have been received: nobody knows.
    known = one.state in (DeliveryState.SUCCEEDED, DeliveryState.CALLING)
    assert known or one.answer.startswith("the worker ended before "), one
    if one.state is DeliveryState.SUCCEEDED:
        assert len(calls) == 1
