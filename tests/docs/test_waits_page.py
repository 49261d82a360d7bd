"""The page for operators tells every reason that a pod may wait for, with its kind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from knit_workflows.compute.base import StartFailureKind
from knit_workflows.compute.kubernetes.pods.waits import CODES

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "why-a-run-waits.md"


def part_about(code: str) -> str:
    """The section that tells of a code."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    found = [section for section in sections if f"`{code}`" in section]
    assert found, f"{code} is not on the page"
    return found[0]


@pytest.mark.parametrize(("code", "kind"), sorted(CODES.items()))
def test_every_code_is_on_the_page_with_its_kind(code: str, kind: StartFailureKind) -> None:
    part = part_about(code)
    lines = [line for line in part.splitlines() if f"`{code}`" in line]
    told = lines if any(f"`{one}`" in lines[0] for one in StartFailureKind) else [part]
    assert any(f"`{kind}`" in text for text in told), (code, kind)


def test_every_kind_has_its_patience_on_the_page() -> None:
    text = PAGE.read_text().partition("\n## ")[0]
    for kind in StartFailureKind:
        assert f"`{kind}`" in text
