"""How fast the real command pushes and pulls through a real API, beside `tar` on the same disk."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from knit_cli.transfer.byte_streams import gunzipped, unzstd
from knit_workflows.embedded import free_port
from tests.bench.figures import figure
from tests.bench.stack import Stack, stack

DISK = Path("/var/tmp")  # by its definition not in memory, as /tmp may be
MEMORY = Path("/dev/shm")
MIB = 1 << 20
Decode = Callable[[Iterable[bytes]], Iterable[bytes]]


@dataclass(frozen=True)
class Case:
    """Some files to move, and what is wanted of it."""

    name: str
    files: int
    file_bytes: int
    rounds: int = 3
    """The best one counts on either side: what else the machine does is not ours to measure."""

    @property
    def mib(self) -> float:
        """The content."""
        return self.files * self.file_bytes / MIB

    def write(self, folder: Path) -> Path:
        """Makes the files, of random bytes, a hundred per folder; they have reached the disk."""
        for number in range(self.files):
            path = folder / f"part-{number // 100:03d}" / f"file-{number:05d}"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for left in range(self.file_bytes, 0, -MIB):
                    file.write(os.urandom(min(left, MIB)))
        subprocess.run(("sync", "-f", folder), check=True)
        return folder


LARGE = Case("1 GiB in 8 files", 8, 128 * MIB, rounds=5)
GZIPPED = Case("256 MiB in 2 files", 2, 128 * MIB, rounds=1)
SMALL = Case("10,000 files of 3 KB", 10_000, 3000)


@dataclass(frozen=True)
class Spent:
    """What a command, or several, took."""

    seconds: float
    peak_mib: float = 0.0


@dataclass(frozen=True)
class Installation:
    """An API with its stack, a user's folder on the disk, and `knit` in it."""

    folder: Path
    port: int
    api_pid: int

    @property
    def root(self) -> str:
        """The API's address."""
        return f"http://127.0.0.1:{self.port}/api"

    async def knit(self, *words: object) -> tuple[Spent, str]:
        """Runs the command; gives what it took and what it printed."""
        program = (sys.executable, "-m", "knit_cli", "--profile-store", str(self.folder / "store"))
        command = (*program, *map(str, words))
        return await asyncio.to_thread(_measured, command, self.folder, dict(os.environ))

    def forget_peak(self) -> None:
        """Makes the API's peak of memory begin anew."""
        Path(f"/proc/{self.api_pid}/clear_refs").write_text("5")

    @property
    def api_peak_mib(self) -> float:
        """The most memory the API had since then."""
        return _peak_mib(self.api_pid)


LINES = b"".join(
    b"%d: a line of a log that says little, %d\n" % (n, n * 7919) for n in range(25_000)
)
CODINGS: dict[str, tuple[dict[str, str], Decode]] = {
    "plain": ({"Accept": "application/x-tar", "Accept-Encoding": "identity"}, iter),
    "zstd": ({"Accept": "application/x-tar", "Accept-Encoding": "zstd"}, unzstd),
    "tar.gz": ({"Accept": "application/tar+gzip"}, gunzipped),
}
ETHERNET = {"100 Mbit/s": 12.5e6, "1 Gbit/s": 125e6}
"""Bytes a second."""


async def codings(mib: int) -> None:
    """Gets text and random bytes in each coding: on this machine, and over slower connections.

    In memory, and what arrives is decoded and dropped. The best of three rounds counts.
    """
    async with _installed(MEMORY) as knit, AsyncExitStack() as stack:
        ports = {"this machine": knit.port}
        for name, rate in ETHERNET.items():
            ports[name] = await stack.enter_async_context(_slowed(knit.port, rate))
        for name, block in (("text", (LINES * 2)[:MIB]), ("random bytes", os.urandom(MIB))):
            source = knit.folder / name.replace(" ", "-")
            source.mkdir()
            with (source / "file").open("wb") as file:
                for _ in range(mib):
                    file.write(block)
            knit_id = json.loads((await knit.knit("data", "push", source))[1])["knitId"]
            path = f"/api/data/{knit_id}"
            for where, port in ports.items():
                for coding, (headers, decode) in CODINGS.items():
                    took = [
                        await asyncio.to_thread(_fetched, port, path, headers, decode)
                        for _ in range(3)
                    ]
                    figure(f"{name} as {coding} over {where}", mib / min(took), "MiB/s", "")


