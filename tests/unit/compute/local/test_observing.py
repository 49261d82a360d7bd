"""What a pod's reported means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from knit_workflows.compute.base import Observation, Phase, oom_note
from knit_workflows.compute.local.observing import observation_of
from knit_workflows.compute.local.pod_folder import SupervisorState
from knit_workflows.domain.runs.run import SUCCEEDED, Exit

STARTED = SupervisorState(supervisor=(1, 2))
RUNNING = replace(STARTED, running=True)


def test_a_pod_is_pending_until_its_command_is_started() -> None:
    """Then it is running."""
    assert observation_of(STARTED) == Observation(Phase.PENDING)
    assert observation_of(RUNNING) == Observation(Phase.RUNNING)


@pytest.mark.parametrize(
    ("reported", "exit"),
    [
        (replace(RUNNING, exit=(0, 0)), SUCCEEDED),
        (replace(RUNNING, exit=(3, 0)), Exit(3, "(container main) Error")),
        (
            replace(RUNNING, exit=(127, 0)),
            Exit(127, "(container main) Error: a command was not found"),
        ),
        (
            replace(RUNNING, exit=(126, 0)),
            Exit(126, "(container main) Error: a command cannot be executed"),
        ),
        (
            replace(RUNNING, exit=(143, 0)),
            Exit(143, "(container main) killed by signal SIGTERM"),
        ),
        (replace(RUNNING, exit=(255, 0)), Exit(255, "(container main) Error")),
        (
            replace(RUNNING, exit=(137, 0), container_state=(137, True, False)),
            Exit(137, "(container main) OOMKilled"),
        ),
        (
            replace(RUNNING, exit=(1, 0), container_state=(127, False, False)),
            Exit(127, "(container main) Error: a command was not found"),
        ),
        (
            replace(RUNNING, exit=(1, 0), container_state=(0, False, True)),
            Exit(255, "(container main) the connection to the container engine was lost"),
        ),
        (
            replace(RUNNING, exit=(141, 1), stderr_lines=("cat: No space left on device",)),
            Exit(1, "(container log) the log could not be written: cat: No space left on device"),
        ),
        (
            replace(RUNNING, exit=(0, 137)),
            Exit(1, "(container log) the log could not be written: the copier was killed"),
        ),
        (
            replace(STARTED, exit=(1, 0), stderr_lines=("bwrap: Can't mkdir /usr/x",)),
            Exit(128, "(container main) StartError: bwrap: Can't mkdir /usr/x"),
        ),
        (
            replace(STARTED, output_not_empty="/out"),
            Exit(1, "(container init-main) the output /out is not empty"),
        ),
        (
            replace(STARTED, output_not_empty=""),
            Exit(1, "(container init-log) the log is not empty"),
        ),
        (
            replace(
                RUNNING,
                exit=(125, 0),
                container_state=(0, False, False),
                start_error="no such file",
            ),
            Exit(128, "(container main) StartError: no such file"),
        ),
        (
            replace(STARTED, create_error="invalid mount"),
            Exit(128, "(container main) CreateError: invalid mount"),
        ),
    ],
)
def test_an_end_has_a_code_and_names_its_container(reported: SupervisorState, exit: Exit) -> None:
    """Success is only what really succeeded, log included."""
    seen = observation_of(reported)
    assert seen.exit == exit
    assert seen.phase is (Phase.SUCCEEDED if exit == SUCCEEDED else Phase.FAILED)


@pytest.mark.parametrize(
    ("image", "digest"),
    [
        ("sha256:ab registry/name@sha256:cd", "sha256:cd"),
        ("sha256:ab name:v1@sha256:ef registry/name@sha256:cd name@sha256:ef", "sha256:ef"),
        ("sha256:ab", "id:sha256:ab"),
        ("ab", "id:sha256:ab"),
    ],
)
def test_the_digest_is_the_registrys_else_the_images_own(image: str, digest: str) -> None:
    """Engines print it with and without its algorithm."""
    assert observation_of(replace(RUNNING, image=image)).image_digest == digest


def test_a_child_that_was_killed_for_memory_is_noted() -> None:
    """The container itself ended well, as its engine reports it."""
    seen = observation_of(replace(RUNNING, exit=(0, 0), container_state=(0, True, False)))
    assert (seen.phase, seen.exit, seen.oom_killed) == (Phase.SUCCEEDED, SUCCEEDED, True)
    assert seen.notes == (oom_note(),)
