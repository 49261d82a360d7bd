"""Draws trees of text on a terminal in few columns, however deep they are.

A node's largest subtree continues below it in the same column; only the smaller ones are indented.
So a node is indented at most as often as the tree can be halved: never in a chain, thirteen times
among ten thousand nodes.

```
Data 3
│ Run c
├── also made Data 4
│ Data 2
├── Run b
│   └── Data 1
│ Run a
└── Data 0
```
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from knit_cli.errors import printable

_MIN_COLUMNS = 40  # columns of text, even on a narrower terminal
_HANGING = "  "  # before the second line of a node


@dataclass(eq=False)
class TreeNode:
    """A line of text and the nodes below it; among subtrees of equal size the order is kept."""

    text: Text
    below: list[TreeNode] = field(default_factory=list)

    def add(self, text: Text) -> TreeNode:
        """Adds a node below this one, and returns it."""
        added = TreeNode(text)
        self.below.append(added)
        return added


@dataclass(frozen=True)
class _Guides:
    """The line art before a node."""

    smaller: str
    last: str
    continues: str
    rail: str


_LINES = _Guides(smaller="├── ", last="└── ", continues="│ ", rail="│   ")
_ASCII = _Guides(smaller="|-- ", last="`-- ", continues="| ", rail="|   ")


def draw(root: TreeNode, console: Console) -> None:
    """Prints the tree; text that does not fit is wrapped, never cut off."""
    drawing = _Drawing(root, _ASCII if console.options.ascii_only else _LINES)
    for first, further, text in drawing.lines(root, "", ""):
        text.plain = printable(text.plain)
        width = max(console.width - len(first), _MIN_COLUMNS)
        for number, line in enumerate(text.wrap(console, width)):
            guides = further if number else first
            # Soft wrap: the terminal breaks lines wider than itself instead of losing text.
            console.print(Text(guides, style="dim").append_text(line), soft_wrap=True)


class _Drawing:
    """Lays out one tree by the sizes of its subtrees."""

    def __init__(self, root: TreeNode, guides: _Guides) -> None:
        self._guides = guides
        self._sizes = _sizes(root)

    def lines(self, top: TreeNode, lead: str, rail: str) -> Iterator[tuple[str, str, Text]]:
        """Gives for each node the prefix of its first line, of its further lines, and its text.

        Args:
            top: the first node of a column.
            lead: the prefix of its first line.
            rail: the prefix of everything below it.
        """
        node: TreeNode | None = top
        while node is not None:
            *smaller, largest = self._in_order(node) or [None]
            beside = self._guides.continues if largest else _HANGING
            if node is not top:
                lead = rail + (beside if largest else self._guides.last)
                beside = beside.ljust(len(lead) - len(rail)) + _HANGING
            yield lead, rail + beside, node.text
            for one in smaller:
                assert one is not None
                yield from self.lines(one, rail + self._guides.smaller, rail + self._guides.rail)
            node = largest

    def _in_order(self, branch: TreeNode) -> list[TreeNode | None]:
        """Gives the nodes below, the largest subtree last."""
        if not branch.below:
            return []
        largest = max(reversed(branch.below), key=lambda one: self._sizes[id(one)])
        return [*(one for one in branch.below if one is not largest), largest]


def _sizes(root: TreeNode) -> dict[int, int]:
    """Counts the nodes of each subtree, without recursion: a chain may have thousands of nodes."""
    found = [root]
    for one in found:
        found += one.below
    sizes: dict[int, int] = {}
    for one in reversed(found):
        sizes[id(one)] = 1 + sum(sizes[id(child)] for child in one.below)
    return sizes
