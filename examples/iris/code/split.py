"""Split the flowers into a training and a test set, the same way every time."""

from __future__ import annotations

import csv
import random
from pathlib import Path

rows = list(csv.DictReader(Path("/in/flowers/iris.csv").open()))
random.Random(7).shuffle(rows)
cut = len(rows) * 2 // 3
for name, part in (("train", rows[:cut]), ("test", rows[cut:])):
    with Path(f"/out/{name}/flowers.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(part)
    print(f"{name}: {len(part)} flowers")
