"""The tables of values in the READMEs of `charts/`, from the comments of each `values.yaml`.

A value is described by the comment right above it, which begins with `# -- `; a described mapping
is one row, with all that is in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from knit_workflows.compute.kubernetes.specs.rights import RULES

CHARTS: Final = Path(__file__).parents[1] / "charts"
BEGIN: Final = "<!-- values: written by tools/reference.py from values.yaml; run `make docs` -->"
END: Final = "<!-- end of values -->"
_KEY: Final = re.compile(r"( *)([\w-]+):")
_COMMENT: Final = re.compile(r" *# ?(.*)")


class ValueUndescribed(LookupError):
    """A value has no comment, or a README no place for the table."""


def rights() -> dict[Path, str]:
    """Gives the file from which the chart of knit makes its Roles: per account its rules."""
    rules = {account: list(found) for account, found in RULES.items()}
    return {CHARTS / "knit-app" / "files" / "rights.json": json.dumps(rules, indent=2) + "\n"}


def readmes() -> dict[Path, str]:
    """Gives the README of each chart as it should be."""
    files = sorted(CHARTS.glob("*/values.yaml"))
    return {file.with_name("README.md"): _readme(file) for file in files}


def value_rows(text: str) -> list[tuple[str, str, str]]:
    """Gives (path, default, description) of each value of a `values.yaml`, in its order."""
    content = yaml.safe_load(text)
    rows = [
        (path, _default(_at(content, path)), " ".join(words)) for path, words in _described(text)
    ]
    paths = [path for path, _, _ in rows]
    for leaf in _leaves("", content):
        if not any(leaf == path or leaf.startswith(f"{path}.") for path in paths):
            raise ValueUndescribed(f"{leaf}: describe it by a comment above it: `# -- …`")
    return rows


def _readme(file: Path) -> str:
    place = file.with_name("README.md")
    text = place.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueUndescribed(f"{place}: it needs the lines {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    lines = ["| value | default | |", "| --- | --- | --- |"]
    for path, default, words in value_rows(file.read_text(encoding="utf-8")):
        told = words.replace("|", "\\|")
        lines.append(f"| `{path}` | {default} | {told} |")
    return "\n".join([before + BEGIN, "", *lines, "", END + rest.partition(END)[2]])


def _described(text: str) -> Iterator[tuple[str, list[str]]]:
    """Gives each path that has a description, with the lines of that."""
    above: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        if found := _COMMENT.fullmatch(line):
            comment.append(found[1])
            continue
        if key := _KEY.match(line):
            indent = len(key[1])
            above = [one for one in above if one[0] < indent] + [(indent, key[2])]
            starts = [number for number, words in enumerate(comment) if words.startswith("-- ")]
            if starts:
                words = comment[starts[-1] :]
                yield ".".join(name for _, name in above), [words[0][3:], *words[1:]]
        comment = []


def _leaves(prefix: str, content: Any) -> Iterator[str]:
    if isinstance(content, Mapping) and content:
        for key, value in content.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else str(key), value)
    else:
        yield prefix


def _at(content: Any, path: str) -> Any:
    for key in path.split("."):
        content = content[key]
    return content


def _default(value: Any) -> str:
    return (
        "–"
        if value in ("", None)
        else f"`{json.dumps(value, ensure_ascii=False)}`".replace("|", "\\|")
    )
