"""Reads YAML with the place of each part.

Nothing is constructed, so tags have no effect. What a text means is for its readers to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Location: TypeAlias = "tuple[str | int, ...]"
"""The keys and indices that lead to a value; `()` is the whole document."""

_STRING: Final = "tag:yaml.org,2002:str"
_NULL: Final = "tag:yaml.org,2002:null"
# With anchors, a small file can expand to a huge or endless one.
_MAX_NODES: Final = 100_000
_MAX_DEPTH: Final = 20
_MERGING: Final = yaml.SafeLoader("")


class NotYaml(Exception):
    """A text is not one document of YAML; the message is one line."""

    def __init__(self, cause: yaml.YAMLError | RecursionError) -> None:
        too_deep = isinstance(cause, RecursionError)
        self.problem = "it is nested too deeply" if too_deep else " ".join(str(cause).split())
        """What is wrong, without the place."""
        super().__init__(self.problem)
        self.context = ""
        self.mark: yaml.Mark | None = None
        """Where it is wrong; None: nobody knows."""
        if isinstance(cause, yaml.MarkedYAMLError):
            self.problem = cause.problem or self.problem
            self.context = cause.context or ""
            self.mark = cause.problem_mark or cause.context_mark


class Unfit(Exception):
    """A document has no plain values: a part of it, at `location`, is in the way."""

    def __init__(self, words: str, location: Location, mark: yaml.Mark | None) -> None:
        super().__init__(words)
        self.location = location
        self.mark = mark


class RepeatedKey(Unfit):
    """A mapping has the last key of `location` twice."""


def parse(text: str) -> Node | None:
    """Parses one document; None if it is empty. Raises NotYaml."""
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as cause:
        raise NotYaml(cause) from cause


def line_of(part: Node | yaml.Mark | None) -> int:
    """Gives the line that something begins in, from 1 on; that is also where nothing is."""
    mark = part.start_mark if isinstance(part, Node) else part
    return mark.line + 1 if mark else 1


def is_null(node: Node | None) -> bool:
    """Says whether there is no value."""
    return node is None or node.tag == _NULL


def text_of(node: Node) -> str | None:
    """Gives the text of a node; None for anything else, such as a number."""
    return node.value if isinstance(node, ScalarNode) and node.tag == _STRING else None


def as_written(node: ScalarNode) -> object:
    """Gives a scalar as it is written (`3`, `1.10`, `yes`); None for no value."""
    return None if is_null(node) else node.value


def only_texts(node: ScalarNode) -> object:
    """Gives a text, None for no value, and what is neither of both as its node."""
    return node if text_of(node) is None and not is_null(node) else as_written(node)


class Document:
    """One document as dicts, lists and scalars, and the place of each of them."""

    def __init__(self, text: str, scalar: Callable[[ScalarNode], object] = as_written) -> None:
        """Reads it; an empty one is an empty mapping. Merges (`<<`) are done.

        Raises:
            NotYaml: it is not YAML.
            Unfit: a key is there twice or is no word, or there is too much in it.
        """
        self.marks: dict[Location, yaml.Mark] = {}
        self._scalar = scalar
        self._nodes = 0
        self._checked: set[int] = set()
        node = parse(text)
        try:
            self.content: Any = {} if node is None else self._value(node, ())
        except yaml.YAMLError as cause:  # a merge with what is no mapping
            raise NotYaml(cause) from cause

    def mark_of(self, location: Location) -> yaml.Mark | None:
        """Gives the place of a location, or of what it would be in."""
        while location not in self.marks and location:
            location = location[:-1]
        return self.marks.get(location)

    def _value(self, node: Node, location: Location) -> object:
        self._nodes += 1
        if self._nodes > _MAX_NODES or len(location) > _MAX_DEPTH:
            raise Unfit("this is too large or too deep", location[:1], self.mark_of(location[:1]))
        self.marks.setdefault(location, node.start_mark)
        if isinstance(node, MappingNode):
            return self._mapping(node, location)
        if isinstance(node, SequenceNode):
            return [self._value(item, (*location, i)) for i, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return self._scalar(node)

    def _mapping(self, node: MappingNode, location: Location) -> dict[str, object]:
        self._refuse_repeated_keys(node, location)
        _MERGING.flatten_mapping(node)  # `<<: *base`
        values: dict[str, object] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                raise Unfit("a key must be a word", location, key.start_mark)
            here = (*location, key.value)
            self.marks[here] = key.start_mark
            values[key.value] = self._value(value, here)
        return values

    def _refuse_repeated_keys(self, node: MappingNode, location: Location) -> None:
        # Check only what is written: after a merge, a node met again through an alias contains its
        # own keys and the merged ones.
        if id(node) in self._checked:
            return
        self._checked.add(id(node))
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, ScalarNode):
                if key.value in seen:
                    here = (*location, key.value)
                    raise RepeatedKey(f"duplicate key {key.value!r}", here, key.start_mark)
                seen.add(key.value)
