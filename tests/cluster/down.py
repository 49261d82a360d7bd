"""Ends the test cluster that `up.py` started and removes all it made but the cached builds."""

from __future__ import annotations

import sys
from pathlib import Path

# What the cluster shares with other set-up programs lies there.
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "tools"))

from lifecycle import down

from knit_workflows.provision.cache import SetUpError


def main() -> int:
    """Says on stderr what was done."""
    try:
        print("cluster: removed" if down() else "cluster: there was none", file=sys.stderr)
    except SetUpError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
