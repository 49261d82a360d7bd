"""What not every back-end can do, and why: tests that need it are not collected for the others.

A test says so with `@pytest.mark.needs(Ability.…)`; what is skipped nevertheless could not be had
on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Final

import pytest


class Ability(Enum):
    """What a test may need of a back-end."""

    READ_ONLY_INPUTS = auto()
    """The container cannot write to its inputs."""
    IMAGES = auto()
    """There is such a thing as an image that is missing."""
    MEMORY_LIMIT = auto()
    """A container that uses more memory than its `memory` is killed."""
    GRACE = auto()
    """A stopped container gets SIGTERM first."""
    OUTLIVES = auto()
    """Another backend object, in another process, finds what this one has started."""
    HALF_LAUNCHES = auto()
    """A process killed in the middle of a launch may leave half of one."""


_NO_SANDBOX: Final = "what it runs is not isolated"
_IN_PROCESS: Final = "what it runs ends with its process"

LACKS: Final[Mapping[str, Mapping[Ability, str]]] = {
    "memory": {
        Ability.READ_ONLY_INPUTS: _NO_SANDBOX,
        Ability.MEMORY_LIMIT: _NO_SANDBOX,
        Ability.IMAGES: "it has no images",
        Ability.GRACE: "what it runs is cancelled",
        Ability.OUTLIVES: _IN_PROCESS,
        Ability.HALF_LAUNCHES: _IN_PROCESS,
    },
    "local-host": {
        Ability.IMAGES: "an image of the machine itself is never missing",
        Ability.MEMORY_LIMIT: "bubblewrap does not limit memory",
    },
    "local-engine": {},
    "kubernetes": {Ability.HALF_LAUNCHES: "one request makes the Job, and the cluster the rest"},
}
"""By the back-end's name in the ids of tests."""


def is_lacking(item: pytest.Item) -> bool:
    """Whether the back-end that a test is to run on lacks what the test needs."""
    kind = getattr(item, "callspec", None) and item.callspec.params.get("adapter")  # type: ignore[attr-defined]
    return any(ability in LACKS.get(kind, {}) for ability in _needed(item))


def _needed(item: pytest.Item) -> Iterator[Ability]:
    for marker in item.iter_markers("needs"):
        yield from marker.args
