"""The combinations of the Data that satisfy the inputs of a Plan, page by page.

The combinations of a Plan are the full cross product of its inputs' candidates. When one Data
(the *trigger*) has just appeared, only those with the trigger at one of its inputs are new. They
are cut into disjoint blocks, one per input *p* the trigger fills (the *pivot*):

```
input:      0 … p-1            p         p+1 … n
values:     all but trigger    trigger   all
```
so every combination comes in exactly one block: that of the first input with the trigger. Blocks
are walked in order of the pivot, each block in lexicographic order. A cursor names the pivot and
the last combination by value; finding it again is a binary search per input, so a page costs what
it returns, however far in it is, and still means something when candidates came or went.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod


def assignment_hash(assignment: Mapping[int, str]) -> bytes:
    """Returns 32 bytes that stand for "this Data at this input" of one Plan.

    The mapping goes from an input's ordinal to a knit id; its order does not matter.
    """
    return hashlib.sha256(json.dumps(sorted(assignment.items())).encode()).digest()


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended: its last combination, and the block (None: there is no trigger)."""

    pivot: int | None
    last: tuple[str, ...]

    def to_json(self) -> object:
        """Returns the cursor as plain JSON values."""
        return {"pivot": self.pivot, "last": list(self.last)}

    @classmethod
    def from_json(cls, value: object) -> Cursor:
        """Reads what `to_json` gave; raises ValueError for anything else."""
        if not isinstance(value, Mapping) or value.keys() != {"pivot", "last"}:
            raise ValueError("not a cursor")
        pivot, last = value["pivot"], value["last"]
        if not (pivot is None or (isinstance(pivot, int) and not isinstance(pivot, bool))):
            raise ValueError("the cursor's pivot is not a number")
        if not isinstance(last, list) or not all(isinstance(one, str) for one in last):
            raise ValueError("the cursor's combination is not a list of ids")
        return cls(pivot, tuple(last))


@dataclass(frozen=True, slots=True)
class Page:
    """Some combinations, one knit id per input in ordinal order; `next` is None at the end."""

    items: tuple[tuple[str, ...], ...]
    next: Cursor | None


def page(
    candidates: Sequence[Sequence[str]],
    trigger: Mapping[int, str] | None,
    after: Cursor | None,
    limit: int,
) -> Page:
    """Returns the next combinations after `after`, at most `limit` (one or more) of them.

    `candidates[i]` holds the knit ids that fill input i, sorted by code point and without
    duplicates. `trigger` maps the inputs at which the trigger stands to its knit id; an input
    whose candidates do not hold it is passed over. Without a trigger all combinations come, with
    one those that have it somewhere, each once. Blocks follow the pivot's ordinal; inside, order is
    lexicographic. All pages together hold every combination whose candidates were there
    throughout, and none twice.
    """
    if limit < 1:
        raise ValueError("a page holds at least one combination")
    if after is not None and (
        (after.pivot is None) is not (trigger is None) or len(after.last) != len(candidates)
    ):
        raise ValueError("the cursor is of another walk")
    found = list(islice(_walk(candidates, trigger, after), limit + 1))
    items = tuple(combination for _, combination in found[:limit])
    if len(found) <= limit:
        return Page(items, None)
    return Page(items, Cursor(*found[limit - 1]))


def count(candidates: Sequence[Sequence[str]], trigger: Mapping[int, str] | None) -> int:
    """Returns the number of combinations on all pages, without making them."""
    return sum(prod(len(axis) for axis in axes) for _, axes in _blocks(candidates, trigger))


class _Axis:
    """One input's values in a block: all of them, or all but one; a view, never a copy."""

    __slots__ = ("_skipped", "_values")

    def __init__(self, values: Sequence[str], skipped: str | None = None) -> None:
        self._values = values
        self._skipped = None if skipped is None else _index(values, skipped)

    def __len__(self) -> int:
        return len(self._values) - (self._skipped is not None)

    def __getitem__(self, place: int) -> str:
        if self._skipped is not None and place >= self._skipped:
            return self._values[place + 1]
        return self._values[place]


def _index(values: Sequence[str], wanted: str) -> int | None:
    place = bisect_left(values, wanted)
    return place if place < len(values) and values[place] == wanted else None


_Block = tuple[int | None, list[_Axis]]


def _blocks(
    candidates: Sequence[Sequence[str]], trigger: Mapping[int, str] | None
) -> Iterator[_Block]:
    if trigger is None:
        yield None, [_Axis(values) for values in candidates]
        return
    pivots = [p for p in sorted(trigger) if _index(candidates[p], trigger[p]) is not None]
    for pivot in pivots:
        axes = [
            _Axis(values, trigger[place] if place < pivot and place in trigger else None)
            for place, values in enumerate(candidates)
        ]
        axes[pivot] = _Axis([trigger[pivot]])
        yield pivot, axes


def _walk(
    candidates: Sequence[Sequence[str]],
    trigger: Mapping[int, str] | None,
    after: Cursor | None,
) -> Iterator[tuple[int | None, tuple[str, ...]]]:
    for pivot, axes in _blocks(candidates, trigger):
        last = None
        if after is not None:
            if pivot is not None and after.pivot is not None and pivot < after.pivot:
                continue  # done on an earlier page
            last = after.last if pivot == after.pivot else None
        for combination in _product(axes, last):
            yield pivot, combination


def _product(axes: Sequence[_Axis], after: tuple[str, ...] | None) -> Iterator[tuple[str, ...]]:
    """Yields the cross product in lexicographic order, strictly after a combination."""
    if not all(map(len, axes)):
        return
    places: list[int] | None = [0] * len(axes)
    if after is not None:
        places = _first_after(axes, after)
    while places is not None:
        yield tuple(axis[place] for axis, place in zip(axes, places, strict=True))
        places = _advance(axes, places, len(axes) - 1)


def _first_after(axes: Sequence[_Axis], after: tuple[str, ...]) -> list[int] | None:
    """Finds where the first combination behind `after` stands, whether or not `after` is there."""
    places = [0] * len(axes)
    for turn, (axis, value) in enumerate(zip(axes, after, strict=True)):
        places[turn] = bisect_left(axis, value)
        if places[turn] == len(axis):
            return _advance(axes, places, turn - 1)
        if axis[places[turn]] != value:
            return places
    return _advance(axes, places, len(axes) - 1)


def _advance(axes: Sequence[_Axis], places: Sequence[int], turn: int) -> list[int] | None:
    """Steps the wheel at `turn`, carrying to its left; all wheels to its right go back to 0."""
    for wheel in range(turn, -1, -1):
        if places[wheel] + 1 < len(axes[wheel]):
            return [*places[:wheel], places[wheel] + 1, *[0] * (len(axes) - wheel - 1)]
    return None
