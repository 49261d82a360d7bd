from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knit_workflows.domain.matching import Cursor, Page, assignment_hash, count, page
from knit_workflows.domain.plans.model import Requirement
from knit_workflows.domain.tags import Tag
from knit_workflows.store.projection.candidates import Window
from tests.memory_store.matching import satisfies

A, B, C = Tag("a", "1"), Tag("b", "2"), Tag("a", "3")
NOON = datetime(2024, 11, 18, 12, 0, 0, 70_000, UTC)


def tags(*of: Tag) -> frozenset[Tag]:
    return frozenset(of)


@pytest.mark.parametrize(
    ("data_tags", "requirement", "filled"),
    [
        (tags(A), Requirement(tags(A)), True),
        (tags(A, B), Requirement(tags(A)), True),
        (tags(A), Requirement(tags(A, B)), False),
        (tags(), Requirement(tags(A)), False),
        (tags(C), Requirement(tags(A)), False),
        (tags(A, C), Requirement(tags(A, C)), True),
        (tags(Tag("A", "1")), Requirement(tags(A)), False),
        (tags(A), Requirement(tags()), False),
        (tags(), Requirement(tags()), False),
        (tags(), Requirement(tags(), "d1"), True),
        (tags(), Requirement(tags(), "d2"), False),
        (tags(A), Requirement(tags(A), "d1"), True),
        (tags(B), Requirement(tags(A), "d1"), False),
        (tags(), Requirement(tags(), None, NOON), True),
        (tags(A), Requirement(tags(A), "d1", NOON), True),
        (tags(A), Requirement(tags(A), "d1", NOON + timedelta(milliseconds=1)), False),
    ],
)
def test_a_data_fills_an_input_when_all_it_asks_for_is_there(
    data_tags: frozenset[Tag], requirement: Requirement, filled: bool
) -> None:
    assert satisfies(data_tags, "d1", NOON, requirement) is filled
    with_system = data_tags | {Tag("knit#id", "d1"), Tag("knit#timestamp", "whatever")}
    assert satisfies(with_system, "d1", NOON, requirement) is filled


@pytest.mark.parametrize(
    ("stored", "equal"),
    [
        (NOON.astimezone(timezone(timedelta(hours=9))), True),
        (NOON + timedelta(microseconds=999), True),
        (NOON + timedelta(microseconds=1000), False),
        (NOON - timedelta(microseconds=1), False),
    ],
)
def test_timestamps_are_instants_of_whole_milliseconds(stored: datetime, equal: bool) -> None:
    assert satisfies(tags(), "d1", stored, Requirement(tags(), None, NOON)) is equal


def test_an_assignment_has_one_hash_whatever_its_order() -> None:
    assert assignment_hash({0: "x", 1: "y"}) == assignment_hash({1: "y", 0: "x"})
    assert len(assignment_hash({})) == 32
    others = [{0: "y", 1: "x"}, {0: "x"}, {0: "x", 2: "y"}, {0: "xy"}, {0: 'x"],[1,"y'}, {}]
    assert len({assignment_hash(one) for one in [{0: "x", 1: "y"}, *others]}) == len(others) + 1


def test_the_hash_of_an_assignment_never_changes() -> None:
    """It is stored: a change would make every Run appear once more."""
    found = assignment_hash({0: "11111111-1111-4111-8111-111111111111", 1: "é"}).hex()
    assert found == "a8a7fb462168b2a2a4bebef70dfd52c80359e6edcc9efb30dff336c4ca3f8920"


IDS = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=5).map(sorted)
CANDIDATES = st.lists(IDS, min_size=1, max_size=4)
TRIGGERS = st.none() | st.tuples(st.sampled_from("abcdefgh"), st.sets(st.integers(0, 3)))
LIMITS = st.integers(1, 40)
Trigger = Mapping[int, str] | None


def at(trigger: tuple[str, set[int]] | None, candidates: Sequence[object]) -> Trigger:
    if trigger is None:
        return None
    return {place: trigger[0] for place in trigger[1] if place < len(candidates)}


def naive(candidates: Sequence[Sequence[str]], trigger: Trigger) -> list[tuple[str, ...]]:
    everything = list(product(*candidates))
    if trigger is None:
        return everything
    return [one for one in everything if any(one[i] == value for i, value in trigger.items())]


def all_pages(
    candidates: Sequence[Sequence[str]], trigger: Trigger, limit: int, after: Cursor | None = None
) -> list[Page]:
    pages = [page(candidates, trigger, after, limit)]
    while (cursor := pages[-1].next) is not None:
        stored = Cursor.from_json(json.loads(json.dumps(cursor.to_json())))
        pages.append(page(candidates, trigger, stored, limit))
    return pages


def items(pages: Sequence[Page]) -> list[tuple[str, ...]]:
    return [item for one in pages for item in one.items]


@given(CANDIDATES, TRIGGERS, LIMITS)
def test_all_pages_are_the_filtered_product_each_once(
    candidates: list[list[str]], who: tuple[str, set[int]] | None, limit: int
) -> None:
    trigger = at(who, candidates)
    pages = all_pages(candidates, trigger, limit)
    found, wanted = items(pages), naive(candidates, trigger)
    assert len(found) == len(set(found))
    assert set(found) == set(wanted)
    assert count(candidates, trigger) == len(wanted)
    assert all(len(one.items) == limit for one in pages[:-1])
    assert len(pages[-1].items) > 0 or not wanted
    if trigger is None:
        assert found == wanted


@given(CANDIDATES, st.dictionaries(st.integers(0, 3), st.sampled_from("abcdefgh")), LIMITS)
def test_different_triggers_at_different_inputs_are_counted_once_too(
    candidates: list[list[str]], trigger: dict[int, str], limit: int
) -> None:
    trigger = {place: value for place, value in trigger.items() if place < len(candidates)}
    found = items(all_pages(candidates, trigger, limit))
    assert sorted(found) == naive(candidates, trigger)
    assert count(candidates, trigger) == len(found)


