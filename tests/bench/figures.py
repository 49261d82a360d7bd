"""How a figure is printed, and what is drawn from a list of times."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence


def figure(name: str, value: float, unit: str, target: str, **beside: object) -> None:
    """Prints one figure as a JSON line; `beside` holds its baseline and what it was made of."""
    line = {"figure": name, "value": round(value, 3), "unit": unit, "target": target, **beside}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def percentile(values: Sequence[float], part: float) -> float:
    """Gives the value below which `part` (0…1) of the values lie; nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
