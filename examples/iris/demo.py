"""The main job on the embedded stack: push, apply three chained Plans, watch, trace, pull.

`python examples/iris/demo.py [--down]` shows every `knit` command before it runs it. The stack
goes on running afterwards, unless `--down` is given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
PROJECT = "project:iris"
NAMES = ("hasty", "steady", "patient")
WITHIN = 60.0
console = Console(highlight=False)


def knit(*arguments: str, show: bool = True) -> str:
    """Run one `knit` command and give what it printed; ends the demo when it fails."""
    if show:
        console.print(f"[bold]$ knit {' '.join(_short(word) for word in arguments)}[/bold]")
    command = [sys.executable, "-m", "knit_cli", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def push(folder: Path, *tags: str) -> None:
    """Push a folder with these tags, unless a Data with all of them is there from an earlier run.

    Pushing the same again would be new Data, and every combination with it a new Run.
    """
    words = [word for tag in (PROJECT, *tags) for word in ("--tag", tag)]
    if not json.loads(knit("data", "find", *words, show=False)):
        knit("data", "push", *words, str(folder))


def apply(plan: str) -> str:
    """Register one Plan of the example, or find it registered; gives its id."""
    applied: dict[str, Any] = json.loads(knit("plan", "apply", str(HERE / "plans" / plan)))
    return str(applied["planId"])


def push_parameters() -> int:
    """Push the three sets of parameters, or in later runs one more; gives how many there are."""
    find = ("data", "find", "--tag", PROJECT, "--tag", "type:parameters")
    known = len(json.loads(knit(*find, show=False)))
    if known < len(NAMES):
        for name in NAMES:
            push(HERE / "parameters" / name, "type:parameters", f"name:{name}")
        return len(NAMES)
    with tempfile.TemporaryDirectory() as folder:
        more = {"rate": 0.005, "epochs": 50 * (known + 1)}
        (Path(folder) / "parameters.json").write_text(json.dumps(more))
        push(Path(folder), "type:parameters", f"name:more-{known}")
    return known + 1


def wait_for_metrics(plan_id: str, count: int) -> list[dict[str, Any]]:
    """Wait until one evaluation for every set of parameters is done; gives their Runs."""
    console.print("[dim]# nobody starts anything: the Runs appear by themselves[/dim]")
    ends = time.monotonic() + WITHIN
    while time.monotonic() < ends:
        failed = json.loads(knit("run", "find", "--status", "failed", show=False))
        if failed:
            sys.exit(f"a Run failed: knit run show {failed[0]['runId']}")
        find = ("run", "find", "--planid", plan_id, "--status", "done")
        done: list[dict[str, Any]] = json.loads(knit(*find, show=False))
        if len(done) >= count:
            return done
        time.sleep(0.1)
    sys.exit("the evaluations did not end in time; look at `knit run find`")


def show_results(runs: list[dict[str, Any]]) -> None:
    """Pull the metrics of each Run and show them as a table, best first."""
    table = Table("rate", "epochs", "accuracy", "metrics", box=None, padding=(0, 2, 0, 0))
    rows: list[tuple[float, float, int, str]] = []
    for run in runs:
        knit_id = run["outputs"][0]["knitId"]
        with tempfile.TemporaryDirectory() as folder:
            knit("data", "pull", "-x", knit_id, folder, show=not rows)
            text = (Path(folder) / knit_id / "metrics.json").read_text()
        metrics = json.loads(text)
        parameters = metrics["parameters"]
        rows.append((metrics["accuracy"], parameters["rate"], parameters["epochs"], knit_id))
    for accuracy, rate, epochs, knit_id in sorted(rows, reverse=True):
        table.add_row(str(rate), str(epochs), f"[green]{accuracy:.0%}[/green]", knit_id)
    console.print(table)


def main() -> None:
    """Run the demo in the folder where it was started."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--down", action="store_true", help="end the stack afterwards")
    down = parser.parse_args().down
    begun = time.monotonic()
    console.print(knit("dev", "up", "--detach"), end="")
    plans = [apply(plan) for plan in ("split.yaml", "train.yaml", "evaluate.yaml")]
    push(HERE / "code", "type:code")
    push(HERE / "data", "type:flowers")
    runs = wait_for_metrics(plans[-1], push_parameters())
    best = runs[-1]["outputs"][0]["knitId"]
    console.print(knit("data", "lineage", "--upstream", "-n", "all", "--format", "tree", best))
    show_results(runs)
    console.print(f"[dim]# {time.monotonic() - begun:.1f} s in all[/dim]")
    status = json.loads(knit("dev", "status", "--json", show=False))
    console.print(f"API [cyan]{status['api']}[/cyan]   Temporal Web UI {status['webUi']}")
    if down:
        knit("dev", "down")
    else:
        console.print("[dim]# it goes on running; end it with `knit dev down`[/dim]")


def _short(word: str) -> str:
    return str(Path(word).relative_to(HERE)) if word.startswith(str(HERE)) else word


if __name__ == "__main__":
    main()
