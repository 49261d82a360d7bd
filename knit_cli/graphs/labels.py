"""How Data, Plans and times are labelled, the same in every format."""

from __future__ import annotations

from knit_workflows.domain.instants import format_instant, parse_instant
from knit_workflows.domain.tags import KEY_TIMESTAMP, KEY_TRANSIENT, SYSTEM_PREFIX
from knit_workflows.wire.data import Data
from knit_workflows.wire.plans import PlanSummary
from knit_workflows.wire.tags import Tag


def plan_label(plan: PlanSummary) -> str:
    """Gives `image = repository:tag`, or the name of a built-in Plan."""
    return f"image = {plan.image}" if plan.image is not None else plan.name or plan.plan_id


def local_time(text: str) -> str:
    """Converts a time to the local time zone; anything else is returned unchanged."""
    try:
        return format_instant(parse_instant(text).astimezone())
    except (ValueError, OverflowError):
        return text


def user_tags(data: Data) -> list[Tag]:
    """Gives the tags users put on a Data, in their order."""
    return [tag for tag in data.tags if not tag.key.startswith(SYSTEM_PREFIX)]


def state_labels(data: Data) -> list[str]:
    """Gives the local time at which a Data was finished, and its transient tag, if any."""
    labels = [local_time(tag.value) for tag in data.tags if tag.key == KEY_TIMESTAMP]
    return labels + [str(tag) for tag in data.tags if tag.key == KEY_TRANSIENT]
