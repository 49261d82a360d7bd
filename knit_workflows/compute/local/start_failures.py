"""Why a container on this machine does not start, from the messages of its engine; pure."""

from __future__ import annotations

import re
from typing import Final

from knit_workflows.compute.base import StartFailure, StartFailureKind
from knit_workflows.compute.local.pod_folder import SupervisorState
from knit_workflows.compute.pull_errors import classify_pull_error

BACKEND_AWAY: Final = "BackendUnavailable"
"""The same code as for an engine that does not respond to a launch."""

_ENGINE_AWAY: Final = re.compile(
    r"cannot connect to|unable to connect to podman|error during connect"
    r"|trying to connect to the docker|dial unix|cannot access containerd socket"
    r"|failed to dial \"?/|^knit-supervisor: (?:line )?\d+: ",
    re.IGNORECASE,
)
"""Docker, podman and nerdctl without their daemon or the right to use it; and the shell's message
for a missing command."""
_PODMAN_LOG: Final = re.compile(r'^time="[^"]*" level=\w+ msg="(.*)"$')
_RETRYING: Final = re.compile(r"^Failed, retrying in \S+ \.+ \(\d+/\d+\)\. Error: ")
"""Podman's retries: a counter before the reason."""


def start_failure_of(reported: SupervisorState) -> StartFailure | None:
    """Says what keeps a container from starting; None if nothing is known to."""
    if reported.failure is not None:
        return _from_message(reported.failure)
    if reported.pulling is None or reported.image is not None:
        return None
    if reported.answered:
        return StartFailure(
            StartFailureKind.PROGRESS,
            "PullingImage",
            f"the image {reported.pulling} is being pulled",
        )
    # Without a deadline: engines differ in what they print during a pull that goes well.
    return StartFailure(
        StartFailureKind.BACKEND,
        "RegistrySilent",
        f"the image {reported.pulling} has been asked for; neither the container engine nor the "
        "registry has answered yet",
    )


def _from_message(message: str) -> StartFailure:
    if logged := _PODMAN_LOG.match(message):
        message = logged[1].replace('\\"', '"')
    message = _RETRYING.sub("", message)
    if _ENGINE_AWAY.search(message):
        return StartFailure(
            StartFailureKind.BACKEND,
            BACKEND_AWAY,
            f"the container engine does not answer: {message}",
        )
    kind, reason = classify_pull_error(message)
    return StartFailure(kind, reason, message)
