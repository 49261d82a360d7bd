"""What every message of knit has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """A frozen record; fields it does not know (sent by newer code) are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Nothing(Message):
    """An answer without content."""
