"""Killed at any moment: what is there is whole, and the next backup or restore goes on from it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest

from knit_workflows.backup import blobs, sets, taking
from knit_workflows.backup.blobs import FOLDER, Reader
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.restoring import check_set, choose_set, restore
from knit_workflows.backup.sets import load_set, set_ids
from knit_workflows.backup.taking import take_backup
from tests.unit.backup.memory import Killed, Knit, Objects, Silent

_PIECE = 2_000
_RANDOM = random.Random(7)
ARCHIVES = {
    f"data{number}": _RANDOM.randbytes(size)
    for number, size in enumerate([1, 2, 999, 2_000, 2_001, 7_000, 7_000, 5_500])
} | {"twin": _RANDOM.randbytes(4_000)}
ARCHIVES["other twin"] = ARCHIVES["twin"]
ROWS = b"".join(b"%d\tx\n" % number for number in range(1_000))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces, and a record after each three volumes."""
    monkeypatch.setattr(blobs.pieces_of, "__defaults__", (_PIECE,))
    monkeypatch.setattr("knit_workflows.backup.volumes.PIECE", _PIECE)
    monkeypatch.setattr(taking, "_RECORD_VOLUMES", 3)


def a_knit() -> Knit:
    return Knit(dict(ARCHIVES), ROWS)


def restored_from(content: dict[str, bytes]) -> Knit:
    objects = Objects(content)
    filled = Knit()
    restore(objects, choose_set(objects, None), filled, Silent(), by="me")
    return filled


def killed(before: dict[str, bytes], keep: int | None = None) -> Iterator[dict[str, bytes]]:
    """Gives what a backup leaves that is killed at its first change, its second, and so on."""
    for point in itertools.count():
        content = dict(before)
        try:
            take_backup(a_knit(), Objects(content, dies_at=point), Silent(), keep=keep)
        except Killed:
            yield content
        else:
            assert point > len(ARCHIVES)
            return


def check(content: dict[str, bytes]) -> None:
    """Every set that is there can be read whole."""
    objects = Objects(content)
    for one in set_ids(objects):
        check_set(objects, load_set(objects, one), Silent())


@pytest.mark.patient
def test_whatever_was_written_before_a_kill_the_next_one_goes_on():
    for content in killed({}):
        check(content)
        if not set_ids(Objects(content)):
            with pytest.raises(BackupProblem, match="there is no set"):
                choose_set(Objects(content), None)
        pieces = {name for name in content if name.startswith(FOLDER)}
        recorded = sum(len(one) for one in sets.read_partial(Objects(content)).values())
        knit = a_knit()
        taken = take_backup(knit, Objects(content), Silent())
        assert pieces <= content.keys()
        assert taken.set.volumes == len(ARCHIVES)
        assert len(knit.read_ids) <= len(ARCHIVES) - recorded
        assert not list(Objects(content).names("partial/"))
        assert restored_from(content).archives == ARCHIVES


@pytest.mark.patient
def test_whatever_was_removed_before_a_kill_the_sets_that_stay_are_whole():
    before: dict[str, bytes] = {}
    old = Knit({"old": b"x" * 5_000, "data3": ARCHIVES["data3"]}, b"1\tx\n")
    take_backup(old, Objects(before), Silent())
    for content in killed(before, keep=1):
        check(content)
        take_backup(a_knit(), Objects(content), Silent(), keep=1)
        assert len(set_ids(Objects(content))) == 1
        assert restored_from(content).archives == ARCHIVES


@pytest.mark.parametrize("made", range(1, len(ARCHIVES) + 1))
def test_a_restore_that_was_killed_has_switched_nothing_on_and_goes_on(made: int):
    content: dict[str, bytes] = {}
    taken = take_backup(a_knit(), Objects(content), Silent())
    filled = Knit(dies_after=made)
    with pytest.raises(Killed):
        restore(Objects(content), taken.set, filled, Silent(), by="me")
    assert not filled.loaded
    assert len(filled.archives) == made
    filled.dies_after = None
    again = restore(Objects(content), taken.set, filled, Silent(), by="me")
    assert (again.equal, again.made) == (made, len(ARCHIVES) - made)
    assert filled.archives == ARCHIVES
    assert filled.loaded


@pytest.mark.patient
def test_any_object_that_is_cut_changed_or_lost_is_noticed_before_anything_is_switched_on():
    content: dict[str, bytes] = {}
    taken = take_backup(a_knit(), Objects(content), Silent())
    for name, whole in list(content.items()):
        changed = whole[:-1] + bytes([whole[-1] ^ 1])
        middle = whole[: len(whole) // 2] + b"?" + whole[len(whole) // 2 + 1 :]
        for worse in (whole[: len(whole) // 2], changed, middle, b""):
            if worse == whole:
                continue
            content[name] = worse
            filled = Knit()
            with pytest.raises(BackupProblem):
                restore(
                    *(Objects(content), choose_set(Objects(content), taken.set.id)),
                    *(filled, Silent()),
                    by="me",
                )
            assert not filled.loaded
            content[name] = whole
        del content[name]
        with pytest.raises(BackupProblem):
            check_set(Objects(content), load_set(Objects(content), taken.set.id), Silent())
        content[name] = whole


def test_a_piece_that_was_removed_is_read_and_stored_again():
    content: dict[str, bytes] = {}
    take_backup(a_knit(), Objects(content), Silent())
    with Reader(Objects(content)) as reader:
        newest = load_set(Objects(content), set_ids(Objects(content))[-1])
        entry = next(one for one in newest.entries(reader) if one.knit_id == "data5")
    del content[entry.pieces[1].name]
    knit = a_knit()
    take_backup(knit, Objects(content), Silent())
    assert knit.read_ids == ["data5"]
    check(content)
