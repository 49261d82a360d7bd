"""Says what a pod's account means: its phase, its exit. Pure."""

from __future__ import annotations

import signal
from typing import Final

from knit_workflows.compute.base import Observation, Phase
from knit_workflows.compute.local.pod_folder import Account
from knit_workflows.compute.local.start_failures import start_failure_of
from knit_workflows.domain.runs import SUCCEEDED, Exit

START_ERROR: Final = 128
"""Exit code of a container that could not be started, as on Kubernetes."""
_NO_PERMISSION: Final = 126
_NOT_FOUND: Final = 127
_KILLED: Final = 128 + signal.SIGKILL


def observation_of(account: Account) -> Observation:
    """Says how a pod is that is not lost and not being stopped."""
    digest = _digest(account.image) if account.image else None
    if account.ended:
        exit = _exit(account)
        phase = Phase.SUCCEEDED if exit == SUCCEEDED else Phase.FAILED
        return Observation(phase, exit=exit, image_digest=digest, ended_at=account.ended_at)
    if account.running:
        return Observation(Phase.RUNNING, image_digest=digest)
    return Observation(Phase.PENDING, start_failure=start_failure_of(account), image_digest=digest)


def _exit(account: Account) -> Exit:
    if account.full_output is not None:
        if not account.full_output:
            return Exit(1, "(container init-log) the log is not empty")
        return Exit(1, f"(container init-main) the output {account.full_output} is not empty")
    if account.refusal is not None:
        return Exit(START_ERROR, f"(container main) CreateError: {account.refusal}")
    assert account.exit is not None
    code, copied = account.exit
    if not account.running:
        return Exit(START_ERROR, f"(container main) StartError: {'; '.join(account.complaints)}")
    if copied != 0:
        # Without its log's reader the container died of SIGPIPE, or went on without a log.
        failed = code if code not in (0, 128 + signal.SIGPIPE) else 1
        why = "; ".join(account.complaints) or "the copier was killed"
        return Exit(failed, f"(container log) the log could not be written: {why}")
    if account.facts is not None:
        told, out_of_memory, still_running = account.facts
        if still_running:
            return Exit(255, "(container main) the connection to the container engine was lost")
        if out_of_memory:
            return Exit(told or _KILLED, "(container main) OOMKilled")
        code = told or code
    return Exit(code, _sentence(code)) if code else SUCCEEDED


def _sentence(code: int) -> str:
    if code == _NOT_FOUND:
        return "(container main) Error: a command was not found"
    if code == _NO_PERMISSION:
        return "(container main) Error: a command cannot be executed"
    with_number = code - 128
    if with_number in signal.valid_signals():
        return f"(container main) killed by signal {signal.Signals(with_number).name}"
    return "(container main) Error"


def _digest(image: str) -> str | None:
    """Gives the digest in the registry, or the image's own id when it never was in one."""
    own, *in_registries = image.split()
    for reference in in_registries:
        _, at, digest = reference.partition("@")
        if at:
            return digest
    return own if ":" in own else f"sha256:{own}"
