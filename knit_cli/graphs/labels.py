"""How Data, Plans and Runs are named to people, the same in every picture."""

from __future__ import annotations

from knit_cli.tag_flags import SYSTEM_PREFIX, TIMESTAMP, TRANSIENT
from knit_workflows.wire.data import Data
from knit_workflows.wire.plans import PlanSummary
from knit_workflows.wire.tags import Tag
from knit_workflows.wire.times import format_time, parse_time


def plan_label(plan: PlanSummary) -> str:
    """Gives `image = repository:tag`, or the name of a built-in Plan."""
    return f"image = {plan.image}" if plan.image is not None else plan.name or plan.plan_id


def local_time(text: str) -> str:
    """Gives a wire time in the machine's zone; what is no time stays as it is."""
    try:
        return format_time(parse_time(text).astimezone())
    except (ValueError, OverflowError):
        return text


def user_tags(data: Data) -> list[Tag]:
    """Gives the tags people put on a Data, in their order."""
    return [tag for tag in data.tags if not tag.key.startswith(SYSTEM_PREFIX)]


def state_labels(data: Data) -> list[str]:
    """Gives when a Data was finished, in local time, and whether it is processing or failed."""
    words = [local_time(tag.value) for tag in data.tags if tag.key == TIMESTAMP]
    return words + [str(tag) for tag in data.tags if tag.key == TRANSIENT]
