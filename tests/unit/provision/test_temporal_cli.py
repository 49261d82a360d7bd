"""Which `temporal` is used: the one named, one on PATH that works, the cache, or a new one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from knit_workflows.provision import go_build, sdk_download, temporal_cli
from knit_workflows.provision.cache import SetUpError
from tests.unit.provision.conftest import Stand

GOOD = 'echo "temporal version 1.5.1 (Server 1.29.1, UI 2.45.1)"'
OLD = 'echo "temporal version 0.10.0 (server 1.21.2) (ui 2.16.2)"'


@pytest.fixture(autouse=True)
def nothing_else(stand_in: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `temporal` and no `go` of this machine is on PATH, nor beside the Python used."""
    python = tmp_path / "venv" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))


def cached(script: str, folder: Path) -> Path:
    program = folder / "temporal"
    folder.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_one_on_path_comes_before_the_cache(stand_in: Stand) -> None:
    program = stand_in("temporal", GOOD)
    cached(GOOD, sdk_download.download_folder())
    assert temporal_cli.find_temporal() == program


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (OLD, "holds Temporal's server 1.21, and knit needs 1.27 or newer"),
        ('echo "temporal version 0.0.0"', "does not say with `--version` which server it holds"),
        (f"{GOOD}; exit 1", "does not say with `--version` which server it holds"),
    ],
)
def test_one_on_path_that_does_not_work_is_passed_over_in_words(
    stand_in: Stand, script: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    on_path = stand_in("temporal", script)
    assert temporal_cli.find_temporal() is None
    assert capsys.readouterr().err == f"{on_path} {said}: looking for another one\n"
    program = cached(GOOD, sdk_download.download_folder())
    assert temporal_cli.find_temporal() == program


def test_a_file_that_is_no_program_is_passed_over(stand_in: Stand) -> None:
    stand_in("temporal", GOOD).write_bytes(b"\x7fELF of another machine")
    assert temporal_cli.find_temporal() is None


def test_the_one_named_comes_first_and_must_work(
    stand_in: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in("temporal", GOOD)
    named = cached(GOOD, tmp_path / "mine")
    monkeypatch.setenv("KNIT_TEMPORAL_CLI", str(named))
    assert temporal_cli.find_temporal() == named
    named.unlink()
    with pytest.raises(SetUpError, match=r"KNIT_TEMPORAL_CLI names .*: correct or unset it"):
        temporal_cli.obtain_temporal()


def test_what_was_built_is_found_too(stand_in: Stand) -> None:
    built = cached(GOOD, temporal_cli.PROGRAMS.folder())
    assert temporal_cli.find_temporal() == built


def test_one_beside_this_python_is_found_whatever_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = cached(GOOD, tmp_path / "another venv")
    monkeypatch.setattr(sys, "executable", str(beside.parent / "python"))
    assert temporal_cli.find_temporal() == beside


def test_after_a_failed_download_it_is_built(
    stand_in: Stand, capsys: pytest.CaptureFixture[str]
) -> None:
    """`go` is a stand-in that writes what it should build: the order is what is tested."""
    stand_in(
        "go",
        "echo 'go: downloading somewhere v1' >&2; echo some/package >&2\n"
        'while [ "$1" != -o ]; do shift; done\n'
        f"printf '%s\\n' '#!/bin/sh' '{GOOD}' > $2/temporal; chmod +x $2/temporal",
    )
    program = temporal_cli.obtain_temporal(stall_timeout=0.0)  # no time for a download: no network
    assert program == temporal_cli.PROGRAMS.folder() / "temporal"
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.startswith("downloading Temporal's command line (")
    # This Python stands alone, so the download may also end by itself before it is given up.
    assert second.startswith("the download by Temporal's SDK failed: ")
    assert third == "building temporal with Go (about three minutes on two cores, once) ..."
    assert temporal_cli.find_temporal() == program


def test_where_none_can_be_had_it_says_what_was_tried(stand_in: Stand) -> None:
    with pytest.raises(SetUpError, match=r"none could be downloaded, and building .* needs Go"):
        temporal_cli.obtain_temporal(stall_timeout=0.0)


def test_the_program_says_what_to_do_on_stderr_and_nothing_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KNIT_TEMPORAL_CLI", "/nowhere/temporal")
    assert temporal_cli.main() == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith("temporal: install Temporal's CLI (https://")


def test_what_a_failing_build_said_is_shown(
    stand_in: Stand, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in("go", "echo 'package x: no such thing' >&2; exit 1")
    (tmp_path / "go.mod").touch()
    (tmp_path / "go.sum").touch()
    programs = go_build.GoPrograms("thing", tmp_path, ("example.invalid/thing",))
    with pytest.raises(SetUpError, match="`go build` of thing failed"):
        go_build.build_if_needed(programs)
    assert "package x: no such thing\n" in capsys.readouterr().err
    assert not programs.folder().exists()


def test_a_second_process_says_that_it_waits(cache: Path) -> None:
    """Two `make demo` at once: the one that comes second waits for the first one's download."""
    from knit_workflows.provision.cache import locked

    lock = cache / "lock"
    program = (
        "import sys; from pathlib import Path; from knit_workflows.provision.cache import locked\n"
        "with locked(Path(sys.argv[1])): print('mine')"
    )
    with locked(lock):
        second = subprocess.Popen(
            [sys.executable, "-c", program, str(lock)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert second.stderr is not None
        assert second.stderr.readline() == f"waiting for another process, which holds {lock} ...\n"
    assert second.communicate() == ("mine\n", "")
