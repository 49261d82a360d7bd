"""Finding a container engine, and what it is asked to create."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from knit_workflows.compute.local.engine import (
    Engine,
    EngineFinder,
    create_arguments,
    environment_file,
)
from knit_workflows.compute.local.folders import StateFolder
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable
from knit_workflows.domain.plans.options import PodOptions
from knit_workflows.domain.volumes import Mount, Volume
from knit_workflows.settings import LocalSettings

from .conftest import MakePod


def finder(folder: Path, engines: Mapping[str, str], engine: str = "auto") -> EngineFinder:
    """A finder on a machine with these commands, each a shell script."""
    for name, script in engines.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    environment = {"PATH": str(folder)}
    return EngineFinder(LocalSettings(state=folder, engine=engine, environment=environment))


async def test_the_first_engine_that_answers_is_taken(tmp_path: Path) -> None:
    """A command without its daemon does not count."""
    found = finder(tmp_path, {"docker": "echo no daemon; exit 1", "podman": "echo fine"})
    assert await found.engine() == Engine(str(tmp_path / "podman"), "podman")


async def test_podman_under_the_name_of_docker_is_known(tmp_path: Path) -> None:
    """Their dialects differ a little."""
    found = finder(tmp_path, {"docker": "echo buildahVersion: 1.28"})
    assert await found.engine() == Engine(str(tmp_path / "docker"), "podman")


async def test_an_engine_that_does_not_answer_is_asked_again(tmp_path: Path) -> None:
    """It may be starting; the error repeats its words."""
    found = finder(tmp_path, {"docker": "echo Cannot connect to the daemon; exit 1"})
    with pytest.raises(BackendUnavailable, match="docker: Cannot connect to the daemon"):
        await found.engine()
    finder(tmp_path, {"docker": "echo fine"})
    assert (await found.engine()).dialect == "docker"


@pytest.mark.parametrize("engine", ["auto", "none", "nerdctl"])
async def test_without_an_engine_containers_are_rejected(tmp_path: Path, engine: str) -> None:
    """The advice says what to install, or what to set."""
    with pytest.raises(BackendRejected) as caught:
        await finder(tmp_path, {}, engine).engine()
    assert "host/" in caught.value.advice


@pytest.fixture
def state(settings: LocalSettings) -> StateFolder:
    """A state folder with the volumes of `make_pod`'s pod."""
    state = StateFolder(settings.state)
    state.make()
    for name in ("pod-in", "pod-out", "pod-log"):
        state.create_volume(Volume(name, "k"))
    return state


def test_a_container_is_limited_and_isolated(
    make_pod: MakePod, state: StateFolder, settings: LocalSettings
) -> None:
    """Inputs read-only, no privileges, memory without swap, the log not mounted."""
    pod = make_pod(
        "true", image="busybox:1", env={"A": "b c"}, resources={"cpu": "500m", "memory": "64Mi"}
    )
    volumes = state.path / "volumes"
    assert create_arguments(
        pod, state, settings.model_copy(update={"network": False}), "docker"
    ) == [
        *("--name", "pod", "--pull", "never", "--hostname", "pod"),
        *("--label", "knit.run=run", "--label", "knit.plan=plan"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--security-opt", "label=disable", "--log-driver", "none", "--network", "none"),
        *("--cpus", "0.5", "--memory", "67108864", "--memory-swap", "67108864"),
        *("--mount", f"type=bind,source={volumes}/pod-in,target=/in,readonly"),
        *("--mount", f"type=bind,source={volumes}/pod-out,target=/out"),
        *("--env-file", "/dev/stdin", "--entrypoint", "sh", "--", "busybox:1", "-c", "true"),
    ]


@pytest.mark.parametrize(
    ("value", "in_file"),
    [
        ("b c", True),
        ("", True),
        (' #"quoted" $x ', True),
        ("é" * 20_000, True),
        ("two\nlines", False),
        ("ends with\r", False),
        ("é" * 30_000, False),
    ],
    ids=["usual", "empty", "special", "long", "lines", "return", "longer"],
)
def test_variables_are_on_no_command_line_if_a_file_can_hold_them(
    make_pod: MakePod, state: StateFolder, settings: LocalSettings, value: str, in_file: bool
) -> None:
    """Everybody on the machine can read a command line while the container runs."""
    pod = make_pod("true", image="busybox:1", env={"A": value})
    words = create_arguments(pod, state, settings, "docker")
    assert ("--env-file" in words) == in_file
    assert (f"A={value}" in words) != in_file
    assert environment_file(pod) == (f"A={value}\n".encode() if in_file else b"")


def test_an_image_keeps_its_own_command(
    make_pod: MakePod, state: StateFolder, settings: LocalSettings
) -> None:
    """Without entrypoint and arguments nothing is said about them."""
    pod = make_pod("", image="busybox:1", entrypoint=(), args=())
    words = create_arguments(pod, state, settings, "podman")
    assert words[-2:] == ["--", "busybox:1"]
    assert "--entrypoint" not in words


def test_shared_memory_is_as_large_as_the_plan_says(
    make_pod: MakePod, state: StateFolder, settings: LocalSettings
) -> None:
    """Nothing else of a Plan's options means anything to an engine."""
    pod = replace(make_pod("true"), options=PodOptions(shm_size="1Gi", queue="q"))
    words = create_arguments(pod, state, settings, "docker")
    assert words[words.index("--shm-size") + 1] == str(1 << 30)
    assert "--shm-size" not in create_arguments(make_pod("true"), state, settings, "docker")


def test_no_more_processors_than_there_are_are_asked_for(
    make_pod: MakePod, state: StateFolder, settings: LocalSettings
) -> None:
    """The same Plan runs on a small machine."""
    pod = make_pod("true", resources={"cpu": "1000", "example.com/dongle": "1"})
    words = create_arguments(pod, state, settings, "docker")
    assert words[words.index("--cpus") + 1] == str(os.cpu_count())


def test_no_less_is_asked_for_than_engines_grant(
    make_pod: MakePod, state: StateFolder, settings: LocalSettings
) -> None:
    """A Plan may ask for 1m; engines refuse such a container, and so would every Run."""
    pod = make_pod("true", resources={"cpu": "1m", "memory": "1Mi"})
    words = create_arguments(pod, state, settings, "docker")
    assert words[words.index("--cpus") + 1] == "0.01"
    assert words[words.index("--memory") + 1] == str(6 << 20)


@pytest.mark.parametrize(
    ("dialect", "words"),
    [("docker", ["--gpus", "2"]), ("podman", ["--device", "nvidia.com/gpu=all"])],
)
def test_gpus_are_given(
    make_pod: MakePod,
    state: StateFolder,
    settings: LocalSettings,
    dialect: str,
    words: list[str],
) -> None:
    """Each engine has its own way."""
    pod = make_pod("true", resources={"nvidia.com/gpu": "2"})
    created = create_arguments(pod, state, settings, dialect)
    assert words[0] in created
    assert created[created.index(words[0]) + 1] == words[1]


def test_a_mountpoint_with_a_comma_is_rejected(
    make_pod: MakePod, state: StateFolder, settings: LocalSettings
) -> None:
    """It would become another option of the mount."""
    pod = make_pod("true", outputs=(Mount("/out,readonly", Volume("pod-out", "o")),))
    with pytest.raises(BackendRejected, match="cannot mount"):
        create_arguments(pod, state, settings, "docker")
