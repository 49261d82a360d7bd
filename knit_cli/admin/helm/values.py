"""The files with values: they belong to the administrator, and are never rewritten.

A YAML file that is read and written again by a program loses what people rely on: comments, quotes,
the order. So what a fresh file would have is only shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from knit_cli.admin.folder import SettingsFolder
from knit_cli.errors import BadInput

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def read_values(folder: SettingsFolder, name: str) -> dict[str, Any]:
    """Reads a file with values; empty: it does not exist, or has none.

    Raises:
        BadInput: it is not a YAML mapping, or a key is there twice.
    """
    path = folder.values(name)
    content = folder.read_bytes(path)
    return {} if content is None else parse_values(content, path)


def parse_values(content: bytes | str, path: Path) -> dict[str, Any]:
    """Parses values; `path` names them in messages; raises BadInput."""
    try:
        found = yaml.load(content, Loader=_StrictLoader)  # it is a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as cause:
        raise BadInput(
            f"{path} is not valid YAML", reason=str(cause), advice="correct the file"
        ) from cause
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise BadInput(
            f"{path} cannot be used",
            reason="it is not a mapping with texts as keys",
            advice="write `key: value` lines",
        )
    return found


def check_name(name: Any, where: str) -> str:
    """Gives the name of an object of Kubernetes back; raises BadInput if it can be none."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadInput(
            f"{where} is {_shown(name)}, which is no name of an object in Kubernetes",
            advice="write small letters, digits, - and dots, and correct the file",
        )
    return name


def value_at(folder: SettingsFolder, name: str, *keys: str) -> Any:
    """Gives one value of a file, by its path; None: it is not there, or null.

    Raises:
        BadInput: the file cannot be read, or something on the way is not a mapping.
    """
    found: Any = read_values(folder, name)
    for depth, key in enumerate(keys):
        if found is None:
            return None
        if not isinstance(found, dict):
            raise BadInput(
                f"{folder.values(name)} cannot be used",
                reason=f"{'.'.join(keys[:depth])} is {_shown(found)}, and should have `{key}`",
                advice=f"correct the file; helm show values {name} shows its form",
            )
        found = found.get(key)
    return found


def differences(mine: Mapping[str, Any], fresh: Mapping[str, Any]) -> list[str]:
    """Says, key by key, where values differ from those of a fresh file; what is added is fine."""
    return list(_differences(mine, fresh, ""))


def overridden(below: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    """Says, key by key, where values replace others below them; what those lack is fine."""
    return list(_overridden(below, mine, ""))


def _overridden(below: Mapping[str, Any], mine: Mapping[str, Any], above: str) -> Iterator[str]:
    for key, value in mine.items():
        if key not in below:
            continue
        path, other = f"{above}{key}", below[key]
        if isinstance(value, dict) and isinstance(other, dict):
            yield from _overridden(other, value, f"{path}.")
        elif value != other:
            yield f"{path} is {_shown(value)}, and would be {_shown(other)} without it"


def _differences(mine: Mapping[str, Any], fresh: Mapping[str, Any], above: str) -> Iterator[str]:
    for key, value in fresh.items():
        path = f"{above}{key}"
        if key not in mine:
            yield f"{path} is not there, a fresh file has {_shown(value)}"
        elif isinstance(value, dict) and isinstance(mine[key], dict):
            yield from _differences(mine[key], value, f"{path}.")
        elif mine[key] != value:
            yield f"{path} is {_shown(mine[key])}, a fresh file has {_shown(value)}"


def _shown(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000).strip()
    text = text.removesuffix("\n...").removesuffix("...").strip()
    return text if len(text) <= 60 else f"{text[:57]}…"


class _StrictLoader(yaml.SafeLoader):
    """YAML in which no key is there twice; the first of two would be dropped silently."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, dict | list):
            raise yaml.MarkedYAMLError(problem="a key is no text", problem_mark=key_node.start_mark)
        if key in found:
            raise yaml.MarkedYAMLError(
                problem=f"the key {key!r} is there twice", problem_mark=key_node.start_mark
            )
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
