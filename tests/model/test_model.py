"""The model test: knit does, step by step, what `model.py` says it does.

KNIT_MODEL_STEPS (1000) makes it longer. A seed that fails is named; the same seed fails again.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from knit_api.app import create_app
from knit_api.deps import Deps, Lazy
from knit_workflows.embedded import EmbeddedPostgres
from tests.api.access import nobody_asks
from tests.model.machine import FastMachine, UserRules, WholeMachine
from tests.model.worlds import FastWorld, WholeWorld
from tests.postgres import Databases

STEPS = int(os.environ.get("KNIT_MODEL_STEPS", "1000"))
WHOLE_STEPS = max(60, STEPS // 100)
HALVES = 2
"""So that two processes share the work."""
SHRINKING_SECONDS = 400

pytestmark = pytest.mark.timeout(SHRINKING_SECONDS + STEPS // 2)


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """Made once; each example puts its own `deps` into it."""
    return create_app(Deps(Lazy.of(None), Lazy.of(None), nobody_asks()))  # type: ignore[arg-type]


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    # Not the runner's own way to make one, which would forget the loop of other tests at its end.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        yield runner


@pytest.mark.parametrize("half", range(HALVES))
def test_the_api_and_the_store_do_what_the_model_does(
    half: int, loop: asyncio.Runner, app: FastAPI, databases: Databases
) -> None:
    """After every action of a user, and every step of the engine, everything visible is the same.

    Refusals too: each has the status that the model gives it.
    """

    def machine() -> FastMachine:
        return FastMachine(loop, FastWorld.opened(app, databases))

    walk(machine, first_seed=half, steps=STEPS // HALVES, examples=10, length=40)


@pytest.mark.slow
def test_the_whole_engine_does_what_the_model_does(
    loop: asyncio.Runner, app: FastAPI, postgres: EmbeddedPostgres
) -> None:
    """With Temporal, the workflows and a back-end, too, once they have come to rest."""

    def machine() -> WholeMachine:
        return WholeMachine(loop, WholeWorld.opened(app, postgres))

    walk(machine, first_seed=0, steps=WHOLE_STEPS, examples=5, length=15)


def walk(
    machine: Callable[[], Any], *, first_seed: int, steps: int, examples: int, length: int
) -> None:
    """Goes on, seed after seed, until so many steps have been done and compared."""
    UserRules.steps, UserRules.tally = 0, Counter()
    chosen = settings(
        max_examples=examples,
        stateful_step_count=length,
        deadline=None,
        database=None,  # the seeds are fixed: a failure comes again by itself
        print_blob=True,
        phases=[Phase.generate, Phase.shrink],
        # A step is a dozen statements on a real database, and an example opens one: that is slow
        # for Hypothesis, and nothing is wrong with it.
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    number = first_seed
    while UserRules.steps < steps:
        factory = seed(number)(lambda: machine())
        try:
            run_state_machine_as_test(factory, settings=chosen)  # type: ignore[arg-type]
        except BaseException as error:
            error.add_note(f"seed {number}, after {UserRules.steps} steps (shrinking included)")
            raise
        number += HALVES
    print(f"{UserRules.steps} steps", dict(sorted(UserRules.tally.items())))