def _fetched(port: int, path: str, headers: dict[str, str], decode: Decode) -> float:
    """Gets an archive and drops it; gives the seconds."""
    begun = time.perf_counter()
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        assert response.status == 200
        for _ in decode(iter(lambda: response.read1(120 << 10), b"")):
            pass
    return time.perf_counter() - begun


@asynccontextmanager
async def _slowed(port: int, bytes_per_second: float) -> AsyncIterator[int]:
    """Gives another port of a server, from which no more than that comes on a connection."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: float) -> None:
        begun, count = time.perf_counter(), 0
        with suppress(OSError):
            while data := await reader.read(64 << 10):
                count += len(data)
                await asyncio.sleep(begun + count / rate - time.perf_counter())
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def serve(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(
            copy(client, to_server, 1e12), copy(server, to_client, bytes_per_second)
        )
        to_client.close()
        to_server.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]


async def transfers() -> None:
    """Pushes and pulls of large and of many small files, then the old format.

    Small files also where the disk has no part in it: to make ten thousand takes some disks longer
    than all the rest.
    """
    async with _installed(DISK) as knit:
        await _moved(knit, LARGE, "on the same disk", target=">= 0.8 x the baseline's rate")
        await _moved(knit, SMALL, "on the same disk", target="<= 3 s")
        await _moved_gzipped(knit, GZIPPED)
    async with _installed(MEMORY) as knit:
        await _moved(knit, SMALL, "in memory", target="<= 3 s")


@asynccontextmanager
async def _installed(where: Path) -> AsyncIterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="knit-bench-", dir=where) as folder:
        async with _running(Path(folder)) as knit:
            yield knit


@asynccontextmanager
async def _running(folder: Path) -> AsyncIterator[Installation]:
    state = folder / "state"
    settings = {"KNIT_COMPUTE__KIND": "local", "KNIT_COMPUTE__LOCAL__STATE": str(state)}
    async with stack(settings) as running, serving(running, folder) as knit:
        yield knit


@asynccontextmanager
async def serving(running: Stack, folder: Path) -> AsyncIterator[Installation]:
    """Starts an API, and makes `folder` one from which the command reaches it."""
    port = free_port()
    command = (sys.executable, "-m", "knit_api", "--port", str(port))
    with (folder / "api.log").open("wb") as log:
        api = subprocess.Popen(command, env=running.environment, stderr=log)
    try:
        knit = Installation(folder, port, api.pid)
        await _ready(port)
        (folder / "profile.yaml").write_text(json.dumps({"apiRoot": knit.root}))
        await knit.knit("init", folder / "profile.yaml")
        yield knit
    finally:
        api.terminate()
        api.wait()


async def _ready(port: int) -> None:
    async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(60):
        while True:
            with suppress(httpx.HTTPError):
                if (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.1)


async def _moved(knit: Installation, case: Case, where: str, target: str) -> None:
    """Prints how long push and pull take, each beside `tar` with the same promise of durability."""
    source = case.write(_fresh(knit.folder / "source"))
    pushed, pulled, stored, copied = [], [], [], []
    knit.forget_peak()
    for turn in range(case.rounds):
        stored.append(await _copied(source, knit.folder / "copy", durable=True))
        _forget(source)
        spent, printed = await knit.knit("data", "push", source)
        pushed.append(spent)
        knit_id = json.loads(printed)["knitId"]
        (volume,) = (knit.folder / "state" / "volumes").iterdir()
        # From the very files that are pulled. Who reads them first has the slower disk: in turns.
        if turn % 2:
            copied.append(await _copied(volume, knit.folder / "copy", durable=False))
        _forget(knit.folder / "state")
        spent, _ = await knit.knit("data", "pull", "-x", knit_id, knit.folder / "pulled")
        pulled.append(spent)
        _same(source, knit.folder / "pulled" / knit_id)
        _fresh(knit.folder / "pulled")
        if not turn % 2:
            copied.append(await _copied(volume, knit.folder / "copy", durable=False))
        _drop(knit.folder / "state" / "volumes")
    for verb, ours, theirs in (("push", pushed, stored), ("pull", pulled, copied)):
        best, baseline = min(one.seconds for one in ours), min(one.seconds for one in theirs)
        figure(
            f"{verb} of {case.name}, {where}",
            best,
            "s",
            target,
            mib_per_second=round(case.mib / best),
            baseline=round(baseline, 3),
            baseline_is=f"tar | tar {where}" + (", then sync -f" if verb == "push" else ""),
            baselines=[round(one.seconds, 2) for one in theirs],
            ratio=round(baseline / best, 2),
            rounds=[round(one.seconds, 2) for one in ours],
            client_peak_mib=round(max(one.peak_mib for one in ours)),
            api_peak_mib=round(knit.api_peak_mib),
        )


async def _copied(source: Path, target: Path, *, durable: bool) -> Spent:
    """Copies with tar, from a disk whose content is not in memory."""
    _forget(source)
    _fresh(target)
    ends = f" && sync -f {target}" if durable else ""
    script = f"tar cf - -C {source} . | tar xf - -C {target}{ends}"
    spent, _ = await asyncio.to_thread(_measured, ("sh", "-c", script), target.parent, os.environ)
    _fresh(target)
    return spent


async def _moved_gzipped(knit: Installation, case: Case) -> None:
    """Prints how fast the old format is: what an earlier client sends, and asks for."""
    source = case.write(_fresh(knit.folder / "source"))
    address = f"{knit.root}/data"
    begun = time.perf_counter()
    knit_id = await asyncio.to_thread(_push_gzipped, address, source)
    pushed = case.mib / (time.perf_counter() - begun)
    begun = time.perf_counter()
    await asyncio.to_thread(_pull_gzipped, f"{address}/{knit_id}", _fresh(knit.folder / "pulled"))
    pulled = case.mib / (time.perf_counter() - begun)
    _same(source, knit.folder / "pulled")
    for verb, rate in (("push", pushed), ("pull", pulled)):
        figure(f"{verb} of gzip(tar), {case.name}", rate, "MiB/s", "<= 1/5 of the plain rate")


def _push_gzipped(address: str, source: Path) -> str:
    command = ("tar", "czf", "-", "-C", source, ".")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as packing:
        assert packing.stdout is not None
        pieces = iter(lambda: packing.stdout.read(MIB), b"")  # type: ignore[union-attr]
        headers = {"Content-Type": "application/tar+gzip"}
        answer = httpx.post(address, content=pieces, headers=headers, timeout=600, trust_env=False)
    answer.raise_for_status()
    return str(answer.json()["knitId"])


def _pull_gzipped(address: str, target: Path) -> None:
    command = ("tar", "xzf", "-", "-C", target)
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE) as unpacking,
        httpx.stream("GET", address, timeout=600, trust_env=False) as answer,
    ):
        assert unpacking.stdin is not None
        for piece in answer.raise_for_status().iter_raw():
            unpacking.stdin.write(piece)
        unpacking.stdin.close()
    assert unpacking.returncode == 0


def _measured(
    command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> tuple[Spent, str]:
    """Runs a command to its good end. The peak is the command's own, not that of what it starts."""
    begun = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE) as process:
        peak = 0.0
        while process.poll() is None:
            with suppress(OSError):
                peak = max(peak, _peak_mib(process.pid))
            time.sleep(0.01)
        seconds = time.perf_counter() - begun
        assert process.stdout is not None
        printed = process.stdout.read().decode()
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    return Spent(seconds, peak), printed


def _peak_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0  # it has just ended


def _forget(folder: Path) -> None:
    """Takes the files out of the page cache, so that reading them means the disk."""
    subprocess.run(("sync", "-f", folder), check=True)
    for path in _files(folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _files(folder: Path) -> Iterator[Path]:
    for inside, _, names in os.walk(folder):
        yield from (Path(inside, name) for name in names)


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _drop(volumes: Path) -> None:
    for one in volumes.iterdir():
        shutil.rmtree(one)


def _same(source: Path, arrived: Path) -> None:
    subprocess.run(("diff", "-r", source, arrived), check=True)
