"""A Run that waits for a real hook, seen and steered through the API, on the real parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from knit_api.app import create_app
from knit_api.deps import Deps, Lazy
from knit_workflows.domain.hooks import Hooks
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.settings import HookSettings
from knit_workflows.testing import KnitEnvironment, knit_environment
from tests.api.access import nobody_asks
from tests.receiver import AGREED, Answer, Call, Receiver, receiver, with_environment
from tests.waiting import PATIENCE
from tests.workflows.test_run import TRAIN, only_run

pytestmark = pytest.mark.patient  # it needs a whole knit

LOCAL = HookSettings(allow_loopback=True, proxies=False)


def reluctant(call: Call) -> Answer:
    """Agrees to all but the start of a Run; its second hook always agrees."""
    if call.path == "/gate" and call.transition == ("ready", "starting"):
        return 503, {}, b"not\ntoday"
    return AGREED


@pytest.fixture
async def knit(postgres: EmbeddedPostgres) -> AsyncIterator[KnitEnvironment]:
    async with knit_environment(postgres=postgres, hooks=LOCAL) as environment:
        yield environment


@pytest.fixture
async def client(knit: KnitEnvironment) -> AsyncIterator[httpx.AsyncClient]:
    deps = Deps(Lazy.of(knit.store), Lazy.of(knit.knit), nobody_asks())
    transport = httpx.ASGITransport(create_app(deps))
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test/api") as client:
        yield client
    await deps.aclose()


async def held(knit: KnitEnvironment, client: httpx.AsyncClient, hooks: Receiver) -> str:
    """Gives the id of a Run that waits for the gate, asked at least twice."""
    await knit.store.hooks.configure(
        Hooks(before=(hooks.url("/gate"), hooks.url("/second")), after=(hooks.url("/after"),))
    )
    plan = await knit.apply(TRAIN)
    await knit.push({"type": "dataset"})
    run_id = (await only_run(knit, plan.summary.plan_id)).summary.run_id
    async with asyncio.timeout(PATIENCE):
        while True:
            waiting = (await client.get(f"/runs/{run_id}")).json().get("waiting", {})
            if waiting.get("hook", {}).get("attempts", 0) >= 2:
                return run_id
            await asyncio.sleep(0.05)


async def test_a_run_that_a_hook_holds_up_goes_on_without_it(
    knit: KnitEnvironment, client: httpx.AsyncClient
) -> None:
    """It says which hook; a skip lets it make this change, with the other hooks asked as ever."""
    with receiver() as hooks:
        hooks.answer = reluctant
        gate = hooks.url("/gate")
        run_id = await held(knit, client, hooks)
        run = (await client.get(f"/runs/{run_id}")).json()
        waiting = run["waiting"]
        assert (run["status"], waiting["kind"]) == ("ready", "hook")
        assert waiting["reason"] == (
            f"the hook {gate} has not agreed to → starting: answered 503 Service Unavailable: "
            "not today"
        )
        assert waiting["hook"]["url"] == gate
        query = {"run": run_id, "failed": "true"}
        async with asyncio.timeout(PATIENCE):
            # It has not failed while it is just being called again.
            while not (found := (await client.get("/hooks/deliveries", params=query)).json()):
                await asyncio.sleep(0.05)
        (failed,) = found
        assert failed["id"] == waiting["hook"]["delivery"]
        assert (failed["from"], failed["to"], failed["status_code"]) == ("ready", "starting", 503)
        answer = await client.post(
            f"/hooks/deliveries/{failed['id']}/skip", json={"reason": "it is down", "by": "ada"}
        )
        assert answer.status_code == 200, answer.text
        await knit.final(run_id)
        after = (await client.get(f"/runs/{run_id}")).json()
        assert (after["status"], "waiting" in after) == ("done", False)
        assert ("ready", "starting") in hooks.transitions("/second")
        (skip,) = [
            event
            for event in (await client.get(f"/runs/{run_id}/events")).json()
            if event["actor"] == "ada"
        ]
        assert skip["cause"] == f"hook {gate} before → starting skipped: it is down"


async def test_a_hook_is_tested_as_it_is_called_for_a_run(
    knit: KnitEnvironment, client: httpx.AsyncClient
) -> None:
    with receiver() as hooks:
        url = hooks.url("/gate")
        refused = await client.post("/hooks/test", json={"url": url})
        assert (refused.status_code, hooks.calls) == (400, [])
        await knit.store.hooks.configure(Hooks(before=(url,)))
        hooks.answer = lambda _: with_environment(MODE="strict")
        told = (await client.post("/hooks/test", json={"url": url})).json()
        assert (told["succeeded"], told["status_code"]) == (True, 200)
        assert told["environment"] == ["MODE"]
        hooks.answer = lambda _: (500, {}, b"broken")
        told = (await client.post("/hooks/test", json={"url": url})).json()
        assert (told["succeeded"], told["status_code"]) == (False, 500)
        assert "broken" in told["answer"]
        assert [call.transition for call in hooks.calls] == [("ready", "starting")] * 2
        assert (await client.get("/hooks/deliveries")).json() == []
