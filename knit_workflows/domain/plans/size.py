"""How large a Plan may be, so that Linux can start its container and a cluster can store its Job.

Measured with Kubernetes 1.34: etcd takes 1.5 MiB per object, in which the API server also keeps who
has set which field; a request may have 3 MiB, in which signs outside of ASCII take six bytes. What
is too large for etcd is refused in words about something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final

from knit_workflows.domain.plans.forms import refuse

MAX_WORD_BYTES: Final = 128 * 1024 - 1
"""The longest argument that Linux accepts (MAX_ARG_STRLEN, with the NUL at its end)."""
MAX_PLAN_BYTES: Final = 1024 * 1024
"""Words and mountpoints together, as a cluster stores them."""
INPUT_BYTES: Final = 450
OUTPUT_BYTES: Final = 750
"""What a mountpoint takes besides its path: the volume, its mounts, and who has set them."""
_INPUT_PATHS: Final = 2
_OUTPUT_PATHS: Final = 6
"""How often the path itself is in a Job."""


def check_words(entrypoint: Sequence[str], args: Sequence[str]) -> None:
    """Raises InvalidPlan if Linux cannot start a program with one of these words."""
    for place, words in (("entrypoint", entrypoint), ("args", args)):
        for i, word in enumerate(words):
            if len(word.encode()) > MAX_WORD_BYTES:
                problem = f"the word is longer than the {MAX_WORD_BYTES:,} bytes that Linux takes"
                raise refuse(f"{place}[{i}]", problem, _ELSEWHERE)


_ELSEWHERE: Final = "put long texts into a file of an input, or into the image"


def check_size(
    entrypoint: Sequence[str],
    args: Sequence[str],
    inputs: Iterable[str],
    outputs: Iterable[str],
) -> None:
    """Raises InvalidPlan if no cluster could store a Job of these words and paths."""
    outputs = list(outputs)
    _check_list_of_outputs(outputs)
    parts = {
        "entrypoint": sum(map(_word_bytes, entrypoint)),
        "args": sum(map(_word_bytes, args)),
        "inputs": sum(INPUT_BYTES + _INPUT_PATHS * _word_bytes(path) for path in inputs),
        "outputs": sum(OUTPUT_BYTES + _OUTPUT_PATHS * _word_bytes(path) for path in outputs),
    }
    total = sum(parts.values())
    if total > MAX_PLAN_BYTES:
        place = max(parts, key=lambda part: parts[part])
        problem = (
            f"words and mountpoints take {total:,} bytes on a cluster, {MAX_PLAN_BYTES:,} at most"
        )
        advice = "use fewer, or shorter paths" if place.endswith("puts") else _ELSEWHERE
        raise refuse(place, problem, advice)


def _check_list_of_outputs(outputs: Sequence[str]) -> None:
    # knit's own container is told of all outputs in one variable, with two paths for each.
    told = sum(2 * _sent_bytes(path) + len(", : /outputs") for path in outputs)
    if told > MAX_WORD_BYTES - 1024:
        problem = "the paths of all outputs together are too long"
        raise refuse("outputs", problem, "use shorter paths, or fewer outputs with folders in them")


def _word_bytes(word: str) -> int:
    """What a word takes of the limit: as it is stored, or half of what is sent if that is more."""
    stored = len(word.encode()) + word.count("$") + 9  # NUL, and a pointer
    return max(stored, _sent_bytes(word) // 2)


def _sent_bytes(word: str) -> int:
    # Dollars are doubled for the kubelet, which would replace $(NAME).
    return len(json.dumps(word)) + word.count("$")
