"""A chain of one-process tasks by knit, DVC, Metaflow and Dagster, on one machine, in turns.

`python -m tests.bench rivals`; run by hand, never by CI, since it installs the three from the
package index: each in a virtual environment of its own in knit's cache folder, once per version.
While they are measured they can reach nothing but this machine: they run in a network namespace.

A task is one shell that makes one file out of nothing; what it depends on is the task before. What
it costs is the slope: what a chain takes longer than one of a single task, by the number of the
tasks that it has more. So the start of a tool counts for none; knit's stack is up already.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from knit_workflows.provision.cache import cache_root, locked
from tests.bench.figures import figure
from tests.bench.laptop import LENGTH, SCRIPT, Spent, chains

TURNS: Final = 2
TARGET: Final = 2.5
"""How many times as fast as the fastest of the others."""


@dataclass(frozen=True)
class Rival:
    """A tool: how it is installed, and how a chain is written for it and carried out."""

    name: str
    version: str
    length: int
    """As many tasks as fit into about a minute."""
    command: Callable[[Path, Path], tuple[str, ...]]
    """Carries out the chain in the second folder, by the programs in the first."""
    write: Callable[[Path, int], None]
    """Writes a chain of so many tasks into an empty folder."""
    environment: Mapping[str, str]

    def install(self) -> Path:
        """Installs it, unless it is there; gives the folder of its programs."""
        folder = cache_root() / "rivals" / f"{self.name}-{self.version}"
        done = folder / "complete"
        with locked(folder.parent / f".{folder.name}.lock"):
            if not done.exists():
                _run(sys.executable, "-m", "venv", "--clear", str(folder))
                _run(str(folder / "bin/pip"), "install", "-q", f"{self.name}=={self.version}")
                done.touch()
        return folder / "bin"

    def take(self, programs: Path, length: int) -> Spent:
        """Carries out a chain of so many tasks; counted is its command alone."""
        with tempfile.TemporaryDirectory(prefix="knit-rival-") as home:
            work = Path(home) / "work"
            work.mkdir()
            self.write(work, length)
            environment = {
                **{key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ},
                "HOME": home,
                "USER": "bench",
                **{key: value.format(home=home) for key, value in self.environment.items()},
            }
            before, begun = _cpu_of_children(), time.perf_counter()
            _run(*_OFFLINE, *self.command(programs, work), cwd=work, env=environment)
            return Spent(time.perf_counter() - begun, _cpu_of_children() - before)


_OFFLINE: Final = ("bwrap", "--dev-bind", "/", "/", "--unshare-net", "--")
"""Bubblewrap, which knit's local back-end needs too; it leaves only the loopback device."""


def _write_dvc(work: Path, length: int) -> None:
    (work / ".dvc").mkdir()
    (work / ".dvc/config").write_text(
        "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"
    )
    lines = ["stages:"]
    for step in range(length):
        lines += [f"  task{step}:", f"    cmd: mkdir out{step} && {_into(f'out{step}')}"]
        lines += ["    deps:", f"      - out{step - 1}"] if step else []
        lines += ["    outs:", f"      - out{step}"]
    (work / "dvc.yaml").write_text("\n".join(lines) + "\n")


def _write_metaflow(work: Path, length: int) -> None:
    lines = ["import subprocess", "from metaflow import FlowSpec, step", "class Chain(FlowSpec):"]
    steps = ["start", *(f"task{number}" for number in range(1, length - 1)), "end"]
    for name, following in zip(steps, [*steps[1:], ""], strict=True):
        lines += ["    @step", f"    def {name}(self):", f"        {_in_python(name)}"]
        lines += [f"        self.next(self.{following})"] if following else []
    lines += ["if __name__ == '__main__':", "    Chain()"]
    (work / "chain.py").write_text("\n".join(lines) + "\n")


