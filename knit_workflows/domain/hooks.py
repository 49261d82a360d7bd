"""Lifecycle hooks: URLs that are told of the transitions of Runs, and may hold them up.

Before hooks are asked one after the other; a transition is made once all of them agree, so each is
called at least once. After hooks are told once the transition is made, each at most once.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from knit_workflows.domain.cursors import Cursor
from knit_workflows.domain.ids import RunId
from knit_workflows.domain.runs.run import RunStatus

_DELIVERIES: Final = uuid.UUID("5a3c7c5e-5d3f-4c0e-9a38-2f3d1f6f0b52")
"""Namespace of the ids of deliveries."""
FOLLOWS_FOR: Final = timedelta(minutes=1)
"""For how long a worker that was seen to follow a hooks file counts as one that does."""
_SHOWN: Final = 5
"""Workers that are named in one sentence."""
LONGEST_PAUSE: Final = timedelta(seconds=60)
"""A Before hook that has failed is asked again after this time at most."""
MAX_ANSWER: Final = 500
"""Characters of an answer that are kept."""


class HookPhase(StrEnum):
    """Whether a hook is called before or after the transition."""

    BEFORE = "before"
    AFTER = "after"


class DeliveryState(StrEnum):
    """How far a delivery is; one that stays `CALLING` was interrupted, its fate is unknown."""

    CALLING = "calling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks in force: URLs in the order in which they are called, each once in a list."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.before or self.after)

    @property
    def before_digest(self) -> str:
        """Stands for the Before hooks, to see whether others are in force by now; empty: none."""
        text = "\n".join(self.before)
        return hashlib.sha256(text.encode()).hexdigest() if text else ""


@dataclass(frozen=True, slots=True)
class HooksSource:
    """Where hooks come from: a worker (its identity in Temporal) and the hooks file it follows.

    `digest` is the SHA-256 of the content in hex; empty if the file is refused.
    """

    worker: str
    file: str
    digest: str

    def __str__(self) -> str:
        return f"{self.worker} ({self.file}, {self.digest[:12] or 'refused'})"


@dataclass(frozen=True, slots=True)
class HooksFollower:
    """A worker that follows a hooks file; `problem` says why the file is refused, if it is.

    `since` is when the worker first found the file so, `seen_at` when it last said so.
    """

    source: HooksSource
    problem: str
    since: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class HooksInForce:
    """The hooks in force, since when and by whom, and the workers that follow a hooks file now."""

    hooks: Hooks
    changed_at: datetime
    source: HooksSource | None = None
    followers: tuple[HooksFollower, ...] = ()

    @property
    def problem(self) -> str:
        """Says which files are refused, or that they differ; empty if all is well."""
        refused = [one for one in self.followers if one.problem]
        if refused:
            return "; ".join(dict.fromkeys(_refusal(one, self.followers) for one in refused))
        if len({one.source.digest for one in self.followers}) <= 1:
            return ""
        shown = ", ".join(str(one.source) for one in self.followers[:_SHOWN])
        more = f" and {len(self.followers) - _SHOWN} more" if len(self.followers) > _SHOWN else ""
        source = "" if self.source is None else f": that of {self.source.worker}"
        return (
            f"workers follow different hooks files, {shown}{more}; what changed last is in force"
            f"{source}; give all of them the same file"
        )


def _refusal(one: HooksFollower, followers: Sequence[HooksFollower]) -> str:
    """Says why a file is refused; and where, if not everywhere."""
    everywhere = all(other.problem == one.problem for other in followers)
    return one.problem if everywhere else f"{one.source.worker}: {one.problem}"


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of the status of one generation of a Run."""

    run_id: RunId
    generation: int
    source: RunStatus
    target: RunStatus

    def delivery_id(self, phase: HookPhase, url: str) -> str:
        """Gives the id of the delivery to a hook: a UUID, the same for every attempt."""
        name = f"{self.run_id}/{self.generation}/{self.source}/{self.target}/{phase}/{url}"
        return str(uuid.uuid5(_DELIVERIES, name))


@dataclass(frozen=True, slots=True)
class HookAnswer:
    """What became of one call.

    `text` is the beginning of the answer, or why there is none, for people. `environment` is what
    the hook wants in the container's environment; only asked for before a Run starts.
    `retry_after` is how long it wants to be left alone.
    """

    succeeded: bool
    text: str
    duration: timedelta
    status_code: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    retry_after: timedelta = timedelta()

    def pause(self, at_least: timedelta) -> timedelta:
        """Gives how long to wait until the hook is asked again."""
        return max(at_least, min(self.retry_after, LONGEST_PAUSE))

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", self.text.replace("\0", " ")[:MAX_ANSWER])


@dataclass(frozen=True, slots=True)
class HookDelivery:
    """The calls of one hook for one transition: how many were begun, and what the last one gave.

    `status_code`, `answer` and `duration` are those of the last call that has ended; `next_at` is
    when a failed Before hook is asked again.
    """

    delivery_id: str
    transition: Transition
    phase: HookPhase
    url: str
    attempts: int
    state: DeliveryState
    created_at: datetime
    called_at: datetime
    status_code: int | None = None
    answer: str = ""
    duration: timedelta | None = None
    next_at: datetime | None = None
    skipped_by: str = ""
    skip_reason: str = ""

    @property
    def cursor(self) -> str:
        """Where the page of a list that follows this delivery begins."""
        return str(Cursor(self.delivery_id, self.called_at))


@dataclass(frozen=True, slots=True)
class DeliveryQuery:
    """The filter of `hook deliveries`; `failed` selects those without a success or a skip."""

    run_id: RunId | None = None
    failed: bool = False
    since: datetime | None = None
