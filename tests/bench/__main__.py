"""`python -m tests.bench [NAME…]`: all figures, or those of the named benches."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

from tests.bench import (
    accounts,
    api_figures,
    argo,
    backup,
    burst,
    cluster,
    cold_start,
    drill,
    engine,
    extra_apis,
    hooks,
    installed,
    kwok,
    laptop,
    node_transfers,
    rivals,
    rolling_upgrade,
    store_figures,
    transfers,
    upgrades,
    verification,
)

BENCHES: dict[str, Callable[[], Awaitable[None]]] = {
    "cold-start": cold_start.cold_start,
    "latencies": lambda: engine.latencies(100),
    "chain": lambda: engine.chain(200),
    "fan-out": lambda: engine.fan_out(1000),
    "hooks-launch": lambda: hooks.launch(100),
    "hooks-hanging": lambda: hooks.hanging(1000),
    "memory": engine.memory,
    "burst": burst.burst,
    "oracle": burst.oracle,
    "transfers": transfers.transfers,
    "store": store_figures.figures,
    "extra-apis": extra_apis.proxy,
    "upgrades": upgrades.upgrades,
    "api-at-size": api_figures.at_size,
    "accounts": accounts.accounts,
    "one-run": lambda: cluster.one_run(10),
    "codings": lambda: transfers.codings(128),
    "node-tiny": lambda: node_transfers.tiny(20),
    "node-in-a-row": lambda: node_transfers.in_a_row(10),
    "node-large": lambda: node_transfers.large(1024),
    "node-large-random": lambda: node_transfers.large(1024, node_transfers.CONTENTS[:1]),
    "node-large-text": lambda: node_transfers.large(1024, node_transfers.CONTENTS[1:]),
    "many-runs": lambda: cluster.many_runs(20),
    "argo": argo.compare,
    "kwok": kwok.together,
    "kwok-killed": kwok.killed,
    "kwok-waiting": kwok.waiting,
    "rolling-upgrade": rolling_upgrade.rolling_upgrade,
    "installed-memory": installed.memory,
    "verify": verification.verify,
    "installed-run": installed.one_run,
    "laptop": laptop.laptop,
    "rivals": rivals.rivals,
    "backup": backup.backup,
    "backup-pushes": backup.pushes,
    "drill": drill.drill,
}
BY_NAME_ONLY = {"rivals"}
"""What installs other tools from a package index."""


def main() -> None:
    """Runs the benches named on the command line, or all but those that must be named."""
    wanted = sys.argv[1:] or [name for name in BENCHES if name not in BY_NAME_ONLY]
    unknown = set(wanted) - set(BENCHES)
    if unknown:
        sys.exit(f"no such bench: {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    for name in wanted:
        asyncio.run(BENCHES[name]())
    sys.stdout.flush()
    os._exit(0)


main()
