"""One process of the stack: it is started again when it dies, ever more slowly."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from knit_cli.dev import child_process
from knit_cli.dev.child_process import FIRST_PAUSE, MAX_PAUSE, ChildProcess
from knit_cli.dev.dev_folder import DevFolder
from knit_cli.dev.services import Service
from knit_workflows.embedded import EmbeddedRefused


class Clock:
    """The time as the child sees it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., ChildProcess]]:
    folder = DevFolder(tmp_path / "state")
    folder.create()
    made: list[ChildProcess] = []

    def one(script: str, **more: Any) -> ChildProcess:
        ready = more.pop("is_ready", lambda _: True)
        service = Service("it", ("sh", "-c", script), dict(os.environ), ready, **more)
        made.append(ChildProcess(service, folder, stop_timeout=0.2, clock=clock.monotonic))
        return made[-1]

    yield one
    for child in made:
        child.stop()


def settle(child: ChildProcess) -> None:
    """Waits, in real time, until its process has ended, and has that noticed."""
    assert child.process is not None
    child.process.wait(60)
    assert child.poll(may_start=False)


def test_pauses_double_up_to_the_longest(make: Callable[..., ChildProcess], clock: Clock) -> None:
    """It is not started before its pause, of which half is chance, is over."""
    child, pauses = make("echo last words; exit 3"), []
    for _ in range(8):
        assert child.poll(may_start=True)
        settle(child)
        begun = clock.now
        while child.process is None:
            clock.now += 0.01
            child.poll(may_start=True)
        pauses.append(clock.now - begun)
        settle(child)
        clock.now += MAX_PAUSE
    for step, pause in enumerate(pauses):
        longest = min(FIRST_PAUSE * 4**step, MAX_PAUSE)  # every second start is one of these
        assert longest / 2 - 0.02 <= pause <= longest + 0.02
    assert child.failed_starts == child.restarts == 16
    assert "exited with code 3" in child.last_error
    assert "last words" in child.last_error


def test_a_healthy_life_shortens_the_next_pause(
    make: Callable[..., ChildProcess], clock: Clock
) -> None:
    """Who has been ready for long is started again at once."""
    child = make("exec sleep 600")
    for _ in range(5):
        child.poll(may_start=True)
        assert child.process is not None
        child.process.send_signal(signal.SIGKILL)
        settle(child)
        clock.now += MAX_PAUSE
    child.poll(may_start=True)
    child.poll(may_start=True)
    assert child.state == "ready"
    assert child.failed_starts == 0
    clock.now += child_process.BACKOFF_RESET_AFTER + 1
    child.poll(may_start=True)
    assert child.process is not None
    child.process.kill()
    settle(child)
    assert "killed by signal 9" in child.last_error
    clock.now += child_process.FIRST_PAUSE
    assert child.poll(may_start=True)


def test_it_waits_for_what_it_needs(make: Callable[..., ChildProcess], clock: Clock) -> None:
    """Without permission nothing is started, however often it looks."""
    child = make("true")
    for _ in range(3):
        assert not child.poll(may_start=False)
    assert child.state == "stopped"


def test_the_log_of_the_life_before_is_kept(
    make: Callable[..., ChildProcess], clock: Clock
) -> None:
    """One tells why it died, the other how it is now."""
    child = make("echo $$")
    for _ in range(2):
        child.poll(may_start=True)
        settle(child)
        clock.now += MAX_PAUSE
    new = child.folder.log("it")
    assert new.read_text() != new.with_name("it.log.old").read_text() != ""


@pytest.mark.parametrize("cause", [OSError("no room"), EmbeddedRefused("no room", "move it")])
def test_a_command_that_cannot_be_started_is_tried_again(
    make: Callable[..., ChildProcess], cause: Exception
) -> None:
    """Also when what comes before it fails, such as on a full disk."""

    def fail() -> None:
        raise cause

    child = make("true", prepare=fail)
    assert child.poll(may_start=True)
    assert child.failed_starts == 1
    assert "no room" in child.last_error


def test_who_does_not_become_ready_is_killed_at_last(
    make: Callable[..., ChildProcess], clock: Clock
) -> None:
    """And then started again as if it had died by itself."""
    child = make("exec sleep 600", is_ready=lambda _: False)
    child.poll(may_start=True)
    clock.now += child_process.READY_TIMEOUT + 1
    child.poll(may_start=True)
    settle(child)
    assert child.failed_starts == 1


def test_what_follows_readiness_is_tried_again(
    make: Callable[..., ChildProcess], clock: Clock
) -> None:
    """Migrations of a database that dies in this moment; but not at every look."""
    calls = []

    def fail_once() -> None:
        calls.append(clock.now)
        if len(calls) == 1:
            raise RuntimeError("gone")

    child = make("exec sleep 600", on_ready=fail_once)
    for _ in range(5):
        child.poll(may_start=True)
    assert child.state == "starting"
    assert len(calls) == 1
    clock.now += child_process.READY_RETRY_INTERVAL
    child.poll(may_start=True)
    assert child.state == "ready"


@pytest.mark.patient
def test_who_does_not_end_is_killed(make: Callable[..., ChildProcess]) -> None:
    """A process that takes SIGTERM lightly does not keep the stack up."""
    child = make("trap '' TERM; echo trapped; while :; do sleep 1; done")
    child.poll(may_start=True)
    until = time.monotonic() + 60
    while "trapped" not in child.folder.log("it").read_text():
        assert time.monotonic() < until
        time.sleep(0.01)
    assert child.process is not None
    pid = child.process.pid
    child.stop()
    assert child.state == "stopped"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_who_stands_back_does_so_from_its_start(make: Callable[..., ChildProcess]) -> None:
    """By so much more than we do ourselves."""
    child = make("sleep 60", niceness=3)
    child.poll(may_start=True)
    assert child.process is not None
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, child.process.pid) == ours + 3
