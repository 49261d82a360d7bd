"""The Kubernetes back-end: run pods are Jobs, volumes are claims, doors to volumes are pods.

Rights it needs, in its namespace only:

```
batch   jobs                    create get list delete
        pods                    create get list watch delete deletecollection
        persistentvolumeclaims  create get delete
        secrets                 create
        events                  list watch
```
`ensure_prerequisites` also creates service accounts, roles and role bindings.
"""

from __future__ import annotations

from knit_workflows.compute.kubernetes.backend import KubernetesBackend
from knit_workflows.compute.kubernetes.manifests import prerequisites

__all__ = ["KubernetesBackend", "prerequisites"]
