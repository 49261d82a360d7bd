"""The programs in the how-to pages are programs, and do what the pages say."""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from knit_workflows.embedded import EmbeddedPostgres
from tests.docs.blocks import blocks

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


BLOCKS = [
    pytest.param(ast.parse(block), id=f"{page.stem}-{number}")
    for page in sorted(HOW_TO.glob("*.md"))
    for number, block in enumerate(blocks(page, "python"))
]
"""Parsed at collection: CPython 3.11 fails when two threads build syntax trees at once."""


@pytest.fixture(autouse=True)
def example(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages import the workflow of `examples/own_worker` as their own."""
    monkeypatch.syspath_prepend(ROOT / "examples" / "own_worker")


@pytest.mark.parametrize("block", BLOCKS)
def test_every_python_block_is_python(block: ast.Module) -> None:
    """It compiles, and what it imports exists."""
    assert compile(block, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    imports: list[ast.stmt] = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "page", "exec"), {})


@pytest.mark.patient
@pytest.mark.parametrize("number", [0, 1])
async def test_the_tests_in_the_page_pass(number: int) -> None:
    block = blocks(HOW_TO / "test-your-workflow.md", "python")[number]
    scope: dict[str, object] = {}
    exec(compile(block, "test-your-workflow.md", "exec"), scope)
    tests: list[Callable[[], Awaitable[None]]] = [
        value
        for name, value in scope.items()
        if name.startswith("test_") and inspect.iscoroutinefunction(value)
    ]
    assert tests
    for test in tests:
        await test()


def test_the_namespace_prerequisites_are_what_the_page_pipes_into_kubectl() -> None:
    [block] = [b for b in blocks(HOW_TO / "kubernetes.md", "sh") if "kubectl apply" in b]
    lines = [line for line in block.splitlines() if "create namespace" not in line]
    listed = json.loads(_run("\n".join(lines).replace("| kubectl apply -f -", "")))
    kinds = [item["kind"] for item in listed["items"]]
    of_an_account = ["ServiceAccount", "Role", "RoleBinding"]
    assert kinds == [*of_an_account, *of_an_account]
    assert {item["metadata"]["namespace"] for item in listed["items"]} == {"knit"}


@pytest.mark.patient
async def test_the_migration_in_the_page_makes_the_tables(postgres: EmbeddedPostgres) -> None:
    [block] = [b for b in blocks(HOW_TO / "kubernetes.md", "sh") if "knit_workflows.store" in b]
    url = postgres.url("docs_migration")
    lines = [line for line in block.splitlines() if "KNIT_STORE__URL=" not in line]
    for _ in range(2):  # a second call changes nothing
        _run("\n".join(lines), KNIT_STORE__URL=url)
    async with await AsyncConnection.connect(url) as connection:
        found = await connection.execute("select count(*) from plan")
        [count] = await found.fetchone() or [0]
    assert count >= 2, "the built-in Plans are there"


def _run(script: str, **environment: str) -> str:
    done = subprocess.run(
        ["bash", "-euc", script],
        env={**os.environ, "PATH": PATH, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
