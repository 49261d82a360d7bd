"""The fenced blocks of a Markdown page."""

from __future__ import annotations

import re
from pathlib import Path

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """Gives the blocks of one language, in their order."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [text for kind, text in found if kind == language]


def commands(block: str) -> list[str]:
    """Gives the commands of a `console` block: what follows `$ `, here-documents with their lines.

    All other lines are what the commands print.
    """
    found: list[str] = []
    ending = ""
    for line in block.splitlines():
        if ending:
            found[-1] += f"\n{line}"
            ending = "" if line == ending else ending
        elif line.startswith("$ "):
            found.append(line.removeprefix("$ "))
            here = re.search(r"<<(\w+)$", line)
            ending = here[1] if here else ""
    return found
