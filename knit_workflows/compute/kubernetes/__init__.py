"""The Kubernetes back-end: run pods are Jobs, volumes are claims, transfers are pods.

The rights that it needs, in its namespace only, are in `rights`. `ensure_prerequisites` also
creates service accounts, roles and role bindings.
"""

from __future__ import annotations

from knit_workflows.compute.kubernetes.backend import KubernetesBackend
from knit_workflows.compute.kubernetes.specs.rights import prerequisites, worker_account

__all__ = ["KubernetesBackend", "prerequisites", "worker_account"]
