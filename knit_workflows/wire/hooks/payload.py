"""What a hook receives: the Run as the contract has it, and the transition."""

from __future__ import annotations

from typing import Final

from knit_workflows.domain.hooks import Transition
from knit_workflows.domain.runs.run import RunDetail
from knit_workflows.wire.base import Wire
from knit_workflows.wire.mapping import ToWire

_OF_THE_CONTRACT: Final = (
    "runId",
    "status",
    "updatedAt",
    "exit",
    "plan",
    "inputs",
    "outputs",
    "log",
)
"""Its keys, in its order; what else knit shows of a Run is not told to hooks."""


def hook_body(run: RunDetail, transition: Transition, attempt: int) -> Wire:
    """Gives the JSON object that a hook receives, as plain values.

    `status`, `updatedAt` and `exit` are those of `run`: for a Before hook as they are, for an After
    hook as the transition has left them. `attempt` counts the calls of this hook, from 1.
    """
    told = ToWire().run(run)
    return {
        **{name: told[name] for name in _OF_THE_CONTRACT if name in told},
        "transition": {
            "from": transition.source.value,
            "to": transition.target.value,
            "generation": transition.generation,
            "attempt": attempt,
        },
    }
