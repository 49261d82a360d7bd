"""`python -m tests.chaos.campaign`: many faults on a whole knit, from a seed that is recorded.

It prints one JSON line per batch, appends it to the record, and ends with a summary; the exit code
is 1 if there was a violation. `--report` writes docs/reliability.md from the record instead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.chaos.campaign.batch import MOST_FAULTS, Campaign
from tests.chaos.campaign.local import DISK, LocalCompute
from tests.chaos.campaign.report import PAGE, RECORD, page, recorded, versions
from tests.chaos.campaign.site import site
from tests.chaos.campaign.work import Workload
from tests.e2e.stack import dev_folder, mounted


@asynccontextmanager
async def local_campaign(folder: Path, seed: int) -> AsyncIterator[Campaign]:
    """Has a site whose Runs are processes of this machine."""
    state = folder / "compute"
    async with AsyncExitStack() as stack:
        own_disk = stack.enter_context(mounted(state, DISK))
        compute = LocalCompute(state, own_disk=own_disk)
        stack.callback(compute.clear)
        built = await stack.enter_async_context(site(folder, compute.settings()))
        work = Workload(built)
        await work.register(compute.image, {})
        yield Campaign(built, compute, work, seed, "local")


async def run(options: argparse.Namespace) -> int:
    """Carries out batches until there were enough faults, or the time is over."""
    ends = time.monotonic() + options.minutes * 60 if options.minutes else None
    count: Counter[str] = Counter()
    broken = 0
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(dev_folder())
        campaign = await stack.enter_async_context(_campaign(options.on, folder, options.seed))
        for number in range(options.first, sys.maxsize):
            if sum(count.values()) >= options.faults or (ends and time.monotonic() > ends):
                break
            found = {**await campaign.batch(number), **versions()}
            _note(found, options.record)
            count.update(fault["kind"] for fault in found["faults"] if fault["hit"])
            broken += len(found["violations"])
            if found["violations"]:
                _complain(found)
                if options.stop:
                    await _show_logs(campaign)
                    break
    print(json.dumps({"seed": options.seed, "faults": sum(count.values()), "violations": broken,
                      "by_kind": dict(count.most_common())}))  # fmt: skip
    return 1 if broken else 0


def _campaign(on: str, folder: Path, seed: int) -> Any:
    if on == "local":
        return local_campaign(folder, seed)
    from tests.chaos.campaign.node import node_campaign  # needs a cluster

    return node_campaign(folder, seed)


def _note(found: dict[str, Any], record: Path) -> None:
    print(json.dumps({key: value for key, value in found.items() if key != "faults"}), flush=True)
    kept = {key: value for key, value in found.items() if key != "evidence"}
    kept["faults"] = [{**fault, "hit": bool(fault["hit"])} for fault in found["faults"]]
    with record.open("a") as file:
        file.write(json.dumps(kept) + "\n")


def _complain(found: dict[str, Any]) -> None:
    print(f"VIOLATION in batch {found['batch']} of seed {found['seed']}", file=sys.stderr)
    for fault in found["faults"]:
        print(f"  fault {json.dumps(fault)}", file=sys.stderr)
    for one in found["violations"]:
        print(f"  {one}", file=sys.stderr)
    print(f"  evidence {json.dumps(found['evidence'], indent=1)}", file=sys.stderr, flush=True)


async def _show_logs(campaign: Campaign) -> None:
    """Shows the ends of the logs of knit's processes."""
    for name in campaign.site.parts:
        for log in sorted((campaign.site.folder / name).glob("*.log"))[-2:]:
            print(f"--- {name} {log.name}\n{log.read_text()[-6000:]}", file=sys.stderr)


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.campaign", description=__doc__)
    parser.add_argument("--faults", type=int, default=1000, help="at least so many (1000)")
    parser.add_argument("--seed", type=int, default=None, help="of all that is random")
    parser.add_argument("--first", type=int, default=0, help="number of the first batch (0)")
    parser.add_argument("--minutes", type=float, help="begin no batch after so many")
    parser.add_argument("--on", choices=("local", "node"), default="local")
    parser.add_argument("--record", type=Path, default=RECORD, help="where batches are recorded")
    parser.add_argument("--stop", action="store_true", help="end at the first violation")
    parser.add_argument("--report", action="store_true", help="write docs/reliability.md")
    options = parser.parse_args()
    if options.report:
        PAGE.write_text(page(recorded(options.record), MOST_FAULTS))
        return 0
    if options.seed is None:
        options.seed = secrets.randbelow(1_000_000)
    return asyncio.run(run(options))


if __name__ == "__main__":
    sys.exit(main())
