"""What the Kubernetes back-end is told about its cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from importlib import metadata
from pathlib import Path


def _own_version() -> str:
    try:
        return f"v{metadata.version('knit')}"
    except metadata.PackageNotFoundError:  # run from a source folder
        return "v0"


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesSettings:
    """One namespace of one cluster, and how pods are made in it."""

    kube_namespace: str
    pod_image: str
    """The image holding `knit_workflows.pod`; knit's own containers are made of it."""
    pod_image_pull_policy: str | None = None
    """For knit's own containers; None: the cluster's default."""
    kubeconfig: Path | None = None
    """None: the rights of the pod this process runs in."""
    storage_class: str | None = None
    """None: the cluster's default class. It must serve ReadWriteMany claims."""
    initial_capacity: str = "1Gi"
    nurse_service_account: str = "knit-nurse"
    nurse_secret: str = "knit-nurse-secret"
    """A Secret of type service-account-token: the rights with which a log is read."""
    priority_class: str | None = None
    restricted: bool = False
    """Whether pods must satisfy the restricted Pod Security Standard; see `security`."""
    run_as_user: int = 65532
    """User and group of every container if `restricted`; one for all, see `security`."""
    transfer_port: int = 18082
    version: str = field(default_factory=_own_version)
    """Value of the label `app.kubernetes.io/version`."""
    request_timeout: timedelta = timedelta(seconds=15)
    """For how long the API server may be silent while it answers a request."""
    reread: timedelta = timedelta(seconds=60)
    """What a missed notification costs at most."""
    pending_reread: timedelta = timedelta(seconds=3)
    """How often a pod that does not start is judged anew (from the cache, where there is one)."""
    silent_after: timedelta = timedelta(seconds=30)
    """For how long nothing need be known of a pod that does not start; then one looks closer."""
    unavailable_after: timedelta = timedelta(seconds=60)
    """For how long a watch bears that the API server does not answer."""
