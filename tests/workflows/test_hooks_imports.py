"""Hooks of imports: their Runs have a workflow only for their end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from knit_workflows.domain.errors import ImportOver
from knit_workflows.domain.hooks import Hooks
from knit_workflows.domain.imports import NOT_ENDED
from knit_workflows.domain.runs.run import ABORTED_BY_USER, RunStatus
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.testing import QUICK
from tests.receiver import AGREED, Answer, Call, Receiver, receiver
from tests.waiting import PATIENCE, until
from tests.workflows.test_hooks import closed, hooked, refuses, waits_for_hook


@pytest.fixture
def hooks() -> Iterator[Receiver]:
    with receiver() as serving:
        yield serving


async def test_the_end_of_an_import_is_asked_for_and_told(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    """Its Run has a workflow only then; that it is ended is its importer's to say."""
    hooks.answer = refuses("done")
    async with hooked(postgres, hooks) as knit:
        begun = await knit.store.imports.begin()
        await knit.store.imports.end(begun, window=timedelta(minutes=30))
        await knit.store.imports.finish(begun)
        await waits_for_hook(knit, await knit.store.runs.get(begun.run_id))
        hooks.answer = lambda _: AGREED
        run = await knit.final(begun.run_id)
        assert run.summary.status is RunStatus.DONE
        await closed(knit, run)
        assert set(hooks.transitions("/before")) == {("completing", "done")}
        assert hooks.transitions("/after") == [("completing", "done")]
        assert hooks.calls[-1].body["plan"]["name"] == "knit#imported"


LAPSING = QUICK.model_copy(
    update={
        "import_window": timedelta(seconds=1),
        "import_key_life": timedelta(seconds=9),
        "gc_interval": timedelta(seconds=1),
    }
)
LATE = [("running", "aborting"), ("aborting", "failed")]


async def test_the_abortion_of_a_late_import_is_asked_for_and_told(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    """As its end is; until the hooks agree it is running, and nobody can end it any more."""
    hooks.answer = refuses("aborting")
    async with hooked(postgres, hooks, engine=LAPSING) as knit:
        begun = await knit.store.imports.begin()
        shown = await waits_for_hook(knit, await knit.store.runs.get(begun.run_id))
        assert shown.summary.status is RunStatus.RUNNING
        with pytest.raises(ImportOver):
            await knit.store.imports.end(begun, window=LAPSING.import_window)
        hooks.answer = lambda _: AGREED
        run = await knit.final(begun.run_id)
        assert (run.summary.status, run.summary.exit) == (RunStatus.FAILED, NOT_ENDED)
        await closed(knit, run)
        assert list(dict.fromkeys(hooks.transitions("/before"))) == LATE
        assert hooks.transitions("/after") == LATE
        told = [call.body for call in hooks.calls if call.path == "/after"]
        assert [body["exit"]["message"] for body in told] == [NOT_ENDED.message] * 2
        causes = [event.cause for event in await knit.store.runs.events(begun.run_id)]
        assert NOT_ENDED.message in causes


async def test_a_late_import_fails_if_its_hooks_go_meanwhile(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    hooks.answer = refuses("aborting")
    async with hooked(postgres, hooks, engine=LAPSING) as knit:
        begun = await knit.store.imports.begin()
        await waits_for_hook(knit, await knit.store.runs.get(begun.run_id))
        await knit.store.hooks.configure(Hooks())
        run = await knit.final(begun.run_id)
        assert (run.summary.status, run.summary.exit) == (RunStatus.FAILED, NOT_ENDED)


async def test_a_stop_of_a_late_import_does_not_wait_for_a_hook(
    postgres: EmbeddedPostgres, hooks: Receiver
) -> None:
    released = threading.Event()

    def hang(call: Call) -> Answer:
        if call.transition == LATE[0]:
            released.wait(PATIENCE)
        return AGREED

    hooks.answer = hang
    async with hooked(postgres, hooks, engine=LAPSING) as knit:
        begun = await knit.store.imports.begin()
        await until(lambda: LATE[0] in hooks.transitions("/before"))
        await knit.store.runs.stop(begun.run_id, fail=True)
        run = await knit.final(begun.run_id)
        released.set()
        assert run.summary.exit == ABORTED_BY_USER
        await closed(knit, run)
        assert hooks.transitions("/after") == LATE[1:]
