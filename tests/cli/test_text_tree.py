"""Trees of words, on terminals of every width."""

from __future__ import annotations

import io
import random

import pytest
from rich.console import Console
from rich.text import Text

from knit_cli.graphs.text_tree import TreeNode, draw


def drawn(root, columns, encoding="utf-8"):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    draw(root, Console(file=file, width=columns, highlight=False))
    file.flush()
    return raw.getvalue().decode(encoding).splitlines()


def chain(length, words="Run {0:036} done image = example/work:v1"):
    root = TreeNode(Text("start"))
    last = root
    for number in range(length):
        last = last.add(Text(words.format(number)))
    return root


def test_a_chain_of_700_is_readable_at_80_columns():
    lines = drawn(chain(700), 80)
    assert lines[0] == "start"
    assert lines[1] == f"│ Run {0:036} done image = example/work:v1"
    assert lines[-1] == f"└── Run {699:036} done image = example/work:v1"
    assert len(lines) == 701


@pytest.mark.parametrize("columns", [1, 2, 40, 60, 80])
def test_nothing_is_cut_off(columns):
    lines = drawn(chain(30, "Data {0:036} " + "project:a-rather-long-name " * 4), columns)
    words = " ".join(" ".join(lines).replace("│", " ").replace("└──", " ").split())
    for number in range(30):
        assert f"Data {number:036} " + ("project:a-rather-long-name " * 4).strip() in words


def test_words_that_do_not_fit_hang_beside_the_rail():
    root = TreeNode(Text("start"))
    root.add(Text("one " * 12))
    root.add(Text("two " * 12))
    lines = drawn(root, 44)
    assert lines[1].startswith("├── one") and lines[2].startswith("│     one")
    assert lines[3].startswith("└── two") and lines[4].startswith("      two")


def test_a_large_tree_stays_narrow():
    """Whatever its form: a thing is indented as often as the tree can be halved, at most."""
    dice = random.Random(8)
    nodes = [TreeNode(Text("0"))]
    for number in range(1, 1024):
        nodes.append(dice.choice(nodes[-9:]).add(Text(str(number))))
    lines = drawn(nodes[0], 400)
    assert len(lines) == len(nodes)
    assert {line.split()[-1] for line in lines} == {str(number) for number in range(1024)}
    assert max(line.count("│   ") for line in lines) <= 10


def test_a_terminal_that_knows_no_lines_gets_ascii():
    assert drawn(chain(2, "x"), 80, "ascii") == ["start", "| x", "`-- x"]
