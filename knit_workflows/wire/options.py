"""Options of run pods and volumes on the wire: the same in requests and responses.

They are shapes; the rules, which say what of a shape Kubernetes takes, are the engine's.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

from knit_workflows.domain.plans.options import PodOptions, pod_document, volume_document
from knit_workflows.domain.volumes import AccessMode, VolumeOptions
from knit_workflows.wire.base import Request, Texts, Wire, is_absent, is_empty


def _number_as_text(value: Any) -> Any:
    # YAML's `cpu: 2` arrives as a number; Kubernetes reads both forms. True is an int only here.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value


Quantity = Annotated[str, BeforeValidator(_number_as_text, json_schema_input_type=str | float)]


class TolerationSpec(Request):
    """A taint of nodes that is tolerated, as Kubernetes writes it."""

    key: str | None = Field(default=None, description="The key of the taint.", exclude_if=is_absent)
    operator: str | None = Field(
        default=None,
        description="`Equal` (with a value) or `Exists` (without).",
        exclude_if=is_absent,
    )
    value: str | None = Field(
        default=None, description="The value of the taint.", exclude_if=is_absent
    )
    effect: str | None = Field(
        default=None,
        description="`NoSchedule`, `PreferNoSchedule` or `NoExecute`; none: all.",
        exclude_if=is_absent,
    )
    seconds: int | None = Field(
        default=None, description="How long `NoExecute` is tolerated.", exclude_if=is_absent
    )


class SpreadSpec(Request):
    """How run pods of one Plan are spread over the values of a node label."""

    topology_key: str = Field(description="Such as `topology.kubernetes.io/zone`.")
    max_skew: int | None = Field(
        default=None, description="How uneven it may be; 1 if not given.", exclude_if=is_absent
    )
    when_unsatisfiable: str | None = Field(
        default=None,
        description="`DoNotSchedule`, which it is if not given, or `ScheduleAnyway`.",
        exclude_if=is_absent,
    )


class PodSpec(Request):
    """What is asked of a cluster for run pods."""

    labels: dict[str, str] | None = Field(
        default=None, description="More labels of the pod.", exclude_if=is_empty
    )
    annotations: dict[str, str] | None = Field(
        default=None, description="Annotations of the pod.", exclude_if=is_empty
    )
    tolerations: list[TolerationSpec] | None = Field(
        default=None, description="Taints that are tolerated.", exclude_if=is_empty
    )
    runtime_class: str | None = Field(
        default=None, description="RuntimeClass, such as `nvidia` or `gvisor`.", exclude_if=is_empty
    )
    priority_class: str | None = Field(
        default=None, description="PriorityClass.", exclude_if=is_empty
    )
    image_pull_secrets: Texts = Field(
        default_factory=list,
        description="Secrets with which the image is pulled.",
        exclude_if=is_empty,
    )
    shm_size: Quantity | None = Field(
        default=None,
        description="How large `/dev/shm` may become; it counts as memory.",
        exclude_if=is_empty,
    )
    topology_spread: list[SpreadSpec] | None = Field(
        default=None, description="How its Runs are spread over nodes.", exclude_if=is_empty
    )
    queue: str | None = Field(
        default=None, description="LocalQueue of Kueue that its Runs wait in.", exclude_if=is_empty
    )
    relaunches: int | None = Field(
        default=None,
        description="How often a Run is launched again after its pod was evicted, preempted or "
        "lost with its node; 0: never.",
        exclude_if=is_absent,
    )


class VolumeSpec(Request):
    """How a new volume is made on Kubernetes."""

    storage_class: str | None = Field(
        default=None, description="StorageClass.", exclude_if=is_empty
    )
    access_mode: AccessMode | None = Field(
        default=None,
        description="Other than `ReadWriteMany`, only one node can use the Data at a time.",
        exclude_if=is_empty,
    )
    size: Quantity | None = Field(
        default=None, description="What the claim requests.", exclude_if=is_empty
    )


class Pod(PodSpec):
    """The same as a server shows it, which may know more of it."""

    model_config = ConfigDict(extra="allow")


class MadeVolume(VolumeSpec):
    """The same as a server shows it, which may know more of it."""

    model_config = ConfigDict(extra="allow")


class OptionsChange(Request):
    """The body of `PUT /plans/{planId}/options`: all options of the Plan, volumes by path."""

    pod: PodSpec | None = None
    volumes: dict[str, VolumeSpec] = Field(default_factory=dict)


def pod_to_wire(pod: PodOptions) -> Wire | None:
    """Gives a `PodSpec`; None if it would be empty."""
    return pod_document(pod) or None


def volume_to_wire(volume: VolumeOptions) -> Wire | None:
    """Gives a `VolumeSpec`; None if it would be empty."""
    return volume_document(volume) or None
