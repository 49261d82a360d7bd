"""`python -m tests.charts.snapshots [CHART…]`: writes the snapshots anew."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.charts.helm import Helm, ci_values
from tests.charts.test_every_chart import SNAPSHOTS, normal

with tempfile.TemporaryDirectory() as home:
    helm = Helm("helm-3", Path(home))
    for chart in sys.argv[1:] or sorted(file.stem for file in SNAPSHOTS.glob("*.yaml")):
        found = helm.render(chart, "--values", ci_values(chart)[0])
        (SNAPSHOTS / f"{chart}.yaml").write_text(normal(found))
