"""The Kubernetes back-end: run pods are Jobs, volumes are claims, doors are pods."""

from knit_workflows.compute.kubernetes.backend import KubernetesBackend
from knit_workflows.compute.kubernetes.manifests import prerequisites
from knit_workflows.compute.kubernetes.settings import KubernetesSettings

__all__ = ["KubernetesBackend", "KubernetesSettings", "prerequisites"]
