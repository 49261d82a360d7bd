"""`python -m knit_workflows.compute.kubernetes | kubectl apply -f -`: what a namespace needs once.

Prints, for the namespace that `KNIT_COMPUTE__KUBERNETES__…` names, the ServiceAccount, Role,
RoleBinding and Secret with which the nurse reads logs, as one JSON List.
"""

from __future__ import annotations

import json
import sys

from knit_workflows.compute.kubernetes import prerequisites
from knit_workflows.settings import SettingsRefused, read_settings

try:
    settings = read_settings().compute.kubernetes
except SettingsRefused as refused:
    sys.exit(f"error: {refused}")
manifests = {"apiVersion": "v1", "kind": "List", "items": prerequisites(settings)}
sys.stdout.write(json.dumps(manifests, indent=2) + "\n")