@given(CANDIDATES, TRIGGERS, LIMITS, LIMITS)
def test_the_order_does_not_depend_on_the_size_of_pages(
    candidates: list[list[str]], who: tuple[str, set[int]] | None, one: int, other: int
) -> None:
    trigger = at(who, candidates)
    whole = items(all_pages(candidates, trigger, 10_000))
    assert items(all_pages(candidates, trigger, one)) == whole
    first = page(candidates, trigger, None, one)
    rest = all_pages(candidates, trigger, other, first.next) if first.next else []
    assert items([first, *rest]) == whole


MANY_IDS = st.lists(st.sampled_from("abcdefghijkl"), unique=True, min_size=6).map(sorted)


@given(
    st.lists(MANY_IDS, min_size=1, max_size=3),
    st.lists(st.sampled_from("abcdefghijkl"), min_size=3, max_size=3),
    st.none() | st.integers(0, 2),
    st.integers(1, 3),
    st.booleans(),
)
def test_a_page_needs_only_two_windows_of_each_input(
    candidates: list[list[str]], last: list[str], pivot: int | None, room: int, is_first: bool
) -> None:
    """The first Data and those from the last combination on; whether that still exists or not."""
    behind = None if is_first else tuple(last[: len(candidates)])
    trigger = None
    if pivot is not None:
        pivot %= len(candidates)
        trigger = {pivot: last[pivot]}
        candidates[pivot] = [one for one in candidates[pivot] if one == last[pivot]]
    slow = 1 if pivot == 0 else 0

    def window(place: int, ids: list[str]) -> list[str]:
        limit = Window(room, behind).limit
        if behind is None or place == pivot:
            return ids[:limit]
        rest = [one for one in ids if one >= behind[place]][:limit]
        return rest if place == slow else sorted({*ids[:limit], *rest})

    after = None if behind is None else Cursor(pivot, behind)
    needed = [window(place, ids) for place, ids in enumerate(candidates)]
    assert page(needed, trigger, after, room) == page(candidates, trigger, after, room)


@given(CANDIDATES, CANDIDATES, TRIGGERS, LIMITS)
def test_candidates_may_come_and_go_between_pages(
    before: list[list[str]], after: list[list[str]], who: tuple[str, set[int]] | None, limit: int
) -> None:
    """What was a candidate all the time comes exactly once; nothing comes twice."""
    after = (after * 4)[: len(before)]
    trigger = at(who, before)
    first = page(before, trigger, None, limit)
    rest = items(all_pages(after, trigger, limit, first.next)) if first.next else []
    found = [*first.items, *rest]
    assert len(found) == len(set(found))
    assert set(rest) <= set(naive(after, trigger))
    if first.next is not None:
        assert set(naive(before, trigger)) & set(naive(after, trigger)) <= set(found)


@pytest.mark.parametrize(
    ("candidates", "trigger", "expected"),
    [
        ([["a", "b"]], None, [("a",), ("b",)]),
        ([["a", "b"], ["c", "d", "e"]], None, 6),
        ([["a", "b", "x"], ["c", "d", "e"]], {0: "x"}, 3),
        ([["a", "b"], []], None, 0),
        ([["a", "b"], []], {0: "a"}, 0),
        ([["a", "b", "c"], ["a", "b", "c"]], None, 9),
        (
            [["a", "b"], ["a", "b"]],
            {0: "a", 1: "a"},
            [("a", "a"), ("a", "b"), ("b", "a")],
        ),
        ([["a", "b"]], {}, 0),
        ([["a", "b"]], {0: "x"}, 0),
    ],
)
def test_the_situations_of_the_contract(
    candidates: list[list[str]], trigger: Trigger, expected: int | list[tuple[str, ...]]
) -> None:
    found = page(candidates, trigger, None, 100)
    assert found.next is None
    assert count(candidates, trigger) == len(found.items)
    assert (len(found.items) if isinstance(expected, int) else list(found.items)) == expected


def test_a_page_costs_what_it_returns() -> None:
    """10²⁰ combinations, asked for in the middle: an enumeration would never come back."""
    many = [f"{i:06}" for i in range(100_000)]
    candidates = [many, many, many, many]
    cursor = Cursor(2, ("050000", "050000", "777777", "099998"))
    trigger = {0: "000007", 2: "777777", 3: "000009"}
    candidates[2] = sorted([*many, "777777"])
    found = page(candidates, trigger, cursor, 3)
    assert found.items == (
        ("050000", "050000", "777777", "099999"),
        ("050000", "050001", "777777", "000000"),
        ("050000", "050001", "777777", "000001"),
    )
    assert count(candidates, None) == 100_000**3 * 100_001


def test_a_page_holds_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least one"):
        page([["a"]], None, None, 0)


def test_a_cursor_fits_its_walk_only() -> None:
    with pytest.raises(ValueError, match="cursor"):
        page([["a"]], {0: "a"}, Cursor(None, ("a",)), 1)
    with pytest.raises(ValueError, match="cursor"):
        page([["a"]], None, Cursor(0, ("a",)), 1)
    with pytest.raises(ValueError, match="cursor"):
        page([["a"]], None, Cursor(None, ("a", "b")), 1)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"pivot": 1},
        {"pivot": "1", "last": []},
        {"pivot": True, "last": []},
        {"pivot": 0, "last": "ab"},
        {"pivot": 0, "last": [1]},
        {"pivot": 0, "last": [], "more": 1},
    ],
)
def test_what_is_no_cursor_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="cursor"):
        Cursor.from_json(value)
