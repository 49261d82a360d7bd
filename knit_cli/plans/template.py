"""Writes a first Plan file with comments, with or without an image."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from knit_cli.config.knitenv import Environment
from knit_cli.plans.image import PLACEHOLDER, ImageConfig
from knit_cli.plans.schema import SCHEMA_FILE
from knit_workflows.domain.plans.rules import DEFAULT_RESOURCES
from knit_workflows.wire.tags import Tag

_EXTENDED = re.compile(r"[a-z][a-z0-9.-]*/[A-Za-z0-9._-]+")
"""The name of an extended resource: nvidia.com/gpu."""
_FLAG_WITH_VALUE = re.compile(r"-[^=/\s]*=(.*)", re.DOTALL)

_FILL_IN = f"# Replace {PLACEHOLDER} by its name, which the archive does not contain."

_TAIL = """\
# on_node: on which nodes it runs, by their labels and taints.
#   may: it may also run on nodes with this taint.
#   prefer: it prefers nodes with this label.
#   must: it runs only on nodes with this label.
# on_node:
#   may: ["key=value"]
#   prefer: ["vram=large"]
#   must: ["accelerator=gpu"]

# service_account: the Kubernetes service account it runs as.
# service_account: name

# pod: what is asked of a cluster for its run pods; more keys in the reference of the Plan file.
# pod:
#   labels: {team: vision}
#   shm_size: 1Gi

# priority: its Runs go before those of Plans with a lower priority, from -1000 to 1000.
# priority: 0"""


@dataclass(frozen=True)
class _Mountpoint:
    path: str
    tags: tuple[Tag, ...]


def scratch(environment: Environment) -> str:
    """Writes a Plan file to be filled in by hand."""
    tags = environment.tags or (Tag(key="example", value="tag"),)
    return _document(
        image="image:version",
        entrypoint=(),
        args=(),
        inputs=[_Mountpoint("/in", tags)],
        outputs=[_Mountpoint("/out", tags)],
        environment=environment,
    )


def from_image(image: ImageConfig, environment: Environment) -> str:
    """Writes a Plan file with inputs and outputs guessed from what the image runs.

    Each word of entrypoint and arguments, and each declared volume, that is a path with a component
    `in` becomes an input, with a component `out` an output, in order of appearance.
    """
    inputs: dict[str, _Mountpoint] = {}
    outputs: dict[str, _Mountpoint] = {}
    for word in _words([*image.entrypoint, *image.cmd, *image.volumes]):
        parts = word.split("/")
        side = inputs if "in" in parts else outputs if "out" in parts else None
        if side is not None:
            path = posixpath.normpath(posixpath.join("/", image.working_dir, word))
            side.setdefault(path, _Mountpoint(path, _mountpoint_tags(parts, environment)))
    return _document(
        image=image.name or f"{PLACEHOLDER}:TAG",
        entrypoint=image.entrypoint,
        args=image.cmd,
        inputs=list(inputs.values()),
        outputs=list(outputs.values()),
        environment=environment,
    )


def _words(texts: Iterable[str]) -> Iterable[str]:
    """Gives the words that may be paths, also those in `--flag=path` and `sh -c "…"`."""
    for text in texts:
        for word in text.split() or [text]:
            flag = _FLAG_WITH_VALUE.fullmatch(word)
            candidate = flag[1] if flag else word
            if "://" not in candidate:
                yield candidate.strip("\"';")


def _mountpoint_tags(parts: Sequence[str], environment: Environment) -> tuple[Tag, ...]:
    names = [part for part in parts if part not in ("", ".", "in", "out")]
    kind = (Tag(key="type", value=names[-1]),) if names else ()
    return (*environment.tags, *kind)


def _document(
    *,
    image: str,
    entrypoint: Sequence[str],
    args: Sequence[str],
    inputs: Sequence[_Mountpoint],
    outputs: Sequence[_Mountpoint],
    environment: Environment,
) -> str:
    resources = {**DEFAULT_RESOURCES, **environment.resources}
    log_tags = (Tag(key="type", value="log"), *environment.tags)
    return "\n".join(
        [
            # Editors read this line; `knit plan schema` writes the file.
            f"# yaml-language-server: $schema={SCHEMA_FILE}",
            "",
            "# annotations: your own notes, key=value each. They have no effect.",
            "annotations: []",
            "",
            "# image: the container image, NAME:TAG.",
            *([_FILL_IN] if image.startswith(f"{PLACEHOLDER}:") else []),
            f"image: {_quoted(image)}",
            "",
            "# entrypoint, args: the command. Without them, the image's own.",
            f"entrypoint: {_list(entrypoint)}",
            f"args: {_list(args)}",
            "",
            "# inputs: where Data with all these tags are mounted, read-only. At least one.",
            *_mountpoints("inputs", inputs),
            "",
            "# outputs: where the image writes, and the tags of the new Data.",
            *_mountpoints("outputs", outputs),
            "",
            "# log: the tags of the log, which becomes Data too. Remove it to keep no log.",
            "log:",
            f"  tags: {_list(str(tag) for tag in log_tags)}",
            "",
            "# active: whether its Runs may start.",
            "active: true",
            "",
            "# resources: the most it may use of a node.",
            "resources:",
            *(f"  {_key(name)}: {_quoted(text)}" for name, text in resources.items()),
            "",
            _TAIL,
        ]
    )


def _mountpoints(name: str, mountpoints: Sequence[_Mountpoint]) -> list[str]:
    if not mountpoints:
        return [f"{name}: []"]
    lines = [f"{name}:"]
    for mountpoint in mountpoints:
        lines.append(f"  - path: {_quoted(mountpoint.path)}")
        lines.append(f"    tags: {_list(str(tag) for tag in mountpoint.tags)}")
    return lines


def _list(texts: Iterable[str]) -> str:
    return f"[{', '.join(_quoted(text) for text in texts)}]"


def _key(name: str) -> str:
    """Gives the name of a resource as a key of YAML: bare if it is a usual one."""
    return name if name in DEFAULT_RESOURCES or _EXTENDED.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    # A JSON string is a YAML string, whatever is in it.
    return json.dumps(text, ensure_ascii=False)
