"""`python -m knit_workflows.compute.kubernetes | kubectl apply -f -` prepares a namespace, once.

Prints, as one JSON List, the ServiceAccount, Role, RoleBinding and Secret with which the log
sidecar reads logs, for the namespace in the settings.
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
