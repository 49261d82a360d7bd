"""Hooks and their deliveries: seen in pages, skipped with a name and a reason, tested."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from knit_api.deps import Deps
from knit_workflows.contracts.hook_test import HookTestResult
from knit_workflows.domain.errors import EngineUnavailable
from knit_workflows.domain.hooks import HookAnswer, HookPhase, Hooks, HooksSource, Transition
from knit_workflows.domain.runs.run import RunStatus
from tests.api.access import nobody_asks
from tests.api.fake_transfers import UNKNOWN, FakeTransfers
from tests.api.test_catalogue import refused
from tests.memory_store import MemoryStore

S = RunStatus
URL, OTHER = "http://hooks.example/a?x=1&y=%20", "http://hooks.example/b"
BUSY = HookAnswer(False, "answered 503 Service Unavailable: busy", timedelta(seconds=0.0412), 503)


def a_step(store: MemoryStore) -> Transition:
    """A Run that is to become ready."""
    run = store.add_run(S.WAITING)
    return Transition(run.summary.run_id, 1, S.WAITING, S.READY)


async def a_failure(
    store: MemoryStore, step: Transition, url: str = URL, phase: HookPhase = HookPhase.BEFORE
) -> str:
    """A hook that was called and has failed; gives the id of the delivery."""
    attempt = await store.hooks.begin(step, phase, url)
    assert attempt is not None
    next_in = timedelta(seconds=2) if phase is HookPhase.BEFORE else None
    await store.hooks.ended(step, phase, url, BUSY, attempt=attempt, next_in=next_in)
    return step.delivery_id(phase, url)


async def test_the_hooks_in_force(client: httpx.AsyncClient, store: MemoryStore) -> None:
    async def shown() -> dict[str, Any]:
        found: dict[str, Any] = (await client.get("/hooks")).json()
        return found

    at_first = await shown()
    assert at_first.pop("changed_at")
    assert at_first == {"before": [], "after": [], "followers": []}
    source = HooksSource("17@one", "/etc/hooks.yaml", "ab" * 32)
    await store.hooks.configure(Hooks(before=(OTHER, URL), after=(URL,)), source)
    await store.hooks.follow(source)
    found = await shown()
    assert (found["before"], found["after"]) == ([OTHER, URL], [URL])
    named = {"worker": "17@one", "file": "/etc/hooks.yaml", "digest": "ab" * 32}
    assert found["source"] == named
    [follower] = found["followers"]
    assert follower.pop("since") == follower.pop("seen_at")
    assert follower == named
    assert "problem" not in found
    await store.hooks.follow(HooksSource("18@two", "/etc/hooks.yaml", ""), "hooks.yaml: line 3: …")
    found = await shown()
    assert found["problem"] == "18@two: hooks.yaml: line 3: …"
    assert "digest" not in found["followers"][1]


async def test_a_delivery_in_full(client: httpx.AsyncClient, store: MemoryStore) -> None:
    step = a_step(store)
    delivery = await a_failure(store, step)
    (one,) = (await client.get("/hooks/deliveries")).json()
    times = {name: one.pop(name) for name in ("created_at", "called_at", "next_at")}
    assert all(text.endswith("+00:00") for text in times.values())
    assert one == {
        "id": delivery,
        "runId": step.run_id,
        "generation": 1,
        "from": "waiting",
        "to": "ready",
        "phase": "before",
        "url": URL,
        "state": "failed",
        "attempts": 1,
        "status_code": 503,
        "duration_ms": 41,
        "answer": "answered 503 Service Unavailable: busy",
    }


async def test_a_call_under_way_says_no_more_than_is_known(
    client: httpx.AsyncClient, store: MemoryStore
) -> None:
    await store.hooks.begin(a_step(store), HookPhase.AFTER, URL)
    (one,) = (await client.get("/hooks/deliveries")).json()
    assert one["state"] == "calling"
    assert not {"next_at", "status_code", "duration_ms", "answer", "skipped_by"} & one.keys()


async def test_deliveries_by_filter(client: httpx.AsyncClient, store: MemoryStore) -> None:
    one, two = a_step(store), a_step(store)
    first = await a_failure(store, one)
    await store.hooks.begin(two, HookPhase.BEFORE, URL)
    agreed = HookAnswer(True, "", timedelta(), 200)
    await store.hooks.ended(two, HookPhase.BEFORE, URL, agreed, attempt=1)
    second = two.delivery_id(HookPhase.BEFORE, URL)

    async def found(**query: str) -> list[str]:
        answer = await client.get("/hooks/deliveries", params=query)
        assert answer.status_code == 200, answer.text
        return [delivery["id"] for delivery in answer.json()]

    assert await found() == [second, first]
    assert await found(run=one.run_id.upper()) == [first]
    assert await found(run="", failed="", since="") == [second, first]
    assert await found(failed="true") == [first]
    assert await found(failed="false") == [second, first]
    (latest,) = (await client.get("/hooks/deliveries", params={"limit": "1"})).json()
    assert await found(since=latest["called_at"]) == [second]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("run=nobody", 404), (f"run={UNKNOWN}", 404), ("failed=yes", 400), ("since=monday", 400),
        ("limit=0", 400), ("limit=1001", 400), ("cursor=x", 400), (f"cursor={UNKNOWN}", 400),
    ],
)  # fmt: skip
async def test_filters_that_are_none(client: httpx.AsyncClient, query: str, status: int) -> None:
    await refused(client.get(f"/hooks/deliveries?{query}"), status)


async def test_all_pages_together_are_the_whole_list(
    client: httpx.AsyncClient, store: MemoryStore
) -> None:
    for _ in range(7):
        await a_failure(store, a_step(store))
    whole = (await client.get("/hooks/deliveries?failed=true")).json()
    assert len(whole) == 7
    seen: list[Any] = []
    query = {"failed": "true", "limit": "3"}
    target: str | None = f"/hooks/deliveries?{urlencode(query)}"
    sizes = []
    while target:
        answer = await client.get(target)
        seen += answer.json()
        sizes.append(len(answer.json()))
        link = answer.links.get("next")
        assert (link is None) == ("x-next-cursor" not in answer.headers)
        target = link and link["url"].removeprefix("/api")
    assert (seen, sizes) == (whole, [3, 3, 1])


async def test_a_skip_is_recorded_with_who_and_why_and_its_run_is_told(
    deps: Deps, client: httpx.AsyncClient, store: MemoryStore, transfers: FakeTransfers
) -> None:
    """Without accounts the request says who."""
    object.__setattr__(deps, "accounts", nobody_asks())
    step = a_step(store)
    delivery = await a_failure(store, step)
    answer = await client.post(
        f"/hooks/deliveries/{delivery}/skip", json={"reason": " it is down ", "by": "Ada L."}
    )
    assert answer.status_code == 200, answer.text
    skipped = answer.json()
    assert (skipped["state"], skipped["skipped_by"]) == ("skipped", "Ada L.")
    assert skipped["skip_reason"] == "it is down"
    assert "next_at" not in skipped
    assert transfers.told == [(step.run_id, 1)]
    *_, event = (await client.get(f"/runs/{step.run_id}/events")).json()
    assert (event["from"], event["to"], event["actor"]) == ("waiting", "waiting", "Ada L.")
    assert event["cause"].endswith("skipped: it is down")
    again = await client.post(f"/hooks/deliveries/{delivery}/skip", json={"reason": "again"})
    assert again.json() == skipped


async def test_without_a_name_it_was_the_user(
    deps: Deps, client: httpx.AsyncClient, store: MemoryStore
) -> None:
    object.__setattr__(deps, "accounts", nobody_asks())
    delivery = await a_failure(store, a_step(store))
    answer = await client.post(f"/hooks/deliveries/{delivery}/skip", json={"reason": "x"})
    assert answer.json()["skipped_by"] == "user"


async def test_with_accounts_it_was_the_caller(
    client: httpx.AsyncClient, store: MemoryStore
) -> None:
    delivery = await a_failure(store, a_step(store))
    answer = await client.post(
        f"/hooks/deliveries/{delivery}/skip", json={"reason": "x", "by": "somebody else"}
    )
    assert answer.json()["skipped_by"] == "bootstrap"


async def test_a_skip_counts_though_temporal_is_away(
    client: httpx.AsyncClient,
    store: MemoryStore,
    transfers: FakeTransfers,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The next try of the Run sees it."""
    transfers.broken = EngineUnavailable("Temporal does not answer")
    delivery = await a_failure(store, a_step(store))
    answer = await client.post(f"/hooks/deliveries/{delivery}/skip", json={"reason": "x"})
    assert (answer.status_code, answer.json()["state"]) == (200, "skipped")
    assert "goes on with its next try" in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        {}, {"reason": ""}, {"reason": "  "}, {"reason": "a\nb"}, {"reason": "a\x1b[2J"},
        {"reason": "a\u2028b"}, {"reason": "x" * 501}, {"reason": 1}, {"reason": "x", "by": ""},
        {"reason": "x", "by": "a\tb"}, {"reason": "x", "by": "y" * 101}, [], "x",
        {"reason": "x", "by": "knit"}, {"reason": "x", "by": " knit "}, {"reason": "x", "who": "a"},
    ],
    ids=str,
)  # fmt: skip
async def test_skips_that_are_refused(
    client: httpx.AsyncClient, store: MemoryStore, transfers: FakeTransfers, body: object
) -> None:
    delivery = await a_failure(store, a_step(store))
    await refused(client.post(f"/hooks/deliveries/{delivery}/skip", json=body), 400)
    assert store.memory.deliveries[delivery].state == "failed"
    assert transfers.told == []


