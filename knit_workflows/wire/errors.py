"""The body of every error response."""

from __future__ import annotations

from pydantic import Field

from knit_workflows.wire.base import Response, is_empty


class ErrorDetail(Response):
    """What went wrong, what to do about it, and where to look (a URL, or the id of a thing)."""

    reason: str
    advice: str | None = Field(default=None, exclude_if=is_empty)
    see: str | None = Field(default=None, exclude_if=is_empty)


class ErrorBody(Response):
    """The declared shape: `{"message": {"reason", "advice", "see"}}`."""

    message: ErrorDetail
