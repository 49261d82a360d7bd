"""The part `data/` that is written for a Knitfab: what is there stays until there is better."""

from __future__ import annotations

import gzip
from pathlib import Path

import psycopg
import pytest

from knit_workflows import names
from knit_workflows.backup.knitfab.claims import CONTENT
from knit_workflows.backup.knitfab.writing import _Claims, _told
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.volumes import Wanted
from tests.unit.backup.memory import Knit, Silent

WANTED = [Wanted("own", "data-knitid-own"), Wanted("theirs", "elsewhere", owned=False)]


def a_knit() -> Knit:
    return Knit({"own": b"1", "theirs": b"2"})


def written(knit: Knit, folder: Path) -> _Claims:
    (folder / "data").mkdir(exist_ok=True)
    claims = _Claims(knit, folder / "data", Silent())  # type: ignore[arg-type]
    claims.write(WANTED)
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
