"""Why a Run does not start: a real engine and registries that are away, silent, and back again."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.contract.compute.local_adapters import LocalEngineAdapter, need_engine
from tests.e2e.stack import DevStack, dev_stack, shell_plan, until

pytestmark = [pytest.mark.timeout(900), pytest.mark.engine, pytest.mark.slow]

IMAGE = LocalEngineAdapter.image


@pytest.fixture(scope="module")
def engine_socket(sandbox: dict[str, str]) -> Iterator[Path]:
    """Where the engine's daemon is to listen; nobody does yet."""
    if Path(sandbox["KNIT_TEST_ENGINE"]).name != "podman":
        pytest.skip("the daemon of this engine is not the tests' to end")
    with tempfile.TemporaryDirectory(prefix="knit-engine-") as folder:
        yield Path(folder) / "podman.sock"


@pytest.fixture(scope="module")
async def stack(sandbox: dict[str, str], engine_socket: Path) -> Any:
    """A stack whose engine needs its daemon, and has the tests' image once that is up."""
    await need_engine()
    kept = {key: value for key, value in sandbox.items() if not key.startswith("KNIT_")}
    environment = {
        **kept,
        "CONTAINER_HOST": f"unix://{engine_socket}",
        "KNIT_COMPUTE__LOCAL__ENGINE": sandbox["KNIT_TEST_ENGINE"],
        "KNIT_COMPUTE__LOCAL__NETWORK": "false",
        "KNIT_ENGINE__STOP_GRACE": "PT1S",
        # No Run here is to fail by itself before the test has looked at what it waits for.
        "KNIT_ENGINE__IMAGE_PULL_DEADLINE": "PT10M",
    }
    with dev_stack(**environment) as running:
        running.up()
        yield running


@contextmanager
def daemon(sandbox: dict[str, str], engine_socket: Path) -> Iterator[None]:
    """The engine's daemon, up for a while."""
    service = subprocess.Popen(
        ["podman", "system", "service", "--time=0", f"unix://{engine_socket}"],
        env={**os.environ, **sandbox},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        service.terminate()
        service.wait(60)
        with suppress(FileNotFoundError):
            engine_socket.unlink()


def begun(stack: DevStack, tag: str, image: str) -> str:
    """Begins a Run of a container; gives its Plan."""
    plan = stack.apply(shell_plan("true", tag, image=image))
    stack.push("x", tag)
    return plan


def waits(stack: DevStack, plan: str, code: str) -> dict[str, Any]:
    """Waits until the Plan's only Run says that it waits for this; gives the Run."""

    def look() -> dict[str, Any] | None:
        found = stack.runs(plan)
        waiting = found[0].get("waiting", {}) if found else {}
        return found[0] if waiting.get("code") == code else None

    return until(look)


def stopped(stack: DevStack, plan: str) -> dict[str, Any]:
    """Ends the Plan's only Run."""
    stack.knit("run", "stop", "--fail", stack.runs(plan)[0]["runId"])
    return stack.run_in(plan, "failed")


def test_a_daemon_that_is_away_is_named_and_waited_for(
    stack: DevStack, sandbox: dict[str, str], engine_socket: Path
) -> None:
    """From the first Run on, and again when it goes away later; each Run goes on by itself."""
    first = begun(stack, "daemon:first", IMAGE)
    run = waits(stack, first, "BackendUnavailable")
    assert (run["status"], run["waiting"]["kind"]) == ("ready", "backend")
    assert "podman" in run["waiting"]["reason"]
    assert "until" not in run["waiting"]
    shown = stack.knit("run", "show", run["runId"]).json()
    assert shown["waiting"]["since"] == run["waiting"]["since"]
    [told] = [
        one
        for one in stack.knit("run", "show", "--events", run["runId"]).json()
        if one.get("from") == one["to"] == "ready"
    ]
    assert "[BackendUnavailable]" in told["cause"]
    with daemon(sandbox, engine_socket):
        assert stack.run_in(first, "done", "failed")["status"] == "done"
    for_naught = begun(stack, "daemon:stopped", IMAGE)
    waits(stack, for_naught, "BackendUnavailable")
    assert stopped(stack, for_naught)["exit"]["code"] == 253
    again = begun(stack, "daemon:again", IMAGE)
    run = waits(stack, again, "BackendUnavailable")
    assert (run["status"], run["waiting"]["kind"]) == ("starting", "backend")
    with daemon(sandbox, engine_socket):
        run = stack.run_in(again, "done", "failed")
    assert run["status"] == "done"
    assert "waiting" not in run


def test_a_registry_that_is_away_is_named_with_its_deadline(
    stack: DevStack, sandbox: dict[str, str], engine_socket: Path
) -> None:
    """One that refuses; and without one, a registry that takes connections and says nothing."""
    with (
        daemon(sandbox, engine_socket),
        socket.socket() as silent,
    ):
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        mute = begun(stack, "registry:mute", f"127.0.0.1:{silent.getsockname()[1]}/knit/x:1")
        away = begun(stack, "registry:away", "127.0.0.1:9/knit/x:1")
        run = waits(stack, mute, "RegistrySilent")
        assert (run["status"], run["waiting"]["kind"]) == ("starting", "backend")
        run = waits(stack, away, "RegistryUnreachable")
        assert "connection refused" in run["waiting"]["reason"]
        assert run["waiting"]["until"] > run["waiting"]["since"]
        assert "fails if it lasts" in run["waiting"]["outlook"]
        for plan in (mute, away):
            run = stopped(stack, plan)
            assert (run["exit"]["code"], "waiting" in run) == (253, False)
