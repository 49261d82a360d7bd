"""A backup beside `tar | zstd` of the same files, and once more after one in a hundred has changed.

Database and folders are real ones, as `knit dev` has them; what is written is on the disk at the
end (`tar | zstd` is followed by `sync -f`). Seconds of CPU are told too: they depend less on what
else the machine does.
"""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from knit_workflows import names
from knit_workflows.backup.destinations import open_destination
from knit_workflows.backup.direct import DirectInstallation
from knit_workflows.backup.folders import FolderVolumes
from knit_workflows.backup.restoring import choose_set, restore
from knit_workflows.backup.taking import take_backup
from knit_workflows.embedded import EmbeddedPostgres
from knit_workflows.store import migrate
from tests.bench.figures import figure
from tests.unit.backup.memory import Silent

_DATA = 1000
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
        self.volumes.mkdir(parents=True)
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
    """1,000 Data of `KNIT_BENCH_MIB` MiB together (512): a first backup, a second, a restore."""
    total = int(os.environ.get("KNIT_BENCH_MIB", "512")) << 20
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
