"""The claims of a backup: which there are, and what archives are refused."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from pathlib import Path

import pytest

from knit_workflows.backup.knitfab.claims import Claim, _capacity, _unpacked_size, find_claims
from knit_workflows.backup.problems import Damaged
from tests.knitfab import write_claim


def claim(folder: Path, size: str = "1Gi") -> Claim:
    write_claim(folder, "a", {"x": b"1" * 10, "y/z": b"2"}, size)
    return find_claims(folder / "data")["data-knitid-a"]


def test_claims_are_found_by_name(tmp_path: Path):
    assert find_claims(tmp_path / "data") == {}
    found = claim(tmp_path)
    (tmp_path / "data" / "half").mkdir()
    (tmp_path / "data" / "half" / "pvc.json").write_text("{}")
    (tmp_path / "data" / "file").write_text("")
    assert list(find_claims(tmp_path / "data")) == ["data-knitid-a"]
    assert (found.capacity, found.check()) == (1 << 30, 11)


def test_a_volume_has_room_for_what_it_had_outgrown(tmp_path: Path):
    small = claim(tmp_path, "1k")
    size = len(gzip.decompress(small.content.read_bytes()))
    assert small.capacity == size + size // 4 + (64 << 20)


@pytest.mark.parametrize(("unpacked", "capacity"), [(875, 1000), (876, 876 + 219 + (64 << 20))])
def test_a_volume_that_was_nearly_full_gets_room_for_another_file_system(
    unpacked: int, capacity: int
):
    assert _capacity(1000, unpacked) == capacity
    assert _capacity(1 << 40, (1 << 40) - 1) > 1 << 40


def test_content_that_packs_larger_than_it_is_is_not_taken_for_much_more(tmp_path: Path):
    small = claim(tmp_path, "1k")
    whole = gzip.decompress(small.content.read_bytes())
    for content in (whole, whole + random.Random(1).randbytes(200_000)):
        packed = gzip.compress(content, 0)
        assert len(packed) > len(content)
        small.content.write_bytes(packed)
        assert _unpacked_size(small.content) == len(content)


def test_what_is_more_than_the_end_of_its_file_can_say_is_counted(tmp_path: Path):
    with (tmp_path / "content").open("wb") as file:
        file.truncate(5 << 30)
        file.seek(-4, 2)
        file.write((2 << 30).to_bytes(4, "little"))
    assert _unpacked_size(tmp_path / "content") == 6 << 30


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"metadata": {"name": "data-knitid-a"}}', "[" * 100_000]
)
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: str):
    claim(tmp_path)
    (tmp_path / "data" / "data-knitid-a" / "pvc.json").write_text(text)
    with pytest.raises(Damaged, match="is no PersistentVolumeClaim"):
        find_claims(tmp_path / "data")


def test_a_claim_is_not_taken_for_another(tmp_path: Path):
    claim(tmp_path)
    described = tmp_path / "data" / "data-knitid-a" / "pvc.json"
    value = json.loads(described.read_text())
    value["metadata"]["name"] = "other"
    described.write_text(json.dumps(value))
    with pytest.raises(Damaged, match="is of the claim 'other'"):
        find_claims(tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "kind", "link", "why"),
    [
        ("/etc/passwd", tarfile.REGTYPE, "", "the path is absolute"),
        ("./../../x", tarfile.REGTYPE, "", "leads out of the folder"),
        ("./x", tarfile.CHRTYPE, "", "a character device cannot be Data"),
        ("./x", tarfile.BLKTYPE, "", "a block device cannot be Data"),
        ("./x", tarfile.LNKTYPE, "../../etc/passwd", "leads out of the folder"),
        ("./x", tarfile.LNKTYPE, "/etc/passwd", "the path is absolute"),
        ("../x", tarfile.SYMTYPE, "y", "leads out of the folder"),
    ],
)
def test_hostile_archives_are_refused(tmp_path: Path, name: str, kind: bytes, link: str, why: str):
    found = claim(tmp_path)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        one = tarfile.TarInfo(name)
        one.type, one.linkname = kind, link
        tar.addfile(one)
    found.content.write_bytes(gzip.compress(packed.getvalue()))
    with pytest.raises(Damaged, match="is refused") as refused:
        found.check()
    assert why in refused.value.reason


def test_what_is_cut_is_refused(tmp_path: Path):
    found = claim(tmp_path)
    whole = found.content.read_bytes()
    for size in (0, 20, len(whole) - 1):
        found.content.write_bytes(whole[:size])
        with pytest.raises(Damaged):
            found.check()
    found.content.write_bytes(gzip.compress(gzip.decompress(whole)[:1000]))
    with pytest.raises(Damaged, match="is refused"):
        found.check()
