"""Gives tests a real Kubernetes, started if needed, and prints where it is as one JSON object.

.venv/bin/python tests/cluster/up.py [--with-app]
A cluster named in KNIT_TEST_KUBECONFIG is used as it is and only asked whether it answers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

# What the cluster shares with other set-up programs lies there.
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "tools"))

from lifecycle import up

from knit_workflows.provision.cache import SetUpError


def main() -> int:
    """Prints the cluster, or on stderr the sentence that says why there is none."""
    parser = argparse.ArgumentParser(description="Start the test cluster, or find it running.")
    parser.add_argument("--with-app", action="store_true", help="also build API and worker's image")
    options = parser.parse_args()
    named = os.environ.get("KNIT_TEST_KUBECONFIG")
    try:
        found = _named_cluster(named) if named else up(options.with_app)
    except SetUpError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0


def _named_cluster(kubeconfig: str) -> dict[str, object]:
    """Asks the user's cluster for its readiness with `kubectl`, which reads any kubeconfig."""
    began = time.monotonic()
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise SetUpError("Using the cluster of KNIT_TEST_KUBECONFIG needs `kubectl` on PATH.")
    command = [kubectl, f"--kubeconfig={kubeconfig}", "get", "--raw", "/readyz"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SetUpError(f"The cluster of {kubeconfig} does not answer: {done.stderr.strip()}")
    seconds = round(time.monotonic() - began, 1)
    return {"kubeconfig": kubeconfig, "registry": None, "images": {}, "seconds": seconds}


if __name__ == "__main__":
    sys.exit(main())
