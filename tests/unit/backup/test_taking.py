"""What a set has, and what it says of what it has not."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from knit_workflows.backup import restoring
from knit_workflows.backup.blobs import pieces_of
from knit_workflows.backup.frames import Frame
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.restoring import choose_set, find_obstacles, restore
from knit_workflows.backup.sets import VolumeEntry, set_ids, set_name
from knit_workflows.backup.taking import _Known, take_backup
from knit_workflows.backup.volumes import Wanted
from tests.unit.backup.memory import Knit, Objects, Silent


def test_content_is_stored_once_and_volumes_that_are_known_are_not_read_again():
    objects, knit = Objects(), Knit({"a": b"A" * 5_000, "b": b"A" * 5_000}, b"1\n")
    first = take_backup(knit, objects, Silent())
    assert (first.read, first.set.volumes) == (2, 2)
    knit.archives["c"] = b"C"
    knit.read_ids.clear()
    pieces = len(list(objects.names("blobs/")))
    second = take_backup(knit, objects, Silent())
    assert knit.read_ids == ["c"]
    assert (second.read, second.set.volumes, second.read_bytes) == (1, 3, 1)
    assert len(list(objects.names("blobs/"))) == pieces + 2  # the new volume, and the index
    assert set_ids(objects) == sorted([first.set.id, second.set.id])


def test_adopted_volumes_are_read_each_time():
    objects = Objects()
    knit = Knit({"theirs": b"1"}, adopted=frozenset({"theirs"}))
    take_backup(knit, objects, Silent())
    knit.archives["theirs"] = b"2"
    take_backup(knit, objects, Silent())
    filled = Knit()
    restore(objects, choose_set(objects, None), filled, Silent(), by="me")
    assert filled.archives == {"theirs": b"2"}


def test_data_that_were_made_again_into_another_volume_are_read_again():
    """As a Run makes them that waited in the set which was restored."""
    objects, knit = Objects(), Knit({"a": b"old", "b": b"same"})
    take_backup(knit, objects, Silent())
    knit.archives["a"] = b"new"
    knit.others["a"] = "data-knitid-other"
    for read in (["a"], []):
        knit.read_ids.clear()
        take_backup(knit, objects, Silent())
        assert knit.read_ids == read
    filled = Knit()
    restore(objects, choose_set(objects, None), filled, Silent(), by="me")
    assert filled.archives == {"a": b"new", "b": b"same"}


def test_the_index_of_an_earlier_knit_does_not_say_which_volume_was_read():
    line = b'{"knit_id":"a","pieces":[["0f",3]],"capacity":null,"adopted":false}'
    entry = VolumeEntry.read(line)
    assert (entry.volume, entry.size) == (None, 3)
    known = _Known(None, {"0f"}, {"a": entry}, [])
    assert known.entry(Wanted("a", "data-knitid-a")) is entry
    assert known.entry(Wanted("a", "data-knitid-other")) is None


def test_data_that_are_deleted_meanwhile_are_said_and_not_part_of_it():
    objects = Objects()
    knit = Knit({"stays": b"1", "goes": b"2"}, without_volume=frozenset({"gone"}))
    knit.deleted = {"goes", "gone"}
    made = take_backup(knit, objects, Silent()).set
    assert sorted(made.gone) == ["goes", "gone"]
    assert made.volumes == 1
    assert not made.unreadable
    filled = Knit()
    restore(objects, made, filled, Silent(), by="me")
    assert isinstance(filled.loaded[0], dict)
    assert sorted(filled.loaded[0]["gone"]) == ["goes", "gone"]


def test_data_that_cannot_be_read_are_said_with_the_reason():
    knit = Knit({"a": b"1"}, without_volume=frozenset({"lost"}))
    made = take_backup(knit, Objects(), Silent()).set
    assert made.unreadable == {"lost": "there is no volume data-knitid-lost"}


def test_what_a_failed_run_never_had_is_not_missing():
    knit = Knit({"a": b"1"}, without_volume=frozenset({"failed-early"}))
    made = take_backup(knit, Objects(), Silent()).set
    assert (made.unreadable, made.gone, made.volumes) == ({}, (), 1)


def test_the_newest_sets_are_kept_with_what_they_need():
    objects = Objects()
    for number in range(4):
        take_backup(Knit({f"d{number}": b"%d" % number * 3_000}), objects, Silent(), keep=2)
    assert len(set_ids(objects)) == 2
    for one, name in zip(set_ids(objects), ("d2", "d3"), strict=True):
        filled = Knit()
        restore(objects, choose_set(objects, one), filled, Silent(), by="me")
        assert list(filled.archives) == [name]


@pytest.mark.parametrize("what", ["manifest", "index"])
def test_a_damaged_set_does_not_keep_the_next_from_being_taken(what: str):
    objects, knit = Objects(), Knit({"a": b"1"})
    take_backup(knit, objects, Silent())
    knit.archives["b"] = b"2"
    second = take_backup(knit, objects, Silent()).set
    name = set_name(second.id) if what == "manifest" else second.index[0].name
    objects.content[name] = b"rotten"
    knit.read_ids.clear()
    third = take_backup(knit, objects, Silent())
    assert list(third.damaged) == [second.id]
    assert knit.read_ids == ["b"]  # what the first has is known
    filled = Knit()
    restore(objects, choose_set(objects, third.set.id), filled, Silent(), by="me")
    assert filled.archives == {"a": b"1", "b": b"2"}
    assert take_backup(knit, objects, Silent(), keep=1).damaged == {}


def test_a_set_is_a_success_though_older_ones_cannot_be_removed():
    objects, knit = Objects(), Knit({"a": b"1"})
    ids = [take_backup(knit, objects, Silent()).set.id for _ in range(2)]
    objects.content[set_name(ids[1])] = b"rotten"
    third = take_backup(knit, objects, Silent(), keep=2)
    assert "is damaged" in third.unpruned
    assert third.pruned == ()
    assert set_ids(objects) == [*ids, third.set.id]
    del objects.content[set_name(ids[1])]
    assert take_backup(knit, objects, Silent(), keep=2).unpruned == ""
    assert len(set_ids(objects)) == 2


def test_what_was_removed_is_told_though_the_rest_could_not_be():
    class Sticky(Objects):
        def remove(self, name: str) -> None:
            if name == set_name(ids[1]):
                raise BackupProblem("cannot remove", reason="it is locked", advice="unlock it")
            super().remove(name)

    objects, knit = Sticky(), Knit({"a": b"1"})
    ids = [""] * 2
    ids = [take_backup(knit, objects, Silent()).set.id for _ in range(2)]
    third = take_backup(knit, objects, Silent(), keep=1)
    assert (third.pruned, third.unpruned) == ((ids[0],), "cannot remove; it is locked; unlock it")
    assert set_ids(objects) == [ids[1], third.set.id]


def test_nothing_is_removed_if_the_new_set_is_not_listed():
    """Others may be missing there, too, and what they need would go."""

    class Forgetful(Objects):
        def names(self, prefix: str) -> Iterator[str]:
            yield from () if prefix == "sets/" else super().names(prefix)

    objects = Forgetful()
    take_backup(Knit({"a": b"1"}), objects, Silent())
    before = set(objects.content)
    taken = take_backup(Knit({"b": b"2"}), objects, Silent(), keep=1)
    assert (taken.pruned, "is not among them" in taken.unpruned) == ((), True)
    assert before < set(objects.content)


def test_a_set_without_some_data_removes_no_older_one():
    objects = Objects()
    first = take_backup(Knit({"a": b"1", "b": b"2"}), objects, Silent()).set
    for _ in range(2):
        away = Knit({"b": b"2"}, adopted=frozenset({"a"}), without_volume=frozenset({"a"}))
        assert take_backup(away, objects, Silent(), keep=1).pruned == ()
    filled = Knit()
    restore(objects, choose_set(objects, first.id), filled, Silent(), by="me")
    assert filled.archives == {"a": b"1", "b": b"2"}
    assert len(take_backup(Knit({"b": b"2"}), objects, Silent(), keep=1).pruned) == 3


def test_an_installation_that_is_in_use_is_refused_in_words():
    objects = Objects()
    made = take_backup(Knit({"a": b"1"}), objects, Silent()).set
    used = Knit({"b": b"2"}, loaded=[{}])
    with pytest.raises(BackupProblem, match="is not empty") as refused:
        find_obstacles(made, used)
    assert refused.value.reason == "it has 1 Data"
    with pytest.raises(BackupProblem, match="has revision 0011, and 0012 is needed"):
        find_obstacles(made, Knit(revision="0011"))


def test_volumes_of_many_pieces_are_announced_in_small_messages(monkeypatch: pytest.MonkeyPatch):
    objects, sizes = Objects(), (0, 1, 1, 1, 5, 1)
    numbers = itertools.count()
    monkeypatch.setattr("knit_workflows.backup.taking.pieces_of", lambda it: pieces_of(it, 100))
    archives = {
        f"d{n}": b"".join(b"%100d" % next(numbers) for _ in range(size))
        for n, size in enumerate(sizes)
    }
    made = take_backup(Knit(archives), objects, Silent()).set
    monkeypatch.undo()
    monkeypatch.setattr(restoring, "_AHEAD_PIECES", 2)
    coming: list[list[int]] = []

    class Listening(Knit):
        def make_volumes(self, frames: Iterable[Frame]) -> Iterator[dict[str, Any]]:
            def heard() -> Iterator[Frame]:
                for frame in frames:
                    if isinstance(frame, dict) and "coming" in frame:
                        coming.append([len(one["pieces"]) for one in frame["coming"]])
                    yield frame

            return super().make_volumes(heard())

    filled = Listening()
    restore(objects, made, filled, Silent(), by="me")
    assert filled.archives == archives
    assert coming == [[0, 1, 1], [1], [5], [1]]


def test_a_destination_that_is_full_ends_it_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("knit_workflows.backup.taking.pieces_of", lambda it: pieces_of(it, 1000))

    class Full(Objects):
        def write(self, name: str, content: bytes) -> None:
            raise BackupProblem("cannot write", reason="there is no space left")

    watcher = Silent()
    with pytest.raises(BackupProblem, match="cannot write"):
        take_backup(Knit({"a": random.Random(1).randbytes(1_000_000)}), Full(), watcher)
    assert watcher.bytes < 100_000


def test_the_same_set_again_is_nothing_to_do():
    objects = Objects()
    made = take_backup(Knit({"a": b"1"}), objects, Silent()).set
    filled = Knit()
    assert not restore(objects, made, filled, Silent(), by="me").already
    assert restore(objects, made, filled, Silent(), by="me").already


def test_a_volume_that_is_there_with_other_content_is_refused_and_kept():
    objects = Objects()
    made = take_backup(Knit({"a": b"1", "b": b"2"}), objects, Silent()).set
    filled = Knit({"a": b"other"})
    with pytest.raises(BackupProblem, match="1 of 2 volumes could not be made") as refused:
        restore(objects, made, filled, Silent(), by="me")
    assert refused.value.reason == "Data a: the volume data-knitid-a is there, with other content"
    assert filled.archives == {"a": b"other", "b": b"2"}
    assert not filled.loaded
