"""A container engine that is away, slow or hangs: waited for, and told; by engines of scripts."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from knit_workflows.compute.base import Observation, Phase, RunPod, StartFailureKind
from knit_workflows.compute.local import LocalBackend, launching, pod_folder
from knit_workflows.compute.local import engine as local_engine
from knit_workflows.domain.errors import BackendUnavailable
from knit_workflows.domain.runs.run import Exit
from knit_workflows.settings import LocalSettings
from tests.waiting import PATIENCE

from .conftest import MakePod

pytestmark = pytest.mark.patient

NO_DAEMON = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."
SCRIPT = """#!/bin/sh
cd "$(dirname "$0")" || exit
echo "$1" >> asked
[ "$1" = info ] || [ ! -e down ] || { cat down >&2; exit 1; }
case $1 in
  info) [ ! -e frozen ] || exec sleep 300; [ ! -e away ] || { cat away; exit 1; } ;;
  version) [ ! -e mute ] ;;
  image) [ ! -e stuck ] || exec sleep 300; [ -e image ] && echo sha256:ab ;;
  pull) cat said >&2; [ ! -e hangs ] || exec sleep 300 ;;
  create) [ ! -e refuses ] || { cat refuses >&2; exit 125; } ;;
  container) [ -e made ] ;;
  start) echo said by the container; [ ! -e broken ] || exit 1 ;;
  inspect) [ ! -e lost ] || exit 1; cat inspected ;;
