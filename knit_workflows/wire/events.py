"""Wire types that knit adds to the contract: a Run's history, the process's health and version."""

from __future__ import annotations

from pydantic import Field

from knit_workflows.wire.base import Response, is_absent
from knit_workflows.wire.runs import Exit
from knit_workflows.wire.times import WireTime


class RunEvent(Response):
    """One change of a Run's status: when, in which execution, from what to what, and why.

    `from` is left out for the Run's creation. Where `from` and `to` are the same, the Run stays as
    it is for the reason that `cause` gives.
    """

    at: WireTime
    generation: int
    from_status: str | None = Field(
        default=None, validation_alias="from", serialization_alias="from", exclude_if=is_absent
    )
    to_status: str = Field(validation_alias="to", serialization_alias="to")
    cause: str
    exit: Exit | None = Field(default=None, exclude_if=is_absent)


class Health(Response):
    """How each part the API needs is: `ok`, or what is the matter."""

    parts: dict[str, str]


class Version(Response):
    """Which knit answers, and what a client cannot find out by trying.

    `upload_keys`: a key sent with an upload makes it one Data, however often it is sent.
    `sparse_files`: an archive that is sent may hold files with holes, in any of GNU tar's formats.
    """

    version: str
    upload_keys: bool = False  # what an older server means by not saying it
    sparse_files: bool = False
