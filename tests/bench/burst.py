"""What people feel during a burst of Runs, and at rest: by the present build and an earlier one.

`python -m tests.bench burst` compares with `BASELINE`, `python -m tests.bench.burst PLACE [SIZE…]`
with another commit of this repository, or with a folder that holds a build. A build is run from its
folder (`PYTHONPATH`) by this Python, so that both stand on the same packages.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from tests.bench.figures import figure, percentile
from tests.e2e.oracle import archive, consult

BASELINE: Final = "243b01b"
"""The last build whose interactive work shares queues, slots and the machine with Runs."""
HERE: Final = Path(__file__).parents[2]
SIZES: Final = ((20, 20), (40, 50))
"""Data at either input of the Plan: 400 and 2,000 Runs."""
WRITERS: Final = 16
SELDOM: Final = 5.0
PUSHES: Final = {
    "command": "command",
    "request": "request",
    "seldom": "request, the first for some seconds,",
}
TARGETS: Final = {"p50": "p50 <= 2 x idle, p99 <= 5 x idle", "stop": "p99 <= 2"}


@dataclass
class Felt:
    """Seconds that things took, one by one; and what went wrong, in the API's words."""

    command: list[float] = field(default_factory=list)
    """`knit data push` of a tiny file."""
    request: list[float] = field(default_factory=list)
    """The same without the command's own start: one HTTP request."""
    seldom: list[float] = field(default_factory=list)
    """The same after some seconds in which nobody has waited for anything."""
    stop: list[float] = field(default_factory=list)
    """From the request that stops a running Run until it is final."""
    trouble: list[str] = field(default_factory=list)
    total: float = 0.0
    """From the Plan's registration until all its Runs are done, with all of this meanwhile."""
    alone: float = 0.0
    """The same with nothing else going on."""


@dataclass
class Build:
    """One build with an embedded stack of its own."""

    source: Path
    folder: Path
    http: httpx.AsyncClient = field(init=False)

    def environment(self) -> dict[str, str]:
        """Gives the environment of its processes."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("KNIT_", "TEMPORAL_"))}
        return kept | {"HOME": str(self.folder), "PYTHONPATH": str(self.source)}

    async def knit(self, *arguments: str | Path) -> str:
        """Runs one `knit` command to its good end; gives what it printed."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "knit_cli", *map(str, arguments)),
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
            code = await process.wait()
            words = [file.read().decode() for file in (out, err) if file.seek(0) == 0]
        if code:
            raise RuntimeError(f"knit {arguments}: {words[1].strip()[-300:]}")
        return words[0]

    async def up(self) -> None:
        """Starts the stack."""
        await self.knit("dev", "up", "--detach")
        status = json.loads(await self.knit("dev", "status", "--json"))
        root = f"{status['api']}/"
        self.http = httpx.AsyncClient(base_url=root, trust_env=False, timeout=180)

    async def push(self, *tags: str) -> str:
        """Uploads one tiny file by one request; gives the Data's id."""
        answer = await self.http.post(
            "data", params={"tag": list(tags)}, content=ARCHIVE, headers=ARCHIVE_TYPE
        )
        return str(_good(answer)["knitId"])

    async def apply(self, document: dict[str, Any]) -> str:
        """Registers a Plan; gives its id."""
        return str(_good(await self.http.post("plans", json=document))["planId"])

    async def runs(self, plan_id: str, *statuses: str) -> list[dict[str, Any]]:
        """Gives a Plan's Runs with these statuses."""
        query = {"plan": plan_id, "status": list(statuses)}
        found: list[dict[str, Any]] = _good(await self.http.get("runs", params=query))
        return found


ARCHIVE: Final = archive("hi\n")
ARCHIVE_TYPE: Final = {"Content-Type": "application/x-tar"}


def _good(answer: httpx.Response) -> Any:
    if answer.is_error:
        raise RuntimeError(f"{answer.status_code} {answer.text[:300]}")
    return answer.json()


@contextmanager
def build_at(place: str) -> Iterator[Path]:
    """Gives the folder of a build: `place` itself, or a work tree of that commit for a while."""
    if Path(place).is_dir():
        yield Path(place).resolve()
        return
    git = ("git", "-C", str(HERE), "worktree")
    with tempfile.TemporaryDirectory(prefix="knit-baseline-") as folder:
        tree = Path(folder) / "build"
        subprocess.run((*git, "add", "--quiet", "--detach", tree, place), check=True)
        try:
            yield tree
        finally:
            subprocess.run((*git, "remove", "--force", tree), check=True)


