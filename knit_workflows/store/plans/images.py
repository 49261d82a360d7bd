"""The image of a Plan, as its row has it."""

from __future__ import annotations

from typing import Any

from knit_workflows.domain.plans.model import Image


def image_of(row: Any) -> Image | None:
    """Reads `repository`, `image_tag` and `image_digest`; a built-in Plan has no image."""
    if row.repository is None:
        return None
    return Image(row.repository, row.image_tag, row.image_digest)
