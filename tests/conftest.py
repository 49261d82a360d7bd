"""Servers that many tests share, the real ones: PostgreSQL and Temporal.

What they need is imported when a test asks for one: it takes longer than all tests of some files.
"""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Its pytest plugin would import it when the session is over, and CPython 3.11 can then refuse to
# compile it ("AST constructor recursion depth mismatch"), which fails the session.
import hypothesis
import pytest

if TYPE_CHECKING:
    from temporalio.client import Client

    from knit_workflows.embedded import EmbeddedPostgres
    from tests.postgres import Databases

# Properties are about results; the time of an example depends on what else runs.
_UNHURRIED = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("exploring", **_UNHURRIED)
# The same examples every time, so that whoever changes nothing sees nothing change.
hypothesis.settings.register_profile("repeating", derandomize=True, **_UNHURRIED)
hypothesis.settings.register_profile("quick", derandomize=True, max_examples=10, **_UNHURRIED)
hypothesis.settings.load_profile("repeating")


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Iterator[None]:
    """Leaves the process at once: one that ran a Worker can crash in the interpreter's own end."""
    result = yield
    if not os.environ.get("PYTEST_XDIST_WORKER"):
        os._exit(int(result))  # type: ignore[call-overload]
    return result


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Collects without the garbage collector, which is spared what then lives: modules and tests.

    It would look through them again and again, for a sixth of the time that collecting takes.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


_ROOT = Path(__file__).parents[1]
_CACHES = {"build", ".hypothesis", ".import_linter_cache", ".mypy_cache", ".pytest_cache"}
_at_top = {path.name for path in _ROOT.iterdir()} | _CACHES


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Fails a test that leaves something in the project's folder; under xdist, or one beside it."""
    result = yield
    new = {path.name for path in _ROOT.iterdir()} - _at_top
    if new:
        _at_top.update(new)
        pytest.fail(f"left in the project's folder, by this test or one beside it: {sorted(new)}")
    return result


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server; each test makes its own database on it."""
    from knit_workflows.testing import embedded_postgres

    with embedded_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres: EmbeddedPostgres) -> Iterator[Databases]:
    from tests.postgres import Databases

    made = Databases(postgres.url("postgres"))
    yield made
    made.close()


@pytest.fixture
async def temporal_client() -> AsyncIterator[Client]:
    """A Temporal dev server of the test's own, so that Projectors never meet."""
    from knit_workflows.testing import temporal

    async with temporal() as client:
        yield client
