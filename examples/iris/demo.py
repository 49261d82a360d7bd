"""The main job on the embedded stack: apply three chained Plans, push, watch, trace, pull.

`python examples/iris/demo.py [--down]` shows every `knit` command before it runs it. The stack
goes on running afterwards, unless `--down` is given.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table
from rich.tree import Tree

Json: TypeAlias = dict[str, Any]

HERE = Path(__file__).parent
PROJECT = "project:iris"
NAMES = ("hasty", "steady", "patient")
RESULTS = ".knit/results"
WITHIN = 120.0
LOOK_EVERY = 0.2
console = Console(highlight=False)


def knit(*arguments: str, show: bool = True, note: str = "", keep: bool = True) -> str:
    """Runs one `knit` command and gives what it printed; ends the demo when it fails.

    With `keep=False` it prints to the terminal itself.
    """
    if show:
        line = f"$ knit {' '.join(_short(word) for word in arguments)}"
        console.print(f"[bold]{line}[/bold]{note and f'   [dim]# {note}[/dim]'}")
    command = [sys.executable, "-m", "knit_cli", *arguments]
    pipe = subprocess.PIPE if keep else None
    done = subprocess.run(command, stdout=pipe, stderr=pipe, text=True, check=False)
    if done.returncode:
        reason = f"{done.stderr.strip()}\n" if keep else ""
        sys.exit(f"{reason}the demo ends: `knit {' '.join(arguments)}` failed")
    return done.stdout or ""


def push(tags: list[str], *sources: Path, name: bool = False) -> None:
    """Pushes folders with these tags; with `name` each is also tagged with its own name."""
    words = [word for tag in (PROJECT, *tags) for word in ("-t", tag)]
    knit("data", "push", *words, *(["--name"] if name else []), *map(str, sources))


def apply(plan: str) -> str:
    """Registers one Plan of the example, or finds it registered; gives its id."""
    applied: Json = json.loads(knit("plan", "apply", str(HERE / "plans" / plan)))
    return str(applied["planId"])


def push_inputs() -> int:
    """Pushes what is not there yet from an earlier demo; gives how many sets of parameters are.

    Pushing the same again would be new Data, and every combination with it a new Run. So a later
    demo pushes one more set of parameters, and only what is new with it is run.
    """
    found = json.loads(knit("data", "find", "-t", PROJECT, show=False))
    known = [tag for data in found for tag in data["tags"]]
    if "type:code" not in known:
        push(["type:code"], HERE / "code")
    if "type:flowers" not in known:
        push(["type:flowers"], HERE / "data")
    count = known.count("type:parameters")
    if count == 0:
        push(["type:parameters"], *(HERE / "parameters" / name for name in NAMES), name=True)
        return len(NAMES)
    more = Path(".knit") / f"more-{count}"
    more.mkdir(exist_ok=True)
    (more / "parameters.json").write_text(json.dumps({"rate": 0.005, "epochs": 50 * count}))
    push(["type:parameters"], more, name=True)
    return count + 1


def wait_for_metrics(plan_ids: list[str], count: int) -> list[Json]:
    """Waits until one evaluation for every set of parameters is done; gives their Runs."""
    console.print("[dim]# nobody starts anything: the Runs appear by themselves[/dim]")
    wanted = [word for plan_id in plan_ids for word in ("--planid", plan_id)]
    ends = time.monotonic() + WITHIN
    shown: set[str] = set()
    while time.monotonic() < ends:
        runs: list[Json] = json.loads(knit("run", "find", *wanted, show=False))
        for run in runs:
            if run["status"] == "failed":
                sys.exit(f"a Run failed; see it with: knit run show {run['runId']}")
            if run["status"] == "done" and run["runId"] not in shown:
                shown.add(run["runId"])
                console.print(f"  {_work(run['plan']):9}{run['runId']}  [green]done[/green]")
        done = [run for run in runs if run["runId"] in shown]
        metrics = [run for run in done if run["plan"]["planId"] == plan_ids[-1]]
        if len(metrics) >= count:
            return metrics
        time.sleep(LOOK_EVERY)
    sys.exit("the evaluations did not end in time; look at `knit run find`")


def show_results(runs: list[Json]) -> str:
    """Pulls the metrics of each Run and shows them as a table, best first; gives the best's id."""
    shutil.rmtree(RESULTS, ignore_errors=True)
    rows: list[tuple[float, float, int, str]] = []
    for run in runs:
        knit_id = run["outputs"][0]["knitId"]
        knit("data", "pull", "--extract", knit_id, RESULTS, show=not rows)
        metrics = json.loads((Path(RESULTS) / knit_id / "metrics.json").read_text())
        asked = metrics["parameters"]
        rows.append((metrics["accuracy"], asked["rate"], asked["epochs"], knit_id))
    table = Table("accuracy", "rate", "epochs", "metrics", box=None, padding=(0, 3, 0, 2))
    rows.sort(reverse=True)
    for accuracy, rate, epochs, knit_id in rows:
        table.add_row(f"[green]{accuracy:.0%}[/green]", str(rate), str(epochs), knit_id)
    console.print(table)
    return rows[0][-1]


