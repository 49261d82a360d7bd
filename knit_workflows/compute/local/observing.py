"""Turns what a supervisor has reported into an observation; pure."""

from __future__ import annotations

import signal
from typing import Final

from knit_workflows.compute.base import Observation, Phase, oom_note
from knit_workflows.compute.image_that_ran import image_that_ran
from knit_workflows.compute.local.pod_folder import SupervisorState
from knit_workflows.compute.local.start_failures import start_failure_of
from knit_workflows.domain.runs.milestones import Milestone, Timeline
from knit_workflows.domain.runs.run import SUCCEEDED, Exit

START_ERROR: Final = 128
"""Exit code of a container that could not be started, as on Kubernetes."""
_NO_PERMISSION: Final = 126
_NOT_FOUND: Final = 127


def observation_of(reported: SupervisorState, image: str = "") -> Observation:
    """Observes a pod of that image that is neither lost nor being stopped."""
    digest = _image_that_ran(reported.image, image) if reported.image else None
    if reported.ended:
        exit = _exit(reported)
        phase = Phase.SUCCEEDED if exit == SUCCEEDED else Phase.FAILED
        oom_killed = phase is Phase.SUCCEEDED and _is_oom_killed(reported)
        return Observation(
            phase,
            exit=exit,
            image_digest=digest,
            timeline=_timeline(reported),
            notes=(oom_note(),) if oom_killed else (),
            oom_killed=oom_killed,
        )
    if reported.running:
        return Observation(Phase.RUNNING, image_digest=digest)
    return Observation(Phase.PENDING, start_failure=start_failure_of(reported), image_digest=digest)


def _timeline(reported: SupervisorState) -> Timeline:
    if reported.ended_at is None:
        return {}
    return {Milestone.ENDED: reported.ended_at, Milestone.LOGGED: reported.ended_at}


def _exit(reported: SupervisorState) -> Exit:
    if reported.output_not_empty is not None:
        if not reported.output_not_empty:
            return Exit(1, "(container init-log) the log is not empty")
        return Exit(1, f"(container init-main) the output {reported.output_not_empty} is not empty")
    if reported.create_error is not None:
        return Exit(START_ERROR, f"(container main) CreateError: {reported.create_error}")
    if reported.start_error is not None:
        return Exit(START_ERROR, f"(container main) StartError: {reported.start_error}")
    assert reported.exit is not None
    code, copied = reported.exit
    if not reported.running:
        return Exit(START_ERROR, f"(container main) StartError: {'; '.join(reported.stderr_lines)}")
    if copied != 0:
        # Without the copier the container died of SIGPIPE, or went on without a log.
        failed = code if code not in (0, 128 + signal.SIGPIPE) else 1
        why = "; ".join(reported.stderr_lines) or "the copier was killed"
        return Exit(failed, f"(container log) the log could not be written: {why}")
    if reported.container_state is not None:
        engine_code, oom_killed, still_running = reported.container_state
        if still_running:
            return Exit(255, "(container main) the connection to the container engine was lost")
        code = engine_code or code
        if oom_killed and code:
            return Exit(code, "(container main) OOMKilled")
    return Exit(code, _sentence(code)) if code else SUCCEEDED


def _is_oom_killed(reported: SupervisorState) -> bool:
    return reported.container_state is not None and reported.container_state[1]


def _sentence(code: int) -> str:
    if code == _NOT_FOUND:
        return "(container main) Error: a command was not found"
    if code == _NO_PERMISSION:
        return "(container main) Error: a command cannot be executed"
    with_number = code - 128
    if with_number in signal.valid_signals():
        return f"(container main) killed by signal {signal.Signals(with_number).name}"
    return "(container main) Error"


def _image_that_ran(reported: str, image: str) -> str | None:
    own, *in_registries = reported.split()
    return image_that_ran(in_registries, own if ":" in own else f"sha256:{own}", image)
