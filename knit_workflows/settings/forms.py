"""What groups of settings are made of."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from knit_workflows.domain.errors import InvalidQuantity
from knit_workflows.domain.quantities import canonical_quantity

Span = Annotated[timedelta, Field(gt=timedelta())]
Grace = Annotated[timedelta, Field(ge=timedelta())]


class Group(BaseModel):
    """A group of settings; a variable with its prefix that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def checked_quantity(text: str) -> str:
    """Gives a quantity of Kubernetes as it is written; raises ValueError if it is none."""
    try:
        canonical_quantity(text)
    except InvalidQuantity as cause:
        raise ValueError(cause.reason) from cause
    return text
