"""The page for operators tells every reason that knit can say of a Run on Kubernetes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from knit_workflows.activities.runs.pending_reasons import POD_NOT_GONE
from knit_workflows.compute.base import StartFailureKind
from knit_workflows.compute.kubernetes.pods.waits import CODES
from knit_workflows.domain.errors import BackendUnavailable
from knit_workflows.domain.runs.run import DISRUPTED, OUTPUTS_READ, WaitKind

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "how-to" / "why-a-run-waits.md"

REASONS: Final[Mapping[str, str]] = {
    **CODES,
    "FailedCreate": StartFailureKind.UNSCHEDULABLE,
    BackendUnavailable.__name__: WaitKind.BACKEND,
    DISRUPTED: WaitKind.PROGRESS,
    OUTPUTS_READ: WaitKind.PROGRESS,
    POD_NOT_GONE.code: POD_NOT_GONE.kind,
}
"""Every code that a Run can have on Kubernetes, and its kind; schedulers may have further ones."""


def sections() -> dict[str, str]:
    """The sections of the page by heading."""
    _, *parts = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    return dict(part.split("\n", 1) for part in parts)


def rows() -> dict[str, list[str]]:
    """The cells of the tables' rows, by the code in the first one."""
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and (code := re.match(r"`([A-Z]\w+)`", cells[0])):
            found[code[1]] = cells
    return found


def part_about(code: str) -> str:
    """The section that tells of a code."""
    found = [text for text in sections().values() if f"`{code}`" in text]
    assert found, f"{code} is not on the page"
    return found[0]


def codes_in_program() -> Iterator[tuple[str, str]]:
    """What the program itself calls a reason, with the file."""
    for file in (ROOT / "knit_workflows").rglob("*.py"):
        if "compute/local" in file.as_posix():
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Name) and called.id in ("StartFailure", "PendingReason"):
                assert isinstance(node, ast.Call)
                given = node.args[1] if len(node.args) > 1 else None
                if isinstance(given, ast.Constant) and given.value:
                    yield str(given.value), file.name


@pytest.mark.parametrize(("code", "kind"), sorted(REASONS.items()))
def test_every_reason_is_on_the_page_with_its_kind(code: str, kind: str) -> None:
    part = part_about(code)
    lines = [line for line in part.splitlines() if f"`{code}`" in line]
    told = lines if any(f"`{one}`" in lines[0] for one in StartFailureKind) else [part]
    assert any(f"`{kind}`" in text for text in told), (code, kind)


@pytest.mark.parametrize("code", sorted(REASONS.keys() - {"QuotaExceeded", "QuotaDemandsLimits"}))
def test_every_reason_has_a_meaning_a_check_and_what_is_printed(code: str) -> None:
    """Quotas have a section of their own."""
    cells = rows()[code]
    assert len(cells) >= 4
    assert all(cells), code


def test_every_section_has_a_command_and_what_it_prints() -> None:
    for heading, text in sections().items():
        if not heading.startswith("Pushes"):
            assert re.search(r"^\$ kubectl .+\n[^$`\n]", text, re.MULTILINE), heading


def test_the_page_invents_no_reason() -> None:
    assert rows().keys() <= REASONS.keys()


def test_the_program_has_no_reason_beside_its_tables() -> None:
    found = dict(codes_in_program())
    assert "PodNotGone" in found
    assert found.keys() <= REASONS.keys(), found


def test_what_is_said_without_a_code_is_on_the_page() -> None:
    """Of Runs about which nobody has reported anything."""
    queue = ast.parse((ROOT / "knit_workflows" / "store" / "runs" / "queue.py").read_text())
    texts = [node.value for node in ast.walk(queue) if isinstance(node, ast.Constant)]
    said = [text for text in texts if re.match("no worker|its (workflow|Plan) ", str(text))]
    assert len(said) >= 7, said
    for text in said:
        words = re.split("[:,]", str(text))[0]
        assert f"{words}`" in PAGE.read_text(), words


def test_every_kind_has_its_patience_on_the_page() -> None:
    text = PAGE.read_text().partition("\n## ")[0]
    for kind in StartFailureKind:
        assert f"`{kind}`" in text
