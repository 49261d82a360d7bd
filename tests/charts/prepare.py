"""`python -m tests.charts.prepare`: makes what the tests of charts need, so that none waits for it.

What cannot be made here is reported by the test that needs it.
"""

from __future__ import annotations

import json
import subprocess
import sys

from tests.charts import helm

CLUSTER = helm.ROOT / "tests" / "cluster"


def main() -> None:
    """Builds helm, finds or starts the node, and makes all images."""
    helm.main()
    up = [sys.executable, str(CLUSTER / "up.py"), "--with-app"]
    found = subprocess.run(up, stdout=subprocess.PIPE, check=True)
    registry = json.loads(found.stdout)["registry"]
    images = [sys.executable, str(CLUSTER / "chart_images.py"), registry]
    subprocess.run(images, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
