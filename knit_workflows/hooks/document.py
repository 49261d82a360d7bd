"""Reads the YAML of a hooks file, and says what is wrong on which line."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from knit_workflows import yaml_lines
from knit_workflows.yaml_lines import NotYaml, is_null, line_of, text_of

_MAX_FAULTS: Final = 10
_MAX_WORDS: Final = 400
"""Characters of one fault. All of them are kept in the database, and shown by `/readyz`."""


class HooksRefused(Exception):
    """The hooks file cannot be used; the message says why and where."""


@dataclass
class Faults:
    """What is wrong in one file; `source` is how it is named."""

    source: str
    found: list[str] = field(default_factory=list)

    def add(self, node: Node, words: str) -> None:
        """Adds what is wrong at a node."""
        shown = words if len(words) <= _MAX_WORDS else f"{words[: _MAX_WORDS - 1]}…"
        self.found.append(f"line {line_of(node)}: {shown}")

    def raise_if_any(self) -> None:
        """Raises HooksRefused with what was found, or the first part of very much."""
        if self.found:
            rest = len(self.found) - _MAX_FAULTS
            more = [f"and {rest:,} more"] if rest > 0 else []
            raise HooksRefused(f"{self.source}, {'; '.join(self.found[:_MAX_FAULTS] + more)}")


def root_of(content: bytes, source: str) -> Node | None:
    """Parses one YAML document; None if it is empty.

    Raises:
        HooksRefused: it is not YAML, or not one document.
    """
    try:
        return yaml_lines.parse(content.decode("utf-8-sig"))
    except UnicodeDecodeError as cause:
        raise HooksRefused(f"{source} is not text in UTF-8: {cause}") from cause
    except NotYaml as cause:
        where = f", line {line_of(cause.mark)}" if cause.mark else ""
        raise HooksRefused(f"{source}{where} is not YAML: {cause.problem}") from cause


def entries(
    node: Node | None, place: str, known: Collection[str], faults: Faults
) -> dict[str, Node]:
    """Gives the entries of a mapping by key; none for an empty value.

    Faults are: another kind of node, a key that is not known, and one that stands there twice.
    """
    if node is None or is_null(node):
        return {}
    if not isinstance(node, MappingNode):
        faults.add(node, f"{place or 'the file'} is not a mapping with {' and '.join(known)}")
        return {}
    found: dict[str, Node] = {}
    for key, value in node.value:
        name = key.value if isinstance(key, ScalarNode) else ""
        if name not in known:
            words = f"{_key(place, name)} is not a key of a hooks file; {_near(name, known)}"
            faults.add(key, words)
        elif name in found:
            faults.add(key, f"{_key(place, name)} stands there twice")
        else:
            found[name] = value
    return found


def texts(node: Node | None, place: str, faults: Faults) -> Iterator[tuple[Node, str, str]]:
    """Gives the texts of a list, each with its node and its place; none for an empty value."""
    if node is None or is_null(node):
        return
    if not isinstance(node, SequenceNode):
        faults.add(node, f"{place} is not a list; begin each line of it with `- `")
        return
    for number, item in enumerate(node.value):
        here = f"{place}[{number}]"
        text = text_of(item)
        if text is None:
            faults.add(item, f"{here} is not a text")
        else:
            yield item, here, text


def _key(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name or "a list or mapping"


def _near(name: str, known: Collection[str]) -> str:
    if name == "hooks":  # the wrapper of Helm values
        return "put what is below it at the top"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0) if name else []
    return f"{near[0]} is the nearest" if near else f"use {' or '.join(known)}"
