"""The image of a Plan, or what stands for it, as its row has it."""

from __future__ import annotations

from typing import Any

from knit_workflows.domain.plans.model import Image


def image_of(row: Any) -> Image | None:
    """Reads `repository`, `image_tag` and `image_digest`; a built-in Plan has no image."""
    if row.repository is None:
        return None
    return Image(row.repository, row.image_tag, row.image_digest)


def plan_of(row: Any) -> str:
    """Says which Plan it is to people: its image, or the `name` of a built-in one."""
    return str(row.name or image_of(row))
