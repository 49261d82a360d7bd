"""Reads manifests of volumes to adopt, in YAML or CSV; reports every fault with its line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from knit_cli.errors import BadInput
from knit_cli.os_failures import read_text
from knit_workflows import yaml_lines
from knit_workflows.domain.errors import InvalidTag
from knit_workflows.domain.tags import SYSTEM_PREFIX, checked_tag
from knit_workflows.wire.tags import Tag
from knit_workflows.yaml_lines import NotYaml, line_of

_VOLUME = ("volume", "path")
_TAGS = "tags"
_SEPARATOR = ";"
_NOTHING_DONE = "correct the file; nothing was adopted"


@dataclass(frozen=True, slots=True)
class Entry:
    """A volume to adopt; `place` is `FILE:LINE: `, empty for one from the command line."""

    volume: str
    tags: tuple[Tag, ...]
    place: str = ""


def read_manifest(path: Path, shown: str) -> list[Entry]:
    """Reads a manifest: YAML, or CSV if its name ends so.

    Args:
        path: the file.
        shown: the path as the user wrote it, for messages.

    Raises:
        BadInput: the file cannot be read, or has faults: the reason has a line for each.
    """
    text = read_text(path, shown, advice=_NOTHING_DONE)
    return _Manifest(shown).read(text, is_csv=path.suffix.lower() == ".csv")


class _Manifest:
    """One manifest, while it is read; faults are collected."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._faults: list[tuple[int, str]] = []
        self._lines: dict[str, int] = {}

    def read(self, text: str, *, is_csv: bool) -> list[Entry]:
        """Gives the entries in the order of the file; raises BadInput."""
        found = list(self._csv(text) if is_csv else self._yaml(text))
        if not found and not self._faults:
            self._fault(1, "there is no volume in it")
        if self._faults:
            faults = [f"{self._at(line)}{message}" for line, message in sorted(self._faults)]
            raise BadInput(
                f"cannot adopt from {self._shown}", reason="\n".join(faults), advice=_NOTHING_DONE
            )
        return found

    def _at(self, line: int) -> str:
        return f"{self._shown}:{line}: "

    def _fault(self, line: int, message: str) -> None:
        self._faults.append((line, message))

    def _entry(self, line: int, volume: str, tags: Sequence[tuple[int, str]]) -> Entry | None:
        volume = volume.strip()
        if not volume:
            self._fault(line, "the volume is missing")
            return None
        if volume in self._lines:
            self._fault(line, f"{volume} is in line {self._lines[volume]} already")
        self._lines.setdefault(volume, line)
        read = [self._tag(where, text) for where, text in tags]
        return Entry(volume, tuple(dict.fromkeys(filter(None, read))), self._at(line))

    def _tag(self, line: int, text: str) -> Tag | None:
        if not text:
            self._fault(line, "write each tag as key:value")
            return None
        try:
            tag = Tag.parse(text)
            checked_tag(tag.key, tag.value)
        except (ValueError, InvalidTag) as cause:
            self._fault(line, str(cause))
            return None
        if tag.key.startswith(SYSTEM_PREFIX):
            self._fault(line, f"{tag} is a system tag; only knit itself sets {SYSTEM_PREFIX}…")
            return None
        return tag

    # ------------------------------------------------------------ CSV

    def _csv(self, text: str) -> Iterator[Entry]:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        header: list[str] | None = None
        line = 1
        try:
            for cells in rows:
                if any(cell.strip() for cell in cells):
                    if header is None:
                        header = self._header(line, cells)
                    elif entry := self._row(line, header, cells):
                        yield entry
                line = rows.line_num + 1
        except csv.Error as cause:
            self._fault(line, f"this is not CSV: {cause}")

    def _header(self, line: int, cells: Sequence[str]) -> list[str]:
        header = [cell.strip() for cell in cells]
        named = [name for name in header if name in _VOLUME]
        if len(named) != 1:
            self._fault(line, "the first line must name the columns, one of them volume (or path)")
        for name in header:
            if not name or header.count(name) > 1:
                self._fault(line, f"the column {name!r} must have a name of its own")
        return header

    def _row(self, line: int, header: Sequence[str], cells: Sequence[str]) -> Entry | None:
        if len(cells) != len(header):
            self._fault(line, f"{len(cells)} cells, but the first line has {len(header)}")
            return None
        volume, tags = "", []
        for name, cell in zip(header, cells, strict=True):
            if name in _VOLUME:
                volume = cell
            elif name == _TAGS:
                tags += [(line, one) for one in cell.split(_SEPARATOR) if one.strip()]
            elif cell.strip():
                tags.append((line, f"{name}:{cell}"))
        return self._entry(line, volume, tags)

    # ------------------------------------------------------------ YAML

    def _yaml(self, text: str) -> Iterator[Entry]:
        try:
            document = yaml_lines.parse(text)
        except NotYaml as cause:
            self._fault(line_of(cause.mark), f"this is not YAML: {cause.problem}")
            return
        if document is None:
            return
        if not isinstance(document, SequenceNode):
            self._fault(1, "a manifest is a list: begin each volume with '- volume: '")
            return
        for node in document.value:
            if entry := self._item(node):
                yield entry

    def _item(self, node: Node) -> Entry | None:
        line = line_of(node)
        if not isinstance(node, MappingNode):
            self._fault(line, "write '- volume: NAME', and 'tags:' below it")
            return None
        volume, tags, named = "", [], 0
        for key, value in node.value:
            where = line_of(key)
            if key.value in _VOLUME and isinstance(value, ScalarNode):
                volume, named = value.value, named + 1
            elif key.value == _TAGS and isinstance(value, SequenceNode):
                tags += [self._yaml_tag(one) for one in value.value]
            elif key.value == _TAGS and isinstance(value, MappingNode):
                tags += [self._yaml_pair(name, one) for name, one in value.value]
            else:
                self._fault(where, f"{key.value!r} is not known here: volume, and a list of tags")
        if named > 1:
            self._fault(line, "it has more than one volume")
        return self._entry(line, volume, tags)

    def _yaml_tag(self, node: Node) -> tuple[int, str]:
        line = line_of(node)
        if isinstance(node, MappingNode) and len(node.value) == 1:
            return self._yaml_pair(*node.value[0])  # `- key: value`, with a blank
        return line, node.value if isinstance(node, ScalarNode) else ""

    def _yaml_pair(self, key: Node, value: Node) -> tuple[int, str]:
        line = line_of(key)
        if isinstance(key, ScalarNode) and isinstance(value, ScalarNode):
            return line, f"{key.value}:{value.value}"
        return line, ""
