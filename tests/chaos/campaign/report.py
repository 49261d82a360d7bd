"""The page docs/reliability.md, written from what campaigns have recorded."""

from __future__ import annotations

import json
import platform
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[3]
PAGE: Final = ROOT / "docs" / "reliability.md"
RECORD: Final = Path(__file__).parent / "record.jsonl"
_WHERE: Final = {"local": "one machine", "node": "a Kubernetes node"}
_PACKAGES: Final = ("knit", "temporalio", "psycopg")

_HEAD: Final = """\
# Reliability

Written by `python -m tests.chaos.campaign --report` from the record of fault campaigns beside that
program; do not edit it.

A *campaign* has work flow through a whole knit of real processes (PostgreSQL, Temporal's dev server
on a file, three workers with different roles, the API, a receiver of hooks), and brings faults
about meanwhile, several at once and in random order. Work is uploads, downloads, live logs, Runs of
one and of several programs in a row, Runs that fail, stops, retries, and in some batches Before and
After hooks of every transition. Clients repeat what is not answered, as the `knit` command does.

After each batch of at most {most} faults (10 in the first campaigns) everything is let go and
started again, and has to come to rest by itself. Then it is compared with what the programs are
known to do:

* every Run has ended, as its program ends or as its user has asked; none waits or hangs;
* no program was started twice in one generation of a Run (each leaves a mark when it starts);
* a Run whose pod, program, claim or disk a fault has taken may fail, in words; if it is done all
  the same, it is whole: never done with missing Data. One that waits for a claim that somebody
  has deleted says so, and its user stops it;
* every output and log is complete, every download that ended was whole and right;
* each upload has made exactly one Data; each Plan has exactly one Run per Data that it eats: no
  edge of the lineage is lost, none is too much;
* no content of a Data has changed since the Data became *done*;
* each hook was called as promised: Before hooks at least once, After hooks at most once;
* nothing is left over: pods, processes, transfers, volumes without a Data, rows that say that
  something is still to do, open workflows;
* no process of knit has ended by itself.
"""
_FOOT: Final = """
## Repeat it

```console
$ make chaos                                               # a new seed, on this machine
$ python -m tests.chaos.campaign --seed S --faults 1000    # this seed
$ python -m tests.chaos.campaign --on node --minutes 4     # on the node of the tests
$ python -m tests.chaos.campaign --report                  # this page
```

The same seed draws the same work and the same faults at the same times; what they hit differs from
run to run, since processes do not take equally long. A violation is printed with its seed, the
faults of its batch in order, and the events of the Runs concerned.

## Not covered

{missing}
"""
_MISSING: Final = """\
* Connections that are never closed by either side (a dropped NAT entry, a proxy with nobody behind
  it): half-open ones are cut at the end of the fault. See `tests/store/test_connection.py`.
* Power loss: what was killed has had its writes in the page cache of a machine that went on.
* A full disk under PostgreSQL, Temporal or the node: here it is that of volumes, of logs and of the
  local back-end's own files. See `tests/e2e/test_full_disk.py` for the rest.
* The node's container runtime, its shims and etcd are left alone.
* Several nodes, and the loss of one."""


def versions() -> dict[str, object]:
    """Gives the versions that a batch was carried out with."""
    own = {"python": platform.python_version()}
    return {"versions": own | {name: version(name) for name in _PACKAGES}}


def recorded(record: Path) -> list[dict[str, Any]]:
    """Reads the batches of a record."""
    return [json.loads(line) for line in record.read_text().splitlines()]


def page(batches: Sequence[dict[str, Any]], most: int) -> str:
    """Writes the page."""
    lines = [_HEAD.format(most=most), *_summary(batches), "", *_kinds(batches)]
    lines += ["", *_seeds(batches), "", *_violations(batches)]
    return "\n".join(lines) + "\n" + _FOOT.format(missing=_MISSING)


def _hits(batch: dict[str, Any]) -> list[dict[str, Any]]:
    return [fault for fault in batch["faults"] if fault["hit"]]


def _summary(batches: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "## Figures\n"
    columns = [("faults", lambda one: len(_hits(one))), ("batches", lambda _: 1)]
    for name in ("runs", "uploads", "downloads", "hook_calls"):
        columns.append((name.replace("_", " "), lambda one, name=name: one[name]))
    columns.append(("batches with a violation", lambda one: bool(one["violations"])))
    yield "| on | " + " | ".join(name for name, _ in columns) + " |"
    yield "|---|" + "---|" * len(columns)
    for on, where in _WHERE.items():
        own = [one for one in batches if one["on"] == on]
        figures = [f"{sum(figure(one) for one in own):,}" for _, figure in columns]
        yield f"| {where} | " + " | ".join(figures) + " |"
    used = sorted({json.dumps(one["versions"]) for one in batches})
    named = [", ".join(f"{key} {value}" for key, value in json.loads(one).items()) for one in used]
    yield f"\nVersions: {'; '.join(named)}."


def _kinds(batches: Sequence[dict[str, Any]]) -> Iterator[str]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    targets: defaultdict[str, set[str]] = defaultdict(set)
    for one in batches:
        for fault in _hits(one):
            counts[fault["kind"]][one["on"]] += 1
            targets[fault["kind"]].add(fault["target"])
    yield "| fault | of | " + " | ".join(_WHERE.values()) + " |"
    yield "|---|---|" + "---|" * len(_WHERE)
    for kind, count in sorted(counts.items(), key=lambda pair: -pair[1].total()):
        figures = " | ".join(str(count[on]) for on in _WHERE)
        yield f"| {kind} | {', '.join(sorted(targets[kind]))} | {figures} |"


def _seeds(batches: Sequence[dict[str, Any]]) -> Iterator[str]:
    count = Counter((one["on"], one["seed"]) for one in batches)
    told = [f"{seed} ({number}, {_WHERE[on]})" for (on, seed), number in count.items()]
    yield f"Seeds, with the number of their batches: {'; '.join(told)}."


def _violations(batches: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "## Violations\n"
    found = [(one, text) for one in batches for text in one["violations"]]
    if not found:
        yield "None."
    for one, text in found:
        mended = f"; mended: {one['mended']}" if "mended" in one else ""
        yield f"* seed {one['seed']}, batch {one['batch']}, on {_WHERE[one['on']]}: {text}{mended}"