async def burst(place: str = BASELINE, sizes: tuple[tuple[int, int], ...] = SIZES) -> None:
    """Prints what is felt idle and during each burst, by the present build and by the other."""
    with build_at(place) as other:
        before = await _measured(other, sizes)
        now = await _measured(HERE, sizes)
    for index, (left, right) in enumerate(sizes, start=1):
        _print(left * right, now[0], now[index], before[0], before[index])


async def oracle() -> None:
    """Prints how long the oracle of `tests/e2e` takes on a fresh stack, from its first write."""
    with folder_of_a_stack() as folder:
        build = Build(HERE, folder)
        try:
            await build.up()
            begun = time.perf_counter()
            runs = await consult(build.http)
            took = time.perf_counter() - begun
        finally:
            await build.knit("dev", "down")
    figure("oracle: 40 Data, 12 Plans, 16 writers, exact", took, "s", "<= 180", runs=runs)


@contextmanager
def folder_of_a_stack() -> Iterator[Path]:
    """Gives a folder for the home of a stack; it is removed afterwards."""
    # Its PostgreSQL runs as another user when we are root.
    with tempfile.TemporaryDirectory(prefix="knit-burst-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder).resolve()


async def _measured(source: Path, sizes: tuple[tuple[int, int], ...]) -> list[Felt]:
    """Gives what is felt by one build: idle, then during each burst."""
    with folder_of_a_stack() as folder:
        build = Build(source, folder)
        try:
            await build.up()
            (build.folder / "tiny").mkdir()
            (build.folder / "tiny" / "word").write_text("hi\n")
            sleeper = await build.apply(_plan("sleep 600", "s", priority=1000))
            idle = Felt()
            await _feel(build, sleeper, idle, lambda: len(idle.command) < 12)
            return [idle, *[await _burst(build, sleeper, *size) for size in sizes]]
        finally:
            await build.knit("dev", "down")


async def _burst(build: Build, sleeper: str, left: int, right: int) -> Felt:
    """Makes Runs of all pairs, and does meanwhile what people do."""
    name, felt = f"{left}x{right}", Felt()
    gate = asyncio.Semaphore(WRITERS)

    async def fill(side: str) -> None:
        async with gate:
            await build.push(f"{side}:{name}")

    await asyncio.gather(*(fill("a") for _ in range(left)), *(fill("b") for _ in range(right)))
    felt.alone = await _begun(build, name, "alone", left * right)
    finished = asyncio.ensure_future(_begun(build, name, "seldom", left * right))
    await _now_and_then(build, felt, lambda: not finished.done())
    await finished
    finished = asyncio.ensure_future(_begun(build, name, "felt", left * right))
    await _feel(build, sleeper, felt, lambda: not finished.done())
    felt.total = await finished
    return felt


async def _begun(build: Build, name: str, word: str, count: int) -> float:
    """Registers a Plan of so many Runs and waits until all are done; gives the seconds."""
    plan = _plan(f"echo {word} > /out/ok", name)
    plan["inputs"] = [{"path": f"/{side}", "tags": [f"{side}:{name}"]} for side in "ab"]
    begun = time.perf_counter()
    plan_id = await build.apply(plan)
    return await _all_done(build, plan_id, count) - begun


async def _all_done(build: Build, plan_id: str, count: int) -> float:
    """Waits until so many Runs are done; gives that instant."""
    while len(done := await build.runs(plan_id, "done", "failed")) < count:
        await asyncio.sleep(1)
    assert all(run["status"] == "done" for run in done)
    return time.perf_counter()


async def _now_and_then(build: Build, felt: Felt, goes_on: Callable[[], bool]) -> None:
    """Pushes by request, so seldom that the Runs have taken all their places again each time."""

    async def request() -> None:
        await build.push("tiny:yes")

    await asyncio.sleep(SELDOM)
    await _paced(SELDOM, request, felt.seldom, felt.trouble, goes_on)


async def _feel(build: Build, sleeper: str, felt: Felt, goes_on: Callable[[], bool]) -> None:
    """Pushes by command and by request, and stops running Runs, each at its own steady pace."""

    async def command() -> None:
        await build.knit("data", "push", "--tag", "tiny:yes", "tiny")

    async def request() -> None:
        await build.push("tiny:yes")

    await asyncio.gather(
        _paced(2.0, command, felt.command, felt.trouble, goes_on),
        _paced(0.7, request, felt.request, felt.trouble, goes_on),
        _stops(build, sleeper, felt, goes_on),
    )


async def _paced(
    pause: float,
    action: Callable[[], Awaitable[None]],
    times: list[float],
    trouble: list[str],
    goes_on: Callable[[], bool],
) -> None:
    while goes_on():
        begun = time.perf_counter()
        try:
            await action()
        except (RuntimeError, httpx.HTTPError) as error:
            trouble.append(str(error) or type(error).__name__)
        times.append(time.perf_counter() - begun)
        await asyncio.sleep(pause)


async def _stops(build: Build, sleeper: str, felt: Felt, goes_on: Callable[[], bool]) -> None:
    """Has a Run that goes on for long, of a high priority, and stops it; again and again."""
    while goes_on():
        try:
            await build.push("in:s")
            while not (running := await build.runs(sleeper, "running")):
                await asyncio.sleep(0.2)
            run_id, begun = running[0]["runId"], time.perf_counter()
            _good(await build.http.put(f"runs/{run_id}/abort"))
            while _good(await build.http.get(f"runs/{run_id}"))["status"] != "failed":
                await asyncio.sleep(0.02)
            felt.stop.append(time.perf_counter() - begun)
        except (RuntimeError, httpx.HTTPError) as error:
            felt.trouble.append(str(error) or type(error).__name__)
        await asyncio.sleep(1)


def _plan(script: str, name: str, **more: Any) -> dict[str, Any]:
    return {
        "image": "host/sh:1",
        "entrypoint": ["sh", "-c", script],
        "inputs": [{"path": "/in", "tags": [f"in:{name}"]}],
        "outputs": [{"path": "/out", "tags": [f"of:{name}"]}],
        **more,
    }


def _print(runs: int, idle: Felt, felt: Felt, idle_before: Felt, before: Felt) -> None:
    for what, words in PUSHES.items():
        ours, theirs = getattr(felt, what), getattr(before, what)
        rested = "command" if what == "command" else "request"
        at_rest, at_rest_before = getattr(idle, rested), getattr(idle_before, rested)
        for part, share in (("p50", 0.5), ("p99", 0.99)) if ours and theirs else ():
            rest, rest_before = percentile(at_rest, 0.5), percentile(at_rest_before, 0.5)
            figure(
                f"push of a tiny file by {words} during {runs} Runs, {part}",
                percentile(ours, share),
                "s",
                TARGETS["p50"] if what == "command" else "-",
                baseline=round(rest, 3),
                baseline_is="the median of the same on the idle stack",
                ratio=round(percentile(ours, share) / rest, 2),
                before=round(percentile(theirs, share), 3),
                ratio_before=round(percentile(theirs, share) / rest_before, 2),
                samples=len(ours),
                trouble=len(felt.trouble),
                trouble_before=len(before.trouble),
            )
    if felt.stop:
        figure(
            f"a stop during {runs} Runs takes effect, p99",
            percentile(felt.stop, 0.99),
            "s",
            TARGETS["stop"],
            p50=round(percentile(felt.stop, 0.5), 3),
            before=round(percentile(before.stop, 0.99), 3) if before.stop else None,
            samples=len(felt.stop),
        )
    figure(
        f"burst of {runs} Runs alone",
        felt.alone,
        "s",
        "<= before",
        baseline=round(before.alone, 1),
        baseline_is="the earlier build",
        ratio=round(felt.alone / before.alone, 2),
    )
    figure(
        f"burst of {runs} Runs, with pushes and stops",
        felt.total,
        "s",
        "-",
        baseline=round(before.total, 1),
        baseline_is="the earlier build, in which hardly any of them got through",
        ratio=round(felt.total / before.total, 2),
        done=[len(felt.command), len(felt.request), len(felt.stop)],
        done_before=[len(before.command), len(before.request), len(before.stop)],
    )
    for words in sorted({*felt.trouble}):
        print(f"trouble: {words}", file=sys.stderr)
    with suppress(IndexError):
        print(f"trouble before, for example: {before.trouble[0]}", file=sys.stderr)


if __name__ == "__main__":
    chosen = tuple(tuple(map(int, word.split("x"))) for word in sys.argv[2:])
    asyncio.run(burst(*sys.argv[1:2], sizes=chosen or SIZES))  # type: ignore[arg-type]
