"""What workflow code may not do, read from its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import knit_workflows

WORKFLOWS = Path(knit_workflows.__file__).parent / "workflows"
MODULES = sorted(WORKFLOWS.glob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in [*MODULES, WORKFLOWS.parent / "workflow.py"]}
"""Parsed at collection: CPython 3.11 fails when two threads build syntax trees at once, and a
worker's sandbox of an earlier test may still be importing."""
IMPURE = {"time", "random", "uuid", "os", "socket", "secrets", "threading", "subprocess"}
LONG_LIVED = {
    "launch_run",
    "relaunch_run",
    "watch_run",
    "stop_run",
    "finalize_run",
    "drain_outbox",
    "await_run",
    "open_transfer",
    "close_transfer",
    "look_at_volumes",
    "try_plan",
    "take_backup",
}


def _calls(module: Path) -> Iterator[ast.Call]:
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Call):
            yield node


def _activity_calls() -> list[tuple[str, ast.Call]]:
    return [
        (f"{module.stem}:{call.lineno}", call)
        for module in TREES
        for call in _calls(module)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in {"execute_activity_method", "start_activity_method"}
    ]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_no_clock_no_chance_no_world(module: Path) -> None:
    """A workflow takes time and chance from Temporal, and the world through activities."""
    for node in ast.walk(TREES[module]):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not {name.split(".")[0] for name in names} & IMPURE
        if isinstance(node, ast.Attribute):
            assert node.attr not in {"now", "utcnow", "today", "environ"} or _is_temporal(node)


def _is_temporal(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "workflow"


@pytest.mark.parametrize(("place", "call"), _activity_calls(), ids=lambda value: str(value)[:20])
def test_every_activity_call_is_set_on_purpose(place: str, call: ast.Call) -> None:
    """Time-out, retries and a summary are given; what lasts long has a heartbeat."""
    given = {keyword.arg for keyword in call.keywords}
    assert {"start_to_close_timeout", "retry_policy", "summary", "task_queue"} <= given, place
    function = call.args[0]
    # One that is handed in may be any.
    if not isinstance(function, ast.Attribute) or function.attr in LONG_LIVED:
        assert "heartbeat_timeout" in given, place


def test_there_are_activity_calls() -> None:
    """The test above looks at something."""
    assert len(_activity_calls()) >= 8
