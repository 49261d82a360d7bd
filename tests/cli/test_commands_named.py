"""Commands that messages and docstrings name are commands that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pytest
from typer.main import get_command

from knit_cli.main import app

ROOT: Final = Path(__file__).parents[2]
NAMED: Final = re.compile(r"\bknit (data|plan|run|hook|dev|admin) ([a-z][a-z-]*)")
SOURCES: Final = sorted(
    path
    for package in ("knit_api", "knit_cli", "knit_workflows")
    for path in (ROOT / package).rglob("*")
    if path.suffix in (".py", ".go", ".sql")
)


def commands(group: str) -> set[str]:
    top: Any = get_command(app)
    context = top.make_context("knit", [group], resilient_parsing=True)
    _, found, _ = top.resolve_command(context, [group])
    return set(found.list_commands(context))


@pytest.mark.parametrize("group", ["data", "plan", "run", "hook", "dev", "admin"])
def test_each_command_that_is_named_exists(group: str) -> None:
    named = {
        (word, str(path.relative_to(ROOT)))
        for path in SOURCES
        for noun, word in NAMED.findall(path.read_text("utf-8"))
        if noun == group
    }
    assert named
    known = commands(group)
    assert sorted((word, path) for word, path in named if word not in known) == []
