"""The part `data/` that is written for a Knitfab: what is there stays until there is better."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest

from knit_workflows import names
from knit_workflows.backup.knitfab.claims import CONTENT, DESCRIPTION
from knit_workflows.backup.knitfab.writing import _alone, _Claims, _told, write_layout
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.volumes import Wanted
from tests.unit.backup.memory import Knit, Silent

WANTED = [Wanted("own", "data-knitid-own"), Wanted("theirs", "elsewhere", owned=False)]


def a_knit() -> Knit:
    return Knit({"own": b"1", "theirs": b"2"})


def written(knit: Knit, folder: Path, wanted: Sequence[Wanted] = WANTED) -> _Claims:
    (folder / "data").mkdir(exist_ok=True)
    claims = _Claims(knit, folder / "data", Silent())  # type: ignore[arg-type]
    claims.write(wanted)
    assert [one.name for one in folder.iterdir()] == ["data"]
    return claims


def content(folder: Path, knit_id: str) -> bytes:
    return gzip.decompress((folder / "data" / names.volume(knit_id) / CONTENT).read_bytes())


def test_why_the_database_cannot_be_put_together_is_told(tmp_path: Path):
    with pytest.raises(BackupProblem, match="cannot be put together") as told, _told(tmp_path):
        raise psycopg.errors.DiskFull("no space left")
    assert told.value.reason == "no space left"


def test_what_was_adopted_is_read_again_and_the_rest_is_not(tmp_path: Path):
    knit = a_knit()
    written(knit, tmp_path)
    knit.archives = {"own": b"never read", "theirs": b"new"}
    assert written(knit, tmp_path).read == 1
    assert (content(tmp_path, "own"), content(tmp_path, "theirs")) == (b"1", b"new")


def test_data_that_were_made_again_into_another_volume_are_read_again(tmp_path: Path):
    """As a Run makes them that waited in the set which was restored."""
    knit, again = a_knit(), [Wanted("own", "data-knitid-other")]
    written(knit, tmp_path)
    knit.archives["own"] = b"new"
    for read in (1, 0):
        assert written(knit, tmp_path, again).read == read
        assert content(tmp_path, "own") == b"new"


def test_the_claim_of_an_earlier_knit_is_that_of_the_volume_it_is_called_after(tmp_path: Path):
    knit, described = a_knit(), tmp_path / "data" / names.volume("own") / DESCRIPTION
    written(knit, tmp_path)
    claim = json.loads(described.read_text())
    del claim["metadata"]["annotations"]
    described.write_text(json.dumps(claim))
    assert written(knit, tmp_path, WANTED[:1]).read == 0
    assert written(knit, tmp_path, [Wanted("own", "data-knitid-other")]).read == 1
    for unknown in ("{", "[]", '{"metadata": {"annotations": null}}'):
        described.write_text(unknown)
        assert written(knit, tmp_path, WANTED[:1]).read == 1


def test_one_at_a_time_writes_into_a_folder(tmp_path: Path):
    """Another one would take the drafts of the first for those of a killed one."""
    with _alone(tmp_path), pytest.raises(BackupProblem, match="another command writes into"):
        write_layout(Knit(), tmp_path, Silent())  # type: ignore[arg-type]
    with _alone(tmp_path):
        pass


def test_the_last_copy_of_what_was_adopted_is_kept_if_it_cannot_be_read_again(tmp_path: Path):
    knit = a_knit()
    written(knit, tmp_path)
    del knit.archives["theirs"]
    assert list(written(knit, tmp_path).unreadable) == ["theirs"]
    assert content(tmp_path, "theirs") == b"2"


def test_a_copy_that_a_killed_one_had_set_aside_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Killed(BaseException):
        pass

    knit = a_knit()
    written(knit, tmp_path)
    really, left = Path.rename, 1

    def rename(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return really(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(Killed):
        written(knit, tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "data" / names.volume("theirs")).exists()
    del knit.archives["theirs"]
    written(knit, tmp_path)
    assert content(tmp_path, "theirs") == b"2"