def show_lineage(knit_id: str) -> None:
    """Draws what a Data came from: every Data by its kind, every Run by its program."""
    words = ("data", "lineage", "-u", "-n", "all", "--format", "json", knit_id)
    graph: Json = json.loads(knit(*words, note="drawn shorter"))
    data = {one["knitId"]: one for one in graph["data"]}
    runs = {one["runId"]: one for one in graph["runs"]}
    shown: set[str] = set()

    def grow(parent: Tree, knit_id: str) -> None:
        branch = parent.add(_kind(data[knit_id]))
        run = runs[data[knit_id]["upstream"]["run"]["runId"]]
        if not run["inputs"]:
            return  # it was pushed
        again = run["runId"] in shown
        shown.add(run["runId"])
        name = f"[dark_orange]{_work(run['plan'])}[/dark_orange]"
        twig = branch.add(f"{name} [dim]{run['runId'][:8]}{' (see above)' if again else ''}[/dim]")
        for used in [] if again else run["inputs"]:
            grow(twig, used["knitId"])

    root = Tree("", guide_style="dim", hide_root=True)
    grow(root, knit_id)
    console.print(root)


def main() -> None:
    """Runs the demo in the folder where it was started."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--down", action="store_true", help="end the stack afterwards")
    down = parser.parse_args().down
    with alone():
        run(down=down)


@contextmanager
def alone() -> Iterator[None]:
    """Waits for another demo in this folder: each counts what is there before it pushes more."""
    lock = Path(".knit") / "demo.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print("[dim]# another demo runs in this folder; waiting for its end[/dim]")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(*, down: bool) -> None:
    """Does it all, and shows every command."""
    begun = time.monotonic()
    knit("dev", "up", "--detach", keep=False)
    plan_ids = [apply(plan) for plan in ("split.yaml", "train.yaml", "evaluate.yaml")]
    count = push_inputs()
    show_lineage(show_results(wait_for_metrics(plan_ids, count)))
    console.print(f"[dim]# {time.monotonic() - begun:.0f} s in all[/dim]")
    status = json.loads(knit("dev", "status", "--json", show=False))
    console.print(f"API [cyan]{status['api']}[/cyan]   Temporal Web UI [cyan]{status['webUi']}[/]")
    if down:
        knit("dev", "down")
    else:
        console.print("[dim]# it goes on running; end it with `knit dev down`[/dim]")


def _short(word: str) -> str:
    return str(Path(word).relative_to(HERE)) if word.startswith(str(HERE)) else word


def _work(plan: Json) -> str:
    """Names a Plan by the program that it runs."""
    return Path(plan["entrypoint"][-1]).stem


def _kind(data: Json) -> str:
    """Names a Data by its tags, and the beginning of its id."""
    tags = dict(tag.split(":", 1) for tag in data["tags"])
    name = f" {tags['name']}" if "name" in tags else ""
    return f"[green]{tags.get('type', 'Data')}[/green]{name} [dim]{data['knitId'][:8]}[/dim]"


if __name__ == "__main__":
    main()
