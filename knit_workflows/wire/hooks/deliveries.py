"""Lifecycle hooks as users see and steer them: which there are, and what became of their calls."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, StringConstraints, WithJsonSchema

from knit_workflows.domain.runs.run import USER
from knit_workflows.wire.base import Request, Response, is_empty, optional
from knit_workflows.wire.times import WireTime

MAX_REASON: Final = 500
MAX_NAME: Final = 100
MAX_URL: Final = 4096

_CONTROL: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
_LINE: Final = rf"^[^{_CONTROL}]*[^\s{_CONTROL}][^{_CONTROL}]*$"


def _line(most: int) -> tuple[object, ...]:
    def check(text: str) -> str:
        if not re.match(_LINE, text):
            raise ValueError("write one line that is not blank, without control characters")
        return text.strip()

    described = {"type": "string", "minLength": 1, "maxLength": most, "pattern": _LINE}
    return StringConstraints(max_length=most), AfterValidator(check), WithJsonSchema(described)


class HooksSource(Response):
    """The worker that has put hooks in force, from which file; `digest` is the file's SHA-256."""

    worker: str
    file: str
    digest: str


class HooksFollower(Response):
    """A worker that follows a hooks file, which it has found like that since `since`.

    `digest` is the file's SHA-256. If the file is refused, there is none, and `problem` says why.
    """

    worker: str
    file: str
    digest: str = Field(default="", exclude_if=is_empty)
    problem: str = Field(default="", exclude_if=is_empty)
    since: WireTime
    seen_at: WireTime


class Hooks(Response):
    """The URLs of the hooks in force, in the order in which they are called.

    They have been so since `changed_at`, and come from `source`, which is left out if no file was
    read. `followers` are the workers that follow a hooks file now. `problem` says which file is
    refused, or that workers follow different ones, and is left out if all is well.
    """

    before: list[str]
    after: list[str]
    changed_at: WireTime
    source: HooksSource | None = optional()
    followers: list[HooksFollower]
    problem: str = Field(default="", exclude_if=is_empty)


class HookDelivery(Response):
    """The calls of one hook for one change of a Run's status, `from` … `to`, in one `generation`.

    `phase` is before or after. `state` is calling, succeeded, failed or skipped; a call that stays
    calling was interrupted, and nobody knows whether the hook has heard of it. `attempts` counts
    the calls that were begun, the last at `called_at`. `status_code`, `duration_ms` and `answer`
    (its first 500 characters, or why there is none) are those of the last call that has ended.
    `next_at` is when a failed Before hook is called again. Who skipped it, and why, are in
    `skipped_by` and `skip_reason`. What is not known is left out.
    """

    id: str
    run_id: str
    generation: int
    from_status: str = Field(validation_alias="from", serialization_alias="from")
    to_status: str = Field(validation_alias="to", serialization_alias="to")
    phase: str
    url: str
    state: str
    attempts: int
    created_at: WireTime
    called_at: WireTime
    next_at: WireTime | None = optional()
    status_code: int | None = optional()
    duration_ms: int | None = optional()
    answer: str = Field(default="", exclude_if=is_empty)
    skipped_by: str = Field(default="", exclude_if=is_empty)
    skip_reason: str = Field(default="", exclude_if=is_empty)


class HookSkip(Request):
    """Why a Run may go on without a hook, and who says so: one line each."""

    reason: Annotated[str, *_line(MAX_REASON)]
    by: Annotated[str, *_line(MAX_NAME)] = USER


class HookTestRequest(Request):
    """Which hook gets the body of a sample Run: the URL of one that is in force."""

    url: Annotated[str, StringConstraints(max_length=MAX_URL)]


class HookTestAnswer(Response):
    """What a hook has answered to the body of a sample Run.

    `answer` is its first 500 characters, or why there is none. `environment` has the names of the
    variables that the hook wants in the container.
    """

    url: str
    succeeded: bool
    duration_ms: int
    status_code: int | None = optional()
    answer: str = Field(default="", exclude_if=is_empty)
    environment: list[str] = Field(default_factory=list)
