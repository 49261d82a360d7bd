"""What is in volumes is hashed and compared: what is a change, and what goes on after a cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from knit_workflows import archive
from knit_workflows.backup.blobs import PIECE, Piece, Reader, Writer, pieces_of
from knit_workflows.backup.content.checking import Change, Choice, ContentCheck, InSet
from knit_workflows.backup.content.hashing import Meter, hash_files, hash_volumes
from knit_workflows.backup.problems import Damaged
from knit_workflows.backup.sets import VolumeEntry
from knit_workflows.backup.volumes import Wanted
from knit_workflows.store.inspection.hashes import KnownContent, SeenContent
from tests.unit.backup.memory import Knit, Objects, Silent


def packed(folder: Path) -> bytes:
    return b"".join(archive.iter_pack(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "volume"
    (made / "deep").mkdir(parents=True)
    (made / "deep" / "file").write_bytes(b"content")
    (made / "link").symlink_to("deep/file")
    return made


def hashed(folder: Path) -> str:
    return hash_files(iter([packed(folder)]))


def test_a_hash_is_that_of_the_files_however_they_are_stored(folder: Path):
    before = hashed(folder)
    assert hash_files(bytes([one]) for one in packed(folder)) == before
    (folder / "deep" / "file").chmod(0o600)
    (folder / "deep" / "file").touch()
    assert hashed(folder) == before, "storage changes times and permissions"


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "deep" / "file").write_bytes(b"Content"),
        lambda root: (root / "deep" / "file").write_bytes(b"content\0"),
        lambda root: (root / "deep" / "file").chmod(0o755),
        lambda root: (root / "deep" / "file").rename(root / "deep" / "life"),
        lambda root: (root / "empty").mkdir(),
        lambda root: ((root / "link").unlink(), (root / "link").symlink_to("deep")),
        lambda root: (root / "link").unlink(),
    ],
)
def test_any_other_change_gives_another_hash(folder: Path, change: Any):
    before = hashed(folder)
    change(folder)
    assert hashed(folder) != before


def test_holes_are_zeros(tmp_path: Path):
    whole, sparse = tmp_path / "a", tmp_path / "b"
    for one in (whole, sparse):
        one.mkdir()
    (whole / "file").write_bytes(bytes(1 << 20))
    with (sparse / "file").open("wb") as file:
        file.truncate(1 << 20)
    assert hashed(whole) == hashed(sparse)


def test_a_meter_cuts_pieces_as_a_backup_does():
    content = bytes(PIECE) + b"rest"
    chunks = [content[:70], content[70 : PIECE + 1], content[PIECE + 1 :]]
    meter = Meter(with_pieces=True)
    assert b"".join(meter.passed(chunks)) == content
    assert meter.pieces == [Piece.of(one) for one in pieces_of(chunks)]
    assert meter.size == len(content)


@dataclass
class Contents(Knit):
    """An installation that remembers hashes as the database does."""

    known: dict[str, str] = field(default_factory=dict)
    recorded: list[tuple[str, str]] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    at_once: int | None = None

    def known_contents(
        self, knit_ids: Sequence[str] | None, older_than: float
    ) -> list[KnownContent]:
        return [
            KnownContent(
                one, f"run-{one}", f"data-knitid-{one}", True, not one.startswith("failed"),
                not one.startswith("pushed"), self.known.get(one),
                "then" if one in self.known else None,
            )
            for one in sorted([*self.archives, *self.without_volume], key=self._last_try)
            if knit_ids is None or one in knit_ids
        ]  # fmt: skip

    def _last_try(self, knit_id: str) -> int:
        return max((at for at, one in enumerate(self.tried) if one == knit_id), default=-1)

    def hash_volumes(
        self, wanted: Sequence[Wanted], *, with_pieces: bool, seconds: float | None
    ) -> Iterator[dict[str, Any]]:
        wanted = wanted[: self.at_once]
        return hash_volumes(self, wanted, with_pieces=with_pieces, seconds=seconds)  # type: ignore[arg-type]

    def record_contents(self, seen: Sequence[SeenContent], *, by: str, replaces: bool) -> None:
        for one in seen:
            self.tried.append(one.knit_id)
            if one.sha256 is None:
                continue
            assert replaces or self.known.get(one.knit_id, one.sha256) == one.sha256
            self.known[one.knit_id] = one.sha256
            self.recorded.append((one.knit_id, by))


@pytest.fixture
def knit(folder: Path) -> Contents:
    return Contents({one: packed(folder) for one in ("a", "b", "c")})


def run(knit: Contents, in_set: InSet | None = None, **choice: Any) -> tuple[list[Change], Any]:
    check = ContentCheck(knit, Choice(**choice), Silent(), in_set)
    return list(check.changes()), check.counted


def test_what_is_new_is_recorded_and_what_is_known_is_compared(knit: Contents, folder: Path):
    found, counted = run(knit)
    assert found == []
    assert counted == {
        "contents compared": 0, "contents recorded": 3, "contents left for later": 0,
    }  # fmt: skip
    (folder / "deep" / "file").write_bytes(b"changed")
    knit.archives["b"] = packed(folder)
    for _ in range(2):  # it stays a finding
        [change], counted = run(knit)
        assert change.knit_id == "b"
        assert "has changed since then" in change.message
        assert "repeat the command with --data b --accept" in change.cure
        assert counted["contents compared"] == 3
    assert run(knit, knit_ids=("b",), accepted_by="ann")[0] == []
    assert knit.recorded[-1] == ("b", "ann")
    assert run(knit)[0] == []


def test_what_cannot_be_read_is_told_unless_nobody_needs_it(knit: Contents):
    knit.without_volume = frozenset({"lost", "failed-run", "deleted"})
    knit.deleted = {"deleted"}
    knit.archives["cut"] = knit.archives["a"][:700]
    found, _ = run(knit)
    assert [(one.knit_id, one.message.partition(":")[0]) for one in found] == [
        ("cut", "its volume data-knitid-cut cannot be read"),
        ("lost", "its volume data-knitid-lost cannot be read"),
    ]
    assert set(knit.known) == {"a", "b", "c"}


def test_only_what_a_run_has_made_is_made_again_by_it(knit: Contents, folder: Path):
    """What was pushed or adopted has no Run that could be retried."""
    knit.without_volume = frozenset({"lost", "pushed-lost"})
    knit.archives = {"a": knit.archives["a"], "pushed": knit.archives["a"]}
    cures = {one.knit_id: one.cure for one in run(knit)[0]}
    (folder / "deep" / "file").write_bytes(b"changed")
    knit.archives = dict.fromkeys(knit.archives, packed(folder))
    cures |= {one.knit_id: one.cure for one in run(knit)[0]}
    for knit_id in ("lost", "a"):
        assert f"retry the Run run-{knit_id}" in cures[knit_id]
    for knit_id in ("pushed-lost", "pushed"):
        assert "push it again" in cures[knit_id]
        assert "retry" not in cures[knit_id]


def test_what_cannot_be_read_keeps_no_turn_from_what_can(knit: Contents):
    knit.archives = {"cut": knit.archives["a"][:700], **knit.archives}
    knit.without_volume = frozenset({"failed-run"})
    knit.at_once = 1
    told = [one.knit_id for _ in range(6) for one in run(knit)[0]]
    assert set(knit.known) == {"a", "b", "c"}
    assert told == ["cut", "cut"], "it is told in each round"


def test_a_data_that_is_not_there_is_told(knit: Contents):
    [change], _ = run(knit, knit_ids=("a", "other"))
    assert change.knit_id == "other"


def test_nothing_is_begun_after_the_time_and_the_rest_is_counted(knit: Contents):
    _, counted = run(knit, seconds=-1.0)
    assert counted["contents left for later"] == 3
    assert knit.known == {}


def test_a_set_is_compared_by_its_digests_and_read_only_where_they_differ(
    knit: Contents, folder: Path
):
    objects = Objects()
    with Writer(objects, []) as writer:
        (folder / "deep" / "file").touch()
        other = writer.put(packed(folder)).result()
        (folder / "deep" / "file").write_bytes(b"changed")
        changed = writer.put(packed(folder)).result()
    (folder / "deep" / "file").unlink()
    unread = Piece.of(knit.archives["a"])  # it is equal, so the set need not even have it
    entries = {
        "a": VolumeEntry("a", (unread,)),
        "b": VolumeEntry("b", (other,)),
        "c": VolumeEntry("c", (changed,)),
    }
    with Reader(objects) as reader:
        in_set = InSet("S", entries, reader)
        [change], counted = run(knit, in_set)
        assert (change.knit_id, change.message) == ("c", "its content is not that of the set S")
        assert counted["contents compared with the set"] == 3
        assert set(knit.known) == {"a", "b"}
        entries["a"] = VolumeEntry("a", (Piece("0" * 64, 1),))
        with pytest.raises(Damaged):
            run(knit, in_set)
