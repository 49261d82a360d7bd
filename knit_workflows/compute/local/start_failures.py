"""Why a container on this machine does not start, from what its engine has said; pure."""

from __future__ import annotations

import re
from typing import Final

from knit_workflows.compute.base import StartFailure, StartFailureKind
from knit_workflows.compute.local.pod_folder import Account
from knit_workflows.compute.pull_errors import classify_pull_error

BACKEND_AWAY: Final = "BackendUnavailable"
"""The same word as for an engine that does not answer the launch."""

_ENGINE_AWAY: Final = re.compile(
    r"cannot connect to|unable to connect to podman|error during connect"
    r"|trying to connect to the docker|dial unix|cannot access containerd socket"
    r"|failed to dial \"?/|^knit-supervisor: (?:line )?\d+: ",
    re.IGNORECASE,
)
"""Docker, podman and nerdctl without their daemon or the right to speak to it; and the shell's own
word for a command that is gone."""
_PODMAN_LOG: Final = re.compile(r'^time="[^"]*" level=\w+ msg="(.*)"$')
_RETRYING: Final = re.compile(r"^Failed, retrying in \S+ \.+ \(\d+/\d+\)\. Error: ")
"""Podman's own retries: a counter in front of the reason."""


def start_failure_of(account: Account) -> StartFailure | None:
    """Says what keeps a container from starting; None: nothing that is known."""
    if account.failure is not None:
        return _of_complaint(account.failure)
    if account.pulling is None or account.image is not None:
        return None
    if account.answered:
        return StartFailure(
            StartFailureKind.PROGRESS,
            "PullingImage",
            f"the image {account.pulling} is being pulled",
        )
    # Not one that is given up: engines differ in what they say of a pull that goes well.
    return StartFailure(
        StartFailureKind.BACKEND,
        "RegistrySilent",
        f"the image {account.pulling} has been asked for; neither the container engine nor the "
        "registry has answered yet",
    )


def _of_complaint(complaint: str) -> StartFailure:
    words = complaint
    if logged := _PODMAN_LOG.match(words):
        words = logged[1].replace('\\"', '"')
    words = _RETRYING.sub("", words)
    if _ENGINE_AWAY.search(words):
        return StartFailure(
            StartFailureKind.BACKEND, BACKEND_AWAY, f"the container engine does not answer: {words}"
        )
    kind, reason = classify_pull_error(words)
    return StartFailure(kind, reason, words)
