"""Chains of one-process Runs on one machine, by the whole stack of `knit dev`; two builds in turns.

`python -m tests.bench laptop` compares with `BASELINE`, `python -m tests.bench.laptop PLACE [LENGTH
[TURNS]]` with another commit of this repository, or with a folder that holds a build.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import psutil

from tests.bench.burst import BASELINE, HERE, Build, build_at, folder_of_a_stack
from tests.bench.figures import figure

LENGTH: Final = 200
TURNS: Final = 2
WARM_UP: Final = 5
SCRIPT: Final = "echo done > /out/done"
"""One process: the shell's own `echo`."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds by the clock, and of CPU by all processes that had to do with it."""

    wall: float
    cpu: float

    def minus(self, other: Spent) -> Spent:
        """Gives what this has taken longer than the other."""
        return Spent(self.wall - other.wall, self.cpu - other.cpu)

    def per(self, count: int) -> Spent:
        """Gives the share of each of so many."""
        return Spent(self.wall / count, self.cpu / count)


class Chains:
    """A stack of a build, on which one chain of Runs after the other is carried out."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self._chains = 0

    async def take(self, length: int) -> Spent:
        """Carries out a chain of so many Runs, each with a Plan of its own.

        Counted from the push of the first Data until the last Run is done.
        """
        self._chains += 1
        name = f"chain{self._chains}"
        plans = [await self._build.apply(_plan(name, step)) for step in range(length)]
        cpu, begun = self._cpu(), time.perf_counter()
        await self._build.push(f"{name}:0")
        while not (ended := await self._build.runs(plans[-1], "done", "failed")):
            await asyncio.sleep(0.1)
        assert ended[0]["status"] == "done", ended
        return Spent(time.perf_counter() - begun, self._cpu() - cpu)

    def _cpu(self) -> float:
        """Gives the CPU of the stack's processes, and of those that they have outlived."""
        home = str(self._build.folder)
        seconds = 0.0
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == home:
                    seconds += sum(process.cpu_times()[:4])
            except psutil.Error:
                continue  # it has ended, and counts for its parent
        return seconds


@asynccontextmanager
async def chains(source: Path = HERE) -> AsyncIterator[Chains]:
    """Starts the stack of a build, warm."""
    with folder_of_a_stack() as folder:
        build = Build(source, folder)
        try:
            await build.up()
            found = Chains(build)
            await found.take(WARM_UP)
            yield found
        finally:
            await build.knit("dev", "down")


async def laptop(place: str = BASELINE, length: int = LENGTH, turns: int = TURNS) -> None:
    """Prints what a Run of a chain takes, beside another build, in turns."""
    with build_at(place) as other:
        async with AsyncExitStack() as stack:
            ours = await stack.enter_async_context(chains())
            theirs = await stack.enter_async_context(chains(other))
            taken = [
                ((await theirs.take(length)).per(length), (await ours.take(length)).per(length))
                for _ in range(turns)
            ]
    before, now = zip(*taken, strict=True)
    for unit, attribute in (("s", "wall"), ("CPU-s", "cpu")):
        value, baseline = _median(now, attribute), _median(before, attribute)
        figure(
            f"chain of {length} one-process Runs, per Run",
            value,
            unit,
            "<= 0.5 x of the earlier build" if unit == "s" else "-",
            baseline=round(baseline, 4),
            baseline_is=f"the build {place}, in turns",
            ratio=round(value / baseline, 2),
            turns=[[round(getattr(one, attribute), 4) for one in turn] for turn in taken],
        )


def _median(taken: Sequence[Spent], attribute: str) -> float:
    return median(getattr(one, attribute) for one in taken)


def _plan(name: str, step: int) -> dict[str, object]:
    return {
        "image": "host/sh:1",
        "entrypoint": ["sh", "-c", SCRIPT],
        "inputs": [{"path": "/in", "tags": [f"{name}:{step}"]}],
        "outputs": [{"path": "/out", "tags": [f"{name}:{step + 1}"]}],
    }


if __name__ == "__main__":
    asyncio.run(laptop(*sys.argv[1:2], *map(int, sys.argv[2:])))
