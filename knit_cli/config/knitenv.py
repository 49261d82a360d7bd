"""Project defaults in `knitenv`: tags for pushed Data, resources for new Plans."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from knit_cli.errors import BadInput
from knit_workflows.wire.tags import Tag


@dataclass(frozen=True)
class Environment:
    """Project defaults: tags in the order of the file, and resources by type."""

    tags: tuple[Tag, ...] = ()
    resources: dict[str, str] = field(default_factory=dict)


def load_environment(path: Path) -> Environment:
    """Reads the defaults in the file; a missing or unreadable file has none.

    Raises:
        BadInput: the file is not YAML, or a tag has no colon.
    """
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError:
        return Environment()
    except (yaml.YAMLError, ValueError, RecursionError) as cause:  # a date such as 2026-99-99
        raise BadInput(
            f"{path} is not valid YAML", reason=str(cause), advice="correct the file"
        ) from cause
    if content is None:
        return Environment()
    if not isinstance(content, dict):
        raise _broken(path, "it should be a mapping with `tag` and `resource`")
    return Environment(
        tags=_tags(path, content.get("tag") or []),
        resources=_resources(path, content.get("resource") or {}),
    )


def _tags(path: Path, value: Any) -> tuple[Tag, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _broken(path, '`tag` should be a list of texts such as "project:demo"')
    try:
        return tuple(Tag.parse(item) for item in value)
    except ValueError as cause:
        raise _broken(path, str(cause)) from cause


def _resources(path: Path, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _broken(path, "`resource` should map types such as cpu to quantities")
    return {str(name): str(quantity) for name, quantity in value.items()}


def _broken(path: Path, reason: str) -> BadInput:
    return BadInput(
        f"cannot use the project defaults in {path}",
        reason=reason,
        advice="correct the file, or name another one with --env",
    )
