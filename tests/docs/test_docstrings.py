"""One dialect: docstrings say in the indicative what a function does; help texts are imperative."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("knit_workflows", "knit_api", "knit_cli")
HELP_TEXTS: Final = ("knit_api/routes", "knit_cli/commands", "knit_cli/dev/app.py")
_VERBS: Final = """
Accept Add Admit Allow Answer Append Apply Ask Await Begin Bind Bring Build Call Cancel Carry
Change Check Clear Close Collect Commit Compare Compute Connect Convert Copy Count Create Cut
Decide Delete Deliver Describe Discard Do Download Drain Draw Drop Empty End Ensure Execute
Fetch Fill Finalize Find Follow Forget Forward Get Give Go Guard Hand Have Hear Hold Insert Keep
Kill Launch Leave Let Limit List Listen Load Lock Log Look Make Mark Measure Mend Migrate Move
Name Note Notice Open Parse Pause Prepare Print Project Pull Push Put Raise Read Reap Record
Refuse Register Release Remove Render Renew Replace Reserve Retry Return Run Say Search Send
Serve Set Show Signal Skip Start Stop Store Supervise Take Tell Terminate Translate Turn Undo
Unlock Unpack Unset Update Upgrade Upload Use Verify Wait Wake Walk Watch Write Yield
"""
IMPERATIVE: Final = frozenset(_VERBS.split())


def _docstrings(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.lineno, text


@pytest.mark.parametrize("package", PACKAGES)
def test_functions_are_described_in_the_indicative(package: str) -> None:
    """`Gives …`, not `Give …`: see docs/decisions/0014-rooms-and-words.md."""
    imperative = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in sorted((ROOT / package).rglob("*.py"))
        if not str(path.relative_to(ROOT)).startswith(HELP_TEXTS)
        for line, text in _docstrings(path)
        if text.split()[0].rstrip(",;:") in IMPERATIVE
    ]
    assert imperative == []