async def test_what_cannot_be_skipped(
    client: httpx.AsyncClient, store: MemoryStore, transfers: FakeTransfers
) -> None:
    step, reason = a_step(store), {"reason": "x"}
    for unknown in (UNKNOWN, "no-id"):
        message = await refused(client.post(f"/hooks/deliveries/{unknown}/skip", json=reason), 404)
        assert "knit hook deliveries" in message["advice"]
    after = await a_failure(store, step, phase=HookPhase.AFTER)
    await refused(client.post(f"/hooks/deliveries/{after}/skip", json=reason), 409)
    before = await a_failure(store, step)
    store.set_status(step.run_id, S.ABORTING)
    await refused(client.post(f"/hooks/deliveries/{before}/skip", json=reason), 409)
    assert transfers.told == []


async def test_a_hook_in_force_is_tested(
    client: httpx.AsyncClient, store: MemoryStore, transfers: FakeTransfers
) -> None:
    """Before or After; whatever it answers is the answer."""
    await store.hooks.configure(Hooks(before=(URL,), after=(OTHER, URL)))
    fine = {"url": URL, "succeeded": True, "duration_ms": 31, "status_code": 200}
    answer = await client.post("/hooks/test", json={"url": URL})
    assert answer.json() == {**fine, "answer": "fine", "environment": []}
    transfers.hook_answer = HookTestResult(
        succeeded=False, text="no answer within 30 s", duration=timedelta(seconds=30)
    )
    failed = {"url": OTHER, "succeeded": False, "duration_ms": 30_000}
    answer = await client.post("/hooks/test", json={"url": OTHER})
    assert answer.json() == {**failed, "answer": "no answer within 30 s", "environment": []}
    assert transfers.tested == [(URL, HookPhase.BEFORE), (OTHER, HookPhase.AFTER)]


async def test_no_other_url_is_called(
    client: httpx.AsyncClient, store: MemoryStore, transfers: FakeTransfers
) -> None:
    """Otherwise whoever reaches the API could reach whatever its workers can."""
    await store.hooks.configure(Hooks(before=(URL,)))
    for url in ("", "http://169.254.169.254/", f"{URL}/", URL.upper(), "x" * 5000):
        await refused(client.post("/hooks/test", json={"url": url}), 400)
    await refused(client.post("/hooks/test", json={}), 400)
    assert transfers.tested == []


async def test_without_a_worker_that_calls_hooks_the_test_says_so(
    client: httpx.AsyncClient, store: MemoryStore, transfers: FakeTransfers
) -> None:
    await store.hooks.configure(Hooks(before=(URL,)))
    transfers.broken = EngineUnavailable("no worker is up that calls hooks", advice="start one")
    message = await refused(client.post("/hooks/test", json={"url": URL}), 503)
    assert message["reason"] == "no worker is up that calls hooks"
