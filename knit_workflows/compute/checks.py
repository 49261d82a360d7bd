"""What back-ends without a server of their own look at before they start a pod."""

from __future__ import annotations

from knit_workflows.compute.base import RunPod
from knit_workflows.domain.errors import BackendRejected, InvalidRequest
from knit_workflows.domain.plans.resources import parse_resource


def check_resources(pod: RunPod) -> None:
    """Raises BackendRejected if a resource is none, or its amount cannot be."""
    try:
        for name, quantity in pod.resources.items():
            parse_resource(name, quantity, f"resources.{name}")
    except InvalidRequest as cause:
        raise BackendRejected(cause.reason, advice=cause.advice, see=cause.see) from cause


def sentence(error: BackendRejected) -> str:
    """Gives why a pod is refused, and what to do about it."""
    return "; ".join(filter(None, (error.reason, error.advice)))