def _write_dagster(work: Path, length: int) -> None:
    lines = ["import subprocess", "from dagster import In, Nothing, Out, job, op"]
    for step in range(length):
        ins = "{'before': In(Nothing)}" if step else "{}"
        lines += [f"@op(ins={ins}, out=Out(Nothing))", f"def task{step}():"]
        lines += [f"    {_in_python(f'task{step}')}"]
    lines += ["@job", "def chain():", "    done = task0()"]
    lines += [f"    done = task{step}(before=done)" for step in range(1, length)]
    (work / "chain.py").write_text("\n".join(lines) + "\n")
    (work / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")


def _into(folder: str) -> str:
    return SCRIPT.replace("/out/", f"{folder}/")


def _in_python(folder: str) -> str:
    script = f"mkdir -p {folder}; {_into(folder)}"
    return f"subprocess.run(['sh', '-c', {script!r}], check=True)"


RIVALS: Final = (
    Rival(
        "dvc",
        "3.67.1",
        LENGTH,
        lambda programs, _: (str(programs / "dvc"), "repro"),
        _write_dvc,
        {"DVC_NO_ANALYTICS": "1"},
    ),
    Rival(
        "metaflow",
        "2.19.39",
        40,
        lambda programs, work: (str(programs / "python"), str(work / "chain.py"), "run"),
        _write_metaflow,
        # It sends nothing unless it is told where to.
        {"METAFLOW_HOME": "{home}", "METAFLOW_DEFAULT_MONITOR": "nullSidecarMonitor"},
    ),
    Rival(
        "dagster",
        "1.13.29",
        8,
        # Its jobs are carried out by the multiprocess executor unless they name another.
        lambda programs, work: (
            *(str(programs / "dagster"), "job", "execute"),
            *("-f", str(work / "chain.py"), "-j", "chain"),
        ),
        _write_dagster,
        {"DAGSTER_HOME": "{home}/work", "DAGSTER_DISABLE_TELEMETRY": "1"},
    ),
)


async def rivals(scale: float = 1.0, turns: int = TURNS) -> None:
    """Prints what a task of a chain costs by each; `scale` makes the chains shorter."""
    programs = {rival.name: await asyncio.to_thread(rival.install) for rival in RIVALS}
    taken: dict[str, list[Spent]] = {name: [] for name in ("knit", *programs)}
    async with AsyncExitStack() as stack:
        knit = await stack.enter_async_context(chains())
        for _ in range(turns):
            length = _scaled(LENGTH, scale)
            taken["knit"].append((await knit.take(length)).per(length))
            for rival in RIVALS:
                one = await asyncio.to_thread(_slope, rival, programs[rival.name], scale)
                taken[rival.name].append(one)
    fastest = min(programs, key=lambda name: median(one.wall for one in taken[name]))
    lengths = {"knit": _scaled(LENGTH, scale)} | {
        rival.name: _scaled(rival.length, scale) for rival in RIVALS
    }
    for name in taken:
        _print(name, taken[name], taken[fastest], fastest, lengths[name])


def _slope(rival: Rival, programs: Path, scale: float) -> Spent:
    length = _scaled(rival.length, scale)
    shortest = 2  # Metaflow has no shorter flow
    long, short = rival.take(programs, length), rival.take(programs, shortest)
    return long.minus(short).per(length - shortest)


def _scaled(length: int, scale: float) -> int:
    return max(4, round(length * scale))


def _print(
    name: str, taken: list[Spent], of_fastest: list[Spent], fastest: str, length: int
) -> None:
    version = next((f" {rival.version}" for rival in RIVALS if rival.name == name), "")
    for unit, attribute in (("s", "wall"), ("CPU-s", "cpu")):
        values = [getattr(one, attribute) for one in taken]
        beside: dict[str, object] = {"tasks": length, "turns": [round(one, 4) for one in values]}
        if name == "knit":
            baseline = median(getattr(one, attribute) for one in of_fastest)
            beside |= {"baseline": round(baseline, 4), "baseline_is": f"{fastest}, the fastest"}
            beside |= {"times_as_fast": round(baseline / median(values), 2)}
        target = f"1/{TARGET} of the fastest of the others" if name == "knit" else "-"
        figure(f"a task of a chain by {name}{version}", median(values), unit, target, **beside)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(*command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        words = f"{done.stdout[-1000:]}\n{done.stderr[-1000:]}"
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {words}")


if __name__ == "__main__":
    asyncio.run(rivals(*map(float, sys.argv[1:2]), *map(int, sys.argv[2:])))
