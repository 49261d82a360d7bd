"""`python -m knit_workflows.compute.kubernetes | kubectl apply -f -` prepares a namespace, once.

Prints, as one JSON List, what the namespace of the settings needs: the account `knit-worker`, with
the rights of a worker that has all roles, and the account with which the log sidecar reads logs.
With `--only-log` the former is left out, for workers that have rights already.
"""

from __future__ import annotations

import argparse
import json
import sys

from knit_workflows.compute.kubernetes import prerequisites, worker_account
from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.settings import KubernetesSettings, SettingsRefused, read_settings


def main() -> None:
    """Prints the List; ends with exit code 2 for a wrong setting."""
    parser = argparse.ArgumentParser(
        prog="python -m knit_workflows.compute.kubernetes",
        description="Prints what knit needs in the namespace of the settings, for kubectl apply.",
    )
    parser.add_argument(
        "--only-log", action="store_true", help="without the account of the workers"
    )
    only_log: bool = parser.parse_args().only_log
    try:
        settings = read_settings().compute.kubernetes
    except SettingsRefused as refused:
        parser.error(str(refused))
    needed = prerequisites(settings) + ([] if only_log else worker_account(settings))
    sys.stdout.write(json.dumps(_listed(needed, settings), indent=2) + "\n")


def _listed(manifests: list[JsonObject], settings: KubernetesSettings) -> JsonObject:
    """Gives a List whose objects name their namespace, so that kubectl need not be told."""
    placed = [
        {**one, "metadata": {**one["metadata"], "namespace": settings.kube_namespace}}
        for one in manifests
    ]
    return {"apiVersion": "v1", "kind": "List", "items": placed}


if __name__ == "__main__":
    main()
