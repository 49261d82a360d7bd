"""Dumps: only COPY statements count, and what is cut or no dump is refused in words."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from knit_workflows.backup.knitfab import dump
from knit_workflows.backup.knitfab.dump import open_dump
from knit_workflows.backup.problems import BackupProblem, Damaged

SCRIPT = r'''
SET client_encoding = 'UTF8';
CREATE FUNCTION f() AS 'COPY public.evil (a) FROM stdin;';
COPY public.run (run_id, "timestamp", "odd ""name""") FROM stdin;
\.
COPY public.run (run_id, "timestamp", "odd ""name""") FROM '$$PATH$$/1.dat';
COPY public."user" (id) FROM '$$PATH$$/2.dat';
'''
ROWS = b"a\tb\\tc\t\\N\nd\te\tf\n\\.\n\n\n"


def write(folder: Path, files: dict[str, bytes], mtime: str = "1700000000") -> Path:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            one = tarfile.TarInfo(name)
            one.size, one.pax_headers = len(content), {"mtime": mtime}
            tar.addfile(one, io.BytesIO(content))
    path = folder / "dump.tar.gz"
    path.write_bytes(gzip.compress(packed.getvalue()))
    return path


def parts(**more: bytes) -> dict[str, bytes]:
    found = {"toc.dat": b"x", "1.dat": ROWS, "2.dat": b"\\.\n", "restore.sql": SCRIPT.encode()}
    return found | {name.replace("_", "."): content for name, content in more.items()}


def refusal(path: Path, table: str = "run") -> str:
    with pytest.raises(Damaged) as refused, open_dump(path) as opened:
        list(opened.rows(table, ["run_id"]))
    return f"{refused.value.summary}: {refused.value.reason}"


def test_rows_are_read_by_the_names_of_columns(tmp_path: Path):
    with open_dump(write(tmp_path, parts())) as opened:
        assert set(opened.tables) == {"run", "user"}
        assert list(opened.rows("run", ['odd "name"', "run_id"])) == [(None, "a"), ("f", "d")]
        assert list(opened.rows("user", ["id"])) == []
        assert list(opened.rows("none", ["id"])) == []
        assert opened.at.isoformat() == "2023-11-14T22:13:20+00:00"
        assert len(opened.digest) == 64


def test_what_is_cut_is_refused(tmp_path: Path):
    path = write(tmp_path, parts())
    whole = path.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(Damaged), open_dump(path):
            pass
    unpacked = gzip.decompress(whole)
    path.write_bytes(gzip.compress(unpacked[:2048]))
    assert refusal(path)
    assert "is cut" in refusal(write(tmp_path, parts(**{"1_dat": b"a\tb\tc\n"})))
    assert "is cut" in refusal(write(tmp_path, parts(**{"1_dat": b"a\tb\tc"})))
    with pytest.raises(BackupProblem, match="cannot be read"), open_dump(tmp_path / "none"):
        pass


def test_what_is_no_dump_is_refused(tmp_path: Path):
    assert "it has no toc.dat and restore.sql" in refusal(write(tmp_path, {"a": b""}))
    path = tmp_path / "dump.tar.gz"
    path.write_bytes(gzip.compress(b"hello" * 1000))
    assert "it is no archive of pg_dump" in refusal(path)
    missing = parts()
    del missing["1.dat"]
    assert "it has no 1.dat, which restore.sql names" in refusal(write(tmp_path, missing))
    assert "has 2 fields, not 3" in refusal(write(tmp_path, parts(**{"1_dat": b"a\tb\n\\.\n"})))
    assert "is not UTF-8" in refusal(write(tmp_path, parts(**{"1_dat": b"\xff\tb\tc\n\\.\n"})))
    twice = SCRIPT + "COPY other.run (a) FROM '$$PATH$$/2.dat';\n"
    assert "two tables run" in refusal(write(tmp_path, parts(restore_sql=twice.encode())))
    latin = SCRIPT.replace("UTF8", "LATIN1").encode()
    assert "are LATIN1, not UTF8" in refusal(write(tmp_path, parts(restore_sql=latin)))
    few = SCRIPT.replace("run_id", "id").encode()
    assert "no column run_id" in refusal(write(tmp_path, parts(restore_sql=few)))


@pytest.mark.parametrize("mtime", ["nan", "inf", "1e300", "-1e15", "99999999999999"])
def test_a_time_that_is_none_is_refused(tmp_path: Path, mtime: str):
    assert "the time of its toc.dat is none" in refusal(write(tmp_path, parts(), mtime))


def test_names_that_lead_elsewhere_are_no_files_of_a_dump(tmp_path: Path):
    odd = SCRIPT.replace("/1.dat", "/../../etc/passwd").encode()
    with open_dump(write(tmp_path, parts(restore_sql=odd))) as opened:
        assert "run" not in opened.tables
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in parts().items():
            one = tarfile.TarInfo(name)
            one.size = len(content)
            if name == "1.dat":
                one.size, one.type, one.linkname = 0, tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(one, io.BytesIO(content))
    path = tmp_path / "dump.tar.gz"
    path.write_bytes(gzip.compress(packed.getvalue()))
    assert "it has no 1.dat" in refusal(path)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dump, "_LARGEST", 1 << 20)
    path = tmp_path / "dump.tar.gz"
    path.write_bytes(gzip.compress(bytes(3 << 20)))
    with pytest.raises(Damaged, match="has more than"), open_dump(path):
        pass
