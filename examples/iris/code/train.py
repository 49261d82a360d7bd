"""Fit a softmax regression by gradient descent, as the parameters say."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

parameters = json.loads(Path("/in/parameters/parameters.json").read_text())
rows = list(csv.DictReader(Path("/in/train/flowers.csv").open()))
features = [name for name in rows[0] if name != "species"]
species = sorted({row["species"] for row in rows})
points = [([1.0, *(float(row[name]) for name in features)], row["species"]) for row in rows]
weights = {kind: [0.0] * (len(features) + 1) for kind in species}


def probabilities(point):
    scores = {kind: sum(a * b for a, b in zip(weights[kind], point)) for kind in species}
    top = max(scores.values())
    powers = {kind: math.exp(score - top) for kind, score in scores.items()}
    return {kind: power / sum(powers.values()) for kind, power in powers.items()}


for epoch in range(1, parameters["epochs"] + 1):
    loss = 0.0
    for point, truth in points:
        chances = probabilities(point)
        loss -= math.log(chances[truth])
        for kind in species:
            error = chances[kind] - (kind == truth)
            weights[kind] = [
                weight - parameters["rate"] * error * value
                for weight, value in zip(weights[kind], point)
            ]
    if epoch in (1, parameters["epochs"]):
        print(f"epoch {epoch}: mean loss {loss / len(points):.3f}")

model = {"features": features, "weights": weights, "parameters": parameters}
Path("/out/model/model.json").write_text(json.dumps(model, indent=2))
