"""The base of all messages."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """A frozen record; ignores unknown fields, which newer code may send."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Nothing(Message):
    """A message without content."""
