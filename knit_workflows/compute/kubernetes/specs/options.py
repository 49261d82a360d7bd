"""Adds to a Job what its Plan and the installation ask for beyond the contract; pure.

A Plan's own options go before the installation's (`domain.plans.options.merged`). With a queue the
Job is made suspended, and Kueue starts it when there is room (https://kueue.sigs.k8s.io/docs/tasks).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from knit_workflows import names
from knit_workflows.compute.base import RunPod
from knit_workflows.compute.kubernetes.api.objects import JsonObject
from knit_workflows.compute.kubernetes.specs.placement import placement
from knit_workflows.compute.kubernetes.specs.run_containers import MAIN
from knit_workflows.domain.errors import BackendRejected, InvalidPlan
from knit_workflows.domain.plans.option_forms import is_reserved
from knit_workflows.domain.plans.options import (
    QUEUE_LABEL,
    PodOptions,
    Spread,
    Toleration,
    merged,
    require_allowed,
)
from knit_workflows.settings import KubernetesSettings

DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
"""The annotation that knit itself sets."""
SHM: Final = "/dev/shm"
_SHM_VOLUME: Final = "shm"
_STORAGE: Final = "ephemeral-storage"


def options_of(pod: RunPod, settings: KubernetesSettings) -> PodOptions:
    """Gives all options that hold for a run pod.

    Raises:
        BackendRejected: its Plan has an option that Plans may not have here.
    """
    try:
        require_allowed(pod.options, settings.plan_pod_keys)
    except InvalidPlan as error:  # registered before the setting was made
        advice = f"{error.advice}; `knit plan options` changes a Plan that is registered"
        raise BackendRejected(error.reason, advice=advice) from error
    installed = replace(
        settings.run_pods,
        priority_class=settings.run_pods.priority_class or settings.priority_class,
        image_pull_secrets=(*settings.image_pull_secrets, *settings.run_pods.image_pull_secrets),
    )
    return merged(installed, pod.options)


def with_options(job: JsonObject, pod: RunPod, settings: KubernetesSettings) -> JsonObject:
    """Gives the Job with the options of its pod; raises BackendRejected as `options_of` does."""
    options = options_of(pod, settings)
    job = copy.deepcopy(job)
    template = job["spec"]["template"]
    # knit's own labels cannot be among them, but knit depends on its own.
    template["metadata"]["labels"] = {**options.labels, **template["metadata"]["labels"]}
    job["metadata"]["labels"] = {**options.labels, **job["metadata"]["labels"]}
    template["metadata"]["annotations"] = {
        **options.annotations,
        **template["metadata"]["annotations"],
    }
    if options.queue is not None:
        job["metadata"]["labels"][QUEUE_LABEL] = options.queue
        job["spec"]["suspend"] = True
    spec = template["spec"]
    spec |= _placed(spec, options, pod)
    main = next(one for one in spec["containers"] if one["name"] == MAIN)
    if settings.ephemeral_storage is not None:
        _limit_storage(main, settings.ephemeral_storage)
    if options.shm_size is not None:
        _enlarge_shm(spec, main, options.shm_size)
    return job


def options_in(job: JsonObject, pod: RunPod) -> PodOptions:
    """Gives the options with which a Job was made: the inverse of `with_options`.

    A Job that is there may be older than the settings. What its controller and admission webhooks
    have added to it cannot always be told from options.
    """
    metadata, spec = job["spec"]["template"]["metadata"], job["spec"]["template"]["spec"]
    placed = placement(pod.on_node).get("tolerations", [])
    volumes = spec.get("volumes") or ()
    sizes = [one["emptyDir"]["sizeLimit"] for one in volumes if one["name"] == _SHM_VOLUME]
    return PodOptions(
        labels=_of_others(metadata.get("labels")),
        annotations=_of_others(metadata.get("annotations")),
        # One that `on_node` asks for, too, is there once.
        tolerations=tuple(
            read
            for one in spec.get("tolerations", [])
            if (read := _read_toleration(one)) in pod.options.tolerations or one not in placed
        ),
        runtime_class=spec.get("runtimeClassName"),
        priority_class=spec.get("priorityClassName"),
        image_pull_secrets=tuple(one["name"] for one in spec.get("imagePullSecrets", [])),
        shm_size=next(iter(sizes), None),
        topology_spread=tuple(
            Spread(one["topologyKey"], one["maxSkew"], one["whenUnsatisfiable"])
            for one in spec.get("topologySpreadConstraints", [])
        ),
        queue=(job["metadata"].get("labels") or {}).get(QUEUE_LABEL),
        relaunches=pod.options.relaunches,  # a Job is made once: knit itself makes the next
    )


def _of_others(found: Mapping[str, str] | None) -> dict[str, str]:
    own = DEFAULT_CONTAINER
    return {key: text for key, text in (found or {}).items() if key != own and not is_reserved(key)}


def _read_toleration(one: JsonObject) -> Toleration:
    return Toleration(
        key=one.get("key", ""),
        operator=one.get("operator", "Equal"),
        value=one.get("value", ""),
        effect=one.get("effect", ""),
        seconds=one.get("tolerationSeconds"),
    )


def _placed(spec: JsonObject, options: PodOptions, pod: RunPod) -> JsonObject:
    found: JsonObject = {}
    if options.tolerations:
        wanted = [_toleration(one) for one in options.tolerations]
        found["tolerations"] = _unique([*spec.get("tolerations", []), *wanted])
    if options.topology_spread:
        found["topologySpreadConstraints"] = [
            _spread(one, pod.plan_id) for one in options.topology_spread
        ]
    if options.image_pull_secrets:
        found["imagePullSecrets"] = [{"name": name} for name in options.image_pull_secrets]
    if options.runtime_class is not None:
        found["runtimeClassName"] = options.runtime_class
    if options.priority_class is not None:
        found["priorityClassName"] = options.priority_class
    return found


def _toleration(one: Toleration) -> JsonObject:
    parts: dict[str, Any] = {
        "key": one.key,
        "operator": one.operator,
        "value": one.value,
        "effect": one.effect,
    }
    found = {key: text for key, text in parts.items() if text}
    return found if one.seconds is None else {**found, "tolerationSeconds": one.seconds}


def _spread(one: Spread, plan_id: str) -> JsonObject:
    return {
        "topologyKey": one.topology_key,
        "maxSkew": one.max_skew,
        "whenUnsatisfiable": one.when_unsatisfiable,
        "labelSelector": {"matchLabels": {names.LABEL_PLAN: plan_id}},
    }


def _unique(found: Iterable[JsonObject]) -> list[JsonObject]:
    return list({str(sorted(one.items())): one for one in found}.values())


def _limit_storage(main: JsonObject, size: str) -> None:
    """Limits what the container writes outside of its volumes, unless its Plan does."""
    resources = main.setdefault("resources", {})
    for part in ("limits", "requests"):
        resources.setdefault(part, {}).setdefault(_STORAGE, size)


def _enlarge_shm(spec: JsonObject, main: JsonObject, size: str) -> None:
    """Mounts memory at /dev/shm, where engines have 64 MiB; a mountpoint of the Plan stays."""
    if any(one["mountPath"] == SHM for one in main["volumeMounts"]):
        return
    memory = {"medium": "Memory", "sizeLimit": size}
    spec["volumes"].append({"name": _SHM_VOLUME, "emptyDir": memory})
    main["volumeMounts"].append({"name": _SHM_VOLUME, "mountPath": SHM})
