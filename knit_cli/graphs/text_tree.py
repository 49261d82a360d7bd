"""Draws trees of words on a terminal, however deep they are, in few columns.

What goes on from a thing stands below it, in the same column; only what else belongs to it is
indented. Of several ways on the largest keeps the column, so that a thing is indented at most as
often as the tree can be halved: a chain not at all, ten thousand things thirteen times.

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

_MIN_COLUMNS = 40  # columns of words, also on a terminal that has fewer
_HANGING = "  "  # before the second line of one thing


@dataclass(eq=False)
class TreeNode:
    """One thing, in words, and what belongs below it, in that order where sizes are the same."""

    words: Text
    below: list[TreeNode] = field(default_factory=list)

    def add(self, words: Text) -> TreeNode:
        """Puts a thing below this one; gives it."""
        added = TreeNode(words)
        self.below.append(added)
        return added


@dataclass(frozen=True)
class _Guides:
    """What is drawn before a thing."""

    aside: str
    last: str
    goes_on: str
    rail: str


_LINES = _Guides(aside="├── ", last="└── ", goes_on="│ ", rail="│   ")
_ASCII = _Guides(aside="|-- ", last="`-- ", goes_on="| ", rail="|   ")


def draw(root: TreeNode, console: Console) -> None:
    """Prints the tree. Nothing is cut off: words that do not fit go on in the next line."""
    drawing = _Drawing(root, _ASCII if console.options.ascii_only else _LINES)
    for first, further, words in drawing.lines(root, "", ""):
        width = max(console.width - len(first), _MIN_COLUMNS)
        for number, line in enumerate(words.wrap(console, width)):
            guides = further if number else first
            # As it is: the terminal breaks what is wider than itself, and leaves nothing out.
            console.print(Text(guides, style="dim").append_text(line), soft_wrap=True)


class _Drawing:
    """Knows how much hangs on each thing of one tree."""

    def __init__(self, root: TreeNode, guides: _Guides) -> None:
        self._guides = guides
        self._sizes = _sizes(root)

    def lines(self, top: TreeNode, lead: str, rail: str) -> Iterator[tuple[str, str, Text]]:
        """Gives what is before the first and before each further line of a thing, and its words.

        Args:
            top: the first of a column.
            lead: is before its first line.
            rail: is before all that is below it.
        """
        now: TreeNode | None = top
        while now is not None:
            *aside, ahead = self._in_order(now) or [None]
            beside = self._guides.goes_on if ahead else _HANGING
            if now is not top:
                lead = rail + (beside if ahead else self._guides.last)
                beside = beside.ljust(len(lead) - len(rail)) + _HANGING
            yield lead, rail + beside, now.words
            for one in aside:
                assert one is not None
                yield from self.lines(one, rail + self._guides.aside, rail + self._guides.rail)
            now = ahead

    def _in_order(self, branch: TreeNode) -> list[TreeNode | None]:
        """Gives what is below, the largest last."""
        if not branch.below:
            return []
        ahead = max(reversed(branch.below), key=lambda one: self._sizes[id(one)])
        return [*(one for one in branch.below if one is not ahead), ahead]


def _sizes(root: TreeNode) -> dict[int, int]:
    """Gives how many things each one is, with all below it.

    The work is kept in a list, not in calls: a chain of a thousand Runs is no reason to fail.
    """
    found = [root]
    for one in found:
        found += one.below
    sizes: dict[int, int] = {}
    for one in reversed(found):
        sizes[id(one)] = 1 + sum(sizes[id(child)] for child in one.below)
    return sizes
