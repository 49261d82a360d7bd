"""How the database's container starts, with stand-ins for PostgreSQL's programs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.charts.helm import CHARTS
from tests.waiting import PATIENCE, wait_until

START: Final = CHARTS / "knit-db-postgres" / "files" / "start.sh"
PROGRAMS: Final = {
    "initdb": 'for one in "$@"; do case $one in --pgdata=*) made=${one#*=} ;; esac; done\n'
    'mkdir "$made" && echo 15 >"$made/PG_VERSION"',
    "pg_ctl": "true",
    "psql": "true",
    "postgres": 'if [ "$1" = --version ]; then echo "postgres (PostgreSQL) 15.1"; exit; fi\n'
    "echo serves >&2; exec sleep 1000",
}


class Server:
    """The script at work on a volume; `said` is what it has said so far."""

    def __init__(self, volume: Path, programs: Path, log: Path) -> None:
        path = f"{programs}:{os.environ['PATH']}"
        environment = {"PATH": path, "PGDATA": str(volume / "pgdata")}
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(["sh", START], env=environment, stderr=file)

    def has_said(self, words: str) -> bool:
        return words in self._log.read_text()

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def programs(folder: Path) -> None:
    folder.mkdir()
    for name, script in PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o700)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """Two on one volume, of which the second is started when the first one serves."""
    programs(tmp_path / "bin")
    volume = tmp_path / "volume"
    volume.mkdir()
    with ExitStack() as stack:

        def start(name: str) -> Server:
            one = Server(volume, tmp_path / "bin", tmp_path / name)
            stack.callback(one.process.wait)
            stack.callback(one.process.kill)
            return one

        first = start("first")
        wait_until(lambda: first.has_said("serves"))
        second = start("second")
        wait_until(lambda: second.has_said("waits for another server on this volume to end"))
        yield first, second


def test_a_second_server_waits_for_the_end_of_the_first(servers: tuple[Server, Server]) -> None:
    """Though it has another pod, and so does not see its processes."""
    first, second = servers
    assert not second.has_said("serves")
    first.end()
    wait_until(lambda: second.has_said("serves"))


def test_one_that_waits_ends_when_told(servers: tuple[Server, Server]) -> None:
    first, second = servers
    assert second.end() == 143
    assert first.process.poll() is None


def test_an_image_without_flock_says_what_it_lacks(tmp_path: Path) -> None:
    """And serves: so it was before there was the lock."""
    programs(tmp_path / "bin")
    for name in ("cat", "mkdir", "mv", "rm", "sed", "sh", "sleep"):
        found = shutil.which(name)
        assert found
        (tmp_path / "bin" / name).symlink_to(found)
    with (tmp_path / "log").open("wb") as log:
        environment = {"PATH": str(tmp_path / "bin"), "PGDATA": str(tmp_path / "pgdata")}
        process = subprocess.Popen(["/bin/sh", START], env=environment, stderr=log)
    try:
        wait_until(lambda: "serves" in (tmp_path / "log").read_text())
    finally:
        process.kill()
        process.wait()
    assert "this image has no flock" in (tmp_path / "log").read_text()
