"""A backup beside `tar | zstd` of the same files, and once more after one in a hundred has changed.

Database and folders are real ones, as `knit dev` has them; what is written is on the disk at the
end (`tar | zstd` is followed by `sync -f`). Seconds of CPU are told too: they depend less on what
else the machine does.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import psycopg

from knit_workflows import names
from knit_workflows.backup.destinations import open_destination
from knit_workflows.backup.direct import DirectInstallation
from knit_workflows.backup.folders import FolderVolumes
from knit_workflows.backup.restoring import choose_set, restore
from knit_workflows.backup.taking import take_backup
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.store import migrate
from tests.api.archives import tar_of
from tests.bench.figures import figure, percentile
from tests.bench.stack import stack
from tests.bench.transfers import DISK, serving
from tests.unit.backup.memory import Silent

_DATA = 1000
_PUSHES = 200
"""As many alone as beside backups, of which there are as many as it takes."""
_TINY = tar_of({"file": b"tiny"})
_TAR = {"Content-Type": "application/x-tar", "Accept": "application/x-tar"}
_ADD = """
WITH made AS (
    INSERT INTO run (run_id, plan_id, status, created_at, updated_at)
    SELECT gen_random_uuid(), plan_id, 'done', now(), now() FROM plan, generate_series(1, %(count)s)
     WHERE name = 'knit#uploaded'
 RETURNING run_id, plan_id)
INSERT INTO data (knit_id, run_id, output_id, volume, timestamp)
SELECT id, run_id, output_id, 'data-knitid-' || id, now()
  FROM (SELECT gen_random_uuid() AS id, run_id, plan_id FROM made) d
  JOIN plan_output USING (plan_id)
RETURNING knit_id::text
"""


class Source:
    """A database and a state folder, to which Data are added."""

    def __init__(self, url: str, state: Path, each: int) -> None:
        self._url = url
        self._each = each
        self.volumes = state / "volumes"
        self.volumes.mkdir(parents=True, exist_ok=True)
        # Half of it can be compressed, as in most data.
        self._half = b"a line of text that is like others, number %d\n" % each * (each // 80)
        self.installation = DirectInstallation(url, FolderVolumes(state), shown="bench")

    def add(self, count: int) -> None:
        with psycopg.connect(self._url) as connection:
            ids = [row[0] for row in connection.execute(_ADD.encode(), {"count": count})]
        for one in ids:
            folder = self.volumes / names.volume(one)
            folder.mkdir()
            rest = self._each - len(self._half)
            (folder / "file").write_bytes(self._half + os.urandom(rest))


async def backup() -> None:
    """1,000 Data of `KNIT_BENCH_MIB` MiB together (5,120): a first backup, a second, a restore."""
    total = int(os.environ.get("KNIT_BENCH_MIB", "5120")) << 20
    with tempfile.TemporaryDirectory(prefix="knit-bench-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        server = EmbeddedPostgres(root / "postgres")
        server.start()
        try:
            urls = [server.url("source"), server.url("target")]
            for url in urls:
                await migrate(url)
            _measure(root, urls, total)
        finally:
            server.stop()


def _measure(root: Path, urls: list[str], total: int) -> None:
    source = Source(urls[0], root / "state", total // _DATA)
    source.add(_DATA)
    plain = _timed(lambda: _tar(source.volumes, root / "plain.tar.zst"))
    with _clock() as first:
        take_backup(source.installation, open_destination("kept", root, new=True), Silent())
    figure("backup", plain[0] / first[0], "× tar | zstd", "≥ 0.7", seconds=first[0], cpu=first[1],
           tar_seconds=plain[0], tar_cpu=plain[1], mib=total >> 20)  # fmt: skip
    source.add(_DATA // 100)
    kept = open_destination("kept", root, new=True)
    with _clock() as second:
        taken = take_backup(source.installation, kept, Silent())
    assert taken.read == _DATA // 100
    figure("second backup", second[0] / first[0], "× the first", "≤ 0.05", seconds=second[0],
           cpu=second[1])  # fmt: skip
    copy = _timed(lambda: _copy(source.volumes, root / "copy"))
    into = DirectInstallation(urls[1], FolderVolumes(root / "restored"), shown="bench")
    with _clock() as back:
        restore(kept, choose_set(kept, None), into, Silent(), by="bench")
    figure("restore", copy[0] / back[0], "× plain copying", "≥ 0.6", seconds=back[0], cpu=back[1],
           copy_seconds=copy[0], copy_cpu=copy[1])  # fmt: skip


def _timed(work: Callable[[], object]) -> list[float]:
    with _clock() as spent:
        work()
    return spent


@contextmanager
def _clock() -> Iterator[list[float]]:
    """Gives seconds on the clock and of CPU, children's included, once the block has ended."""
    spent: list[float] = []
    began, used = time.monotonic(), _cpu()
    yield spent
    spent += [round(time.monotonic() - began, 2), round(_cpu() - used, 2)]


def _cpu() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in both)


def _tar(folder: Path, into: Path) -> None:
    script = 'tar -C "$1" -cf - . | zstd -3 -q -o "$2" && sync -f "$2"'
    subprocess.run(["sh", "-c", script, "sh", folder, into], check=True)


def _copy(folder: Path, into: Path) -> None:
    script = 'cp -a "$1" "$2" && sync -f "$2"'
    subprocess.run(["sh", "-c", script, "sh", folder, into], check=True)


async def pushes() -> None:
    """Pushes of a tiny file one after another: alone, and while backups read 2 GiB each."""
    with tempfile.TemporaryDirectory(prefix="knit-bench-", dir=DISK) as folder:
        root = Path(folder)
        state = root / "state"
        settings = {"KNIT_COMPUTE__KIND": "local", "KNIT_COMPUTE__LOCAL__STATE": str(state)}
        async with (
            stack(settings) as running,
            serving(running, root) as knit,
            httpx.AsyncClient(trust_env=False, timeout=120) as http,
        ):
            source = Source(running.url, state, 2 << 20)
            source.add(_DATA)
            await _pushed(http, knit.root, until=lambda count: count >= 20)  # all is loaded
            alone = await _pushed(http, knit.root, until=lambda count: count >= _PUSHES)
            beside: list[float] = []
            while len(beside) < _PUSHES:
                kept = root / f"kept-{len(beside)}"
                taking = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", __name__, running.url, state, kept)
                )
                has_ended = partial(_has_ended, taking)
                beside += await _pushed(http, knit.root, until=has_ended)
                assert await taking.wait() == 0
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        before, during = percentile(alone, share), percentile(beside, share)
        figure(f"push of a tiny file during a backup, {name}", during / before, "× without",
               "≤ 1.5" if name == "p99" else "", seconds=round(during, 4), idle=round(before, 4),
               samples=len(beside))  # fmt: skip


def _has_ended(process: asyncio.subprocess.Process, _: int) -> bool:
    return process.returncode is not None


async def _pushed(http: httpx.AsyncClient, root: str, until: Callable[[int], bool]) -> list[float]:
    took: list[float] = []
    while not until(len(took)):
        begun = time.perf_counter()
        answer = await http.post(f"{root}/data", content=_TINY, headers=_TAR)
        took.append(time.perf_counter() - begun)
        answer.raise_for_status()
    return took


def _take(url: str, state: str, destination: str) -> None:
    source = DirectInstallation(url, FolderVolumes(Path(state)), shown="bench")
    take_backup(source, open_destination(destination, Path(), new=True), Silent())


if __name__ == "__main__":
    _take(*sys.argv[1:])
