"""What the page on Plans shows is what knit does."""

from __future__ import annotations

import json
from pathlib import Path

from knit_cli.invocation import Surroundings
from knit_cli.main import run
from knit_workflows.wire.plans import PlanPreview
from tests.docs.blocks import blocks

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "plans.md"


def test_the_plan_in_the_page_is_valid(tmp_path: Path) -> None:
    [document] = blocks(PAGE, "yaml")
    (tmp_path / "train.yaml").write_text(document)
    assert run(["plan", "validate", "train.yaml"], Surroundings(tmp_path)) == 0


def test_the_answer_of_a_dry_run_has_the_shape_that_the_page_shows() -> None:
    [answer] = blocks(PAGE, "json")
    shown = PlanPreview.model_validate_json(answer)
    assert shown.model_dump(mode="json") == json.loads(answer)


def test_the_editor_finds_the_schema_that_the_page_writes(tmp_path: Path) -> None:
    """The first line of a Plan names the file into which the schema is put."""
    [document] = blocks(PAGE, "yaml")
    name = document.splitlines()[0].partition("$schema=")[2]
    assert any(f"knit plan schema > {name}" in block for block in blocks(PAGE, "sh"))