esac
"""
"""`down`: it went away after it had been found. `mute`, `refuses`: in the middle of a container."""


@dataclass
class FakeEngine:
    """A `docker` of a shell script, whose world is files beside it."""

    folder: Path

    def write(self, name: str, text: str = "") -> None:
        """Changes its world."""
        draft = self.folder / f".{name}"
        draft.write_text(f"{text}\n" if text else "")
        draft.rename(self.folder / name)

    def remove(self, name: str) -> None:
        """Changes it back."""
        (self.folder / name).unlink()


@pytest.fixture
def engine(tmp_path: Path) -> FakeEngine:
    """An engine that answers, without any image."""
    made = FakeEngine(tmp_path / "bin")
    made.folder.mkdir()
    (made.folder / "docker").write_text(SCRIPT)
    (made.folder / "docker").chmod(0o755)
    made.write("said", "manifest unknown")
    return made


@pytest.fixture
def settings(engine: FakeEngine, tmp_path: Path) -> LocalSettings:
    """Those of a back-end with this engine."""
    environment = {**os.environ, "PATH": f"{engine.folder}:{os.environ['PATH']}"}
    return LocalSettings(
        state=tmp_path / "state",
        engine="docker",
        environment=environment,
        resync_period=timedelta(seconds=1),
    )


@pytest.fixture
async def backend(settings: LocalSettings) -> AsyncIterator[LocalBackend]:
    """A back-end with this engine."""
    made = LocalBackend(settings)
    await made.open()
    yield made
    for name in await made.run_pods():
        await made.stop(name, grace=timedelta())
    await made.aclose()


@pytest.fixture
def pod(make_pod: MakePod) -> RunPod:
    """A pod in a container."""
    return make_pod("true", image="registry.example/a:1")


async def with_volumes(backend: LocalBackend, pod: RunPod) -> None:
    """Makes the volumes of a pod."""
    for volume in (pod.inputs[0].volume, pod.outputs[0].volume, *([pod.log] if pod.log else [])):
        await backend.create_volume(volume)


async def launched(backend: LocalBackend, pod: RunPod) -> None:
    """Launches a pod, with its volumes."""
    await with_volumes(backend, pod)
    await backend.launch(pod)


async def until(
    backend: LocalBackend, pod: RunPod, wanted: Callable[[Observation], bool]
) -> Observation:
    """Watches a pod until it is seen so."""
    async with asyncio.timeout(PATIENCE), aclosing(backend.watch(pod.name)) as watch:
        async for seen in watch:
            if wanted(seen):
                return seen
    raise AssertionError("a watch never ends by itself")


def has_ended(seen: Observation) -> bool:
    """Whether it is over."""
    return seen.exit is not None


def told(reason: str) -> Callable[[Observation], bool]:
    """Whether this word is the failure."""
    return lambda seen: seen.start_failure is not None and seen.start_failure.reason == reason


async def test_an_image_that_is_here_costs_one_question(
    backend: LocalBackend, engine: FakeEngine, pod: RunPod
) -> None:
    """It is what every Run pays."""
    engine.write("image")
    await launched(backend, pod)
    assert (await until(backend, pod, has_ended)).phase is Phase.SUCCEEDED
    assert (engine.folder / "asked").read_text().split() == ["info", "image", "create", "start"]


async def test_a_daemon_that_goes_away_is_no_missing_image(
    backend: LocalBackend, engine: FakeEngine, pod: RunPod
) -> None:
    """It is waited for without end; once it is back, the pod goes on, and says what else is."""
    engine.write("down", NO_DAEMON)
    await launched(backend, pod)
    seen = await until(backend, pod, told("BackendUnavailable"))
    assert seen.start_failure is not None
    assert seen.start_failure.kind is StartFailureKind.BACKEND
    assert NO_DAEMON in seen.start_failure.message
    engine.remove("down")
    await until(backend, pod, told("ImageNotFound"))
    engine.write("image")
    assert (await until(backend, pod, has_ended)).phase is Phase.SUCCEEDED


async def test_a_pod_that_waits_for_its_engine_can_be_stopped(
    backend: LocalBackend, engine: FakeEngine, pod: RunPod
) -> None:
    """No container was ever asked for, so there is nothing that only the engine could end."""
    engine.write("down", NO_DAEMON)
    await launched(backend, pod)
    await until(backend, pod, told("BackendUnavailable"))
    await backend.stop(pod.name, grace=timedelta())
    await until(backend, pod, lambda seen: seen.phase is Phase.ABSENT)


@pytest.mark.parametrize("made", [False, True])
async def test_an_engine_that_is_away_refuses_no_container(
    backend: LocalBackend, engine: FakeEngine, pod: RunPod, made: bool
) -> None:
    """It went away while it made the container, and may have made it."""
    engine.write("image")
    engine.write("refuses", NO_DAEMON)
    engine.write("mute")
    await launched(backend, pod)
    await until(backend, pod, told("BackendUnavailable"))
    if made:
        engine.write("made")
    else:
        engine.remove("refuses")
    engine.remove("mute")
    assert (await until(backend, pod, has_ended)).phase is Phase.SUCCEEDED


async def test_an_engine_that_answers_refuses_for_good(
    backend: LocalBackend, engine: FakeEngine, pod: RunPod
) -> None:
    """Its words are how the pod ends."""
    engine.write("image")
    engine.write("refuses", "Error: invalid mount")
    await launched(backend, pod)
    end = await until(backend, pod, has_ended)
    assert end.exit == Exit(128, "(container main) CreateError: Error: invalid mount")


@pytest.mark.parametrize(
    ("said", "reason", "kind"),
    [
        ("Trying to pull registry.example/a:1...", "RegistrySilent", StartFailureKind.BACKEND),
        ("1: Pulling from a", "PullingImage", StartFailureKind.PROGRESS),
        ("docker.io/library/a:1: resolved", "PullingImage", StartFailureKind.PROGRESS),
        ("Getting image source signatures", "PullingImage", StartFailureKind.PROGRESS),
        (
            'time="x" level=warning msg="Failed, retrying in 1s ... (1/3). Error: EOF"',
            "RegistryUnreachable",
            StartFailureKind.TRANSIENT,
        ),
    ],
)
async def test_a_pull_that_takes_long_says_what_it_is_at(
    backend: LocalBackend,
    engine: FakeEngine,
    pod: RunPod,
    said: str,
    reason: str,
    kind: StartFailureKind,
) -> None:
    """While it lasts, not only when it has failed; and it can be stopped."""
    engine.write("said", said)
    engine.write("hangs")
    await launched(backend, pod)
    seen = await until(backend, pod, told(reason))
    assert seen.start_failure is not None
    assert seen.start_failure.kind is kind
    await backend.stop(pod.name, grace=timedelta())
    await until(backend, pod, lambda seen: seen.phase is Phase.ABSENT)


async def test_an_engine_that_hangs_is_reported(
    settings: LocalSettings, engine: FakeEngine, pod: RunPod
) -> None:
    """It gives no message that could be repeated."""
    soon = settings.model_copy(update={"stalled_after": timedelta(seconds=0.5)})
    backend = LocalBackend(soon)
    await backend.open()
    engine.write("stuck")
    await launched(backend, pod)
    seen = await until(backend, pod, told("BackendUnavailable"))
    assert seen.start_failure is not None
    assert "has reported nothing" in seen.start_failure.message
    await backend.stop(pod.name, grace=timedelta())
    await backend.aclose()


async def test_an_engine_that_gives_no_answer_counts_as_away(
    backend: LocalBackend, engine: FakeEngine, pod: RunPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_engine, "_COMMAND_TIMEOUT", 0.3)
    engine.write("frozen")
    await with_volumes(backend, pod)
    with pytest.raises(BackendUnavailable, match="docker did not answer within 0 s"):
        await backend.launch(pod)


@pytest.mark.parametrize(
    ("inspected", "ended"),
    [
        (
            "0 false true running",
            Exit(255, "(container main) the connection to the container engine was lost"),
        ),
        ("3 false false exited", Exit(3, "(container main) Error")),
    ],
)
async def test_an_engine_that_goes_away_is_no_failure_of_the_program(
    backend: LocalBackend, engine: FakeEngine, pod: RunPod, inspected: str, ended: Exit
) -> None:
    """It is asked until it answers what has become of the container."""
    engine.write("image")
    for sign in ("broken", "lost", "mute"):
        engine.write(sign)
    engine.write("inspected", inspected)
    await launched(backend, pod)
    async with asyncio.timeout(PATIENCE):
        while (engine.folder / "asked").read_text().split()[-1] != "version":
            await asyncio.sleep(0.02)
    assert (await backend.observe(pod.name)).phase is Phase.RUNNING
    engine.remove("lost")
    engine.remove("mute")
    assert (await until(backend, pod, has_ended)).exit == ended


async def test_a_container_that_the_engine_has_no_words_for_ends_as_attached(
    backend: LocalBackend, engine: FakeEngine, pod: RunPod
) -> None:
    """It answers, so that there is nothing to wait for: it does not know the format, say."""
    engine.write("image")
    engine.write("broken")
    await launched(backend, pod)
    end = await until(backend, pod, has_ended)
    assert end.exit == Exit(1, "(container main) Error")


async def test_a_container_that_cannot_be_removed_keeps_its_pod(
    backend: LocalBackend, engine: FakeEngine, pod: RunPod
) -> None:
    """Its folder stays, so that it is removed once the engine is back."""
    engine.write("image")
    await launched(backend, pod)
    await until(backend, pod, has_ended)
    engine.write("down", NO_DAEMON)
    with pytest.raises(BackendUnavailable, match=f"{pod.name} cannot be removed: {NO_DAEMON}"):
        await backend.release(pod.name)
    assert await backend.run_pods() == [pod.name]
    engine.remove("down")
    await backend.release(pod.name)
    assert await backend.run_pods() == []


async def test_a_stop_that_cannot_be_recorded_is_no_stop(
    backend: LocalBackend, engine: FakeEngine, pod: RunPod, tmp_path: Path
) -> None:
    engine.write("stuck")
    await launched(backend, pod)
    request = tmp_path / "state" / "pods" / pod.name / pod_folder.STOP
    request.rename(tmp_path / "aside")
    request.mkdir()
    with pytest.raises(BackendUnavailable, match=f"{pod.name} cannot be stopped: .*directory"):
        await backend.stop(pod.name, grace=timedelta())
    request.rmdir()
    (tmp_path / "aside").rename(request)
    await backend.stop(pod.name, grace=timedelta())
    await until(backend, pod, lambda seen: seen.phase is Phase.ABSENT)


async def test_a_launch_that_another_process_does_not_finish_is_told(
    backend: LocalBackend,
    engine: FakeEngine,
    pod: RunPod,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It holds the pod's lock, and has started nothing; once it is gone, another may."""
    monkeypatch.setattr(launching, "_LOCK_TIMEOUT", 0.3)
    engine.write("image")
    await with_volumes(backend, pod)
    folder = tmp_path / "state" / "pods" / pod.name
    folder.mkdir()
    pod_folder.reserve(folder)
    lock = pod_folder.try_lock(folder / pod_folder.STATE)
    assert lock is not None
    with pytest.raises(BackendUnavailable, match="being started by another process"):
        await backend.launch(pod)
    os.close(lock)
    shutil.rmtree(folder)
    await backend.launch(pod)
    assert (await until(backend, pod, has_ended)).phase is Phase.SUCCEEDED


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (NO_DAEMON, "start the engine"),
        ("dial unix /var/run/docker.sock: connect: permission denied", "let the user"),
    ],
)
async def test_many_launches_ask_an_absent_engine_once(
    backend: LocalBackend, engine: FakeEngine, pod: RunPod, said: str, advice: str
) -> None:
    """It may take long to say no, and none shall wait for the answers to all the others."""
    engine.write("away", said)
    await with_volumes(backend, pod)
    answers = await asyncio.gather(
        *(backend.launch(replace(pod, name=f"pod-{n}")) for n in range(20)), return_exceptions=True
    )
    for answer in answers:
        assert isinstance(answer, BackendUnavailable)
        assert said in answer.reason
        assert answer.advice.startswith(advice)
    assert (engine.folder / "asked").read_text().split() == ["info"]
