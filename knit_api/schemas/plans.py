"""Plans on the wire: what a client registers or changes, and what the server answers."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from knit_api.schemas.tags import RequestTags, Tag
from knit_api.schemas.wire import (
    Request,
    Response,
    Texts,
    is_absent,
    is_empty,
    null_as_list,
)

# ---------------------------------------------------------------- what a client sends


def _number_as_text(value: Any) -> Any:
    # YAML's `cpu: 2` arrives as a number; Kubernetes reads both forms. True is an int only here.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value


def _null_as_object(value: Any) -> Any:
    return {} if value is None else value


def _null_as_true(value: Any) -> Any:
    return True if value is None else value


Quantity = Annotated[str, BeforeValidator(_number_as_text, json_schema_input_type=str | float)]
"""A Kubernetes quantity as text (`500m`, `1Gi`); whether it is one the engine decides."""

Quantities = Annotated[
    dict[str, Quantity],
    BeforeValidator(_null_as_object, json_schema_input_type=dict[str, str | float] | None),
]


class MountpointSpec(Request):
    """A hole of a Plan to be filled with Data: where it is mounted and which tags it asks for."""

    path: str
    tags: RequestTags = Field(default_factory=list)


class LogSpec(Request):
    """The tags that the log of each Run of the Plan gets."""

    tags: RequestTags = Field(default_factory=list)


MountpointSpecs = Annotated[
    list[MountpointSpec],
    BeforeValidator(null_as_list, json_schema_input_type=list[MountpointSpec] | None),
]


class OnNodeSpec(Request):
    """On which nodes Runs may, would rather, or must be placed; entries are `key=value`."""

    may: Texts = Field(default_factory=list)
    prefer: Texts = Field(default_factory=list)
    must: Texts = Field(default_factory=list)


class PlanSpec(Request):
    """The body of `POST /plans`: the shape of a Plan document; its rules are the engine's.

    `active` and the resources have defaults in the engine: absent and `null` mean the same.
    """

    image: str
    entrypoint: Texts = Field(default_factory=list)
    args: Texts = Field(default_factory=list)
    inputs: MountpointSpecs = Field(default_factory=list)
    outputs: MountpointSpecs = Field(default_factory=list)
    log: LogSpec | None = None
    on_node: OnNodeSpec | None = None
    resources: Quantities = Field(default_factory=dict)
    service_account: str | None = None
    annotations: Texts = Field(default_factory=list)
    active: Annotated[bool, BeforeValidator(_null_as_true, json_schema_input_type=bool | None)] = (
        True
    )


class ResourcesChange(Request):
    """The body of `PUT /plans/{planId}/resources`; for a type in both, `set` wins."""

    set: Quantities = Field(default_factory=dict)
    unset: Texts = Field(default_factory=list)


class AnnotationsChange(Request):
    """The body of `PUT /plans/{planId}/annotations`: removals come first, then additions."""

    add: Texts = Field(default_factory=list)
    remove: Texts = Field(default_factory=list)
    remove_key: Texts = Field(default_factory=list)


class ServiceAccountChange(Request):
    """The body of `PUT /plans/{planId}/serviceaccount`."""

    service_account: str


# ---------------------------------------------------------------- what the server answers


class Mountpoint(Response):
    """A path and its tags."""

    path: str
    tags: list[Tag]


class LogPoint(Response):
    """The tags of a log."""

    tags: list[Tag]


class PlanSummary(Response):
    """What identifies a Plan wherever it is mentioned.

    `image` (`repository:tag`) for a Plan of a user, `name` for a built-in one; never both.
    Annotations are `key=value`, sorted by key, then value.
    """

    plan_id: str
    image: str | None = Field(default=None, exclude_if=is_absent)
    entrypoint: list[str] = Field(default_factory=list, exclude_if=is_empty)
    args: list[str] = Field(default_factory=list, exclude_if=is_empty)
    name: str | None = Field(default=None, exclude_if=is_absent)
    annotations: list[str] = Field(default_factory=list, exclude_if=is_empty)


class PlanUpstream(Response):
    """A Plan whose output (`mountpoint`) or log (`log`) can fill an input; exactly one is there."""

    plan: PlanSummary
    mountpoint: Mountpoint | None = Field(default=None, exclude_if=is_absent)
    log: LogPoint | None = Field(default=None, exclude_if=is_absent)


class PlanDownstream(Response):
    """A Plan with an input (`mountpoint`) that an output or log can fill."""

    plan: PlanSummary
    mountpoint: Mountpoint


class PlanInput(Mountpoint):
    """An input and the Plans that can fill it, in no particular order."""

    upstreams: list[PlanUpstream]


class PlanOutput(Mountpoint):
    """An output and the Plans it can feed, in no particular order."""

    downstreams: list[PlanDownstream]


class PlanLog(LogPoint):
    """A log and the Plans it can feed, in no particular order."""

    downstreams: list[PlanDownstream]


class OnNode(Response):
    """On which nodes Runs may, would rather, or must be placed; entries are `key=value`."""

    may: list[str] = Field(default_factory=list, exclude_if=is_empty)
    prefer: list[str] = Field(default_factory=list, exclude_if=is_empty)
    must: list[str] = Field(default_factory=list, exclude_if=is_empty)


def _places_nothing(on_node: OnNode | None) -> bool:
    return on_node is None or not (on_node.may or on_node.prefer or on_node.must)


class Plan(PlanSummary):
    """One Plan in full."""

    inputs: list[PlanInput]
    outputs: list[PlanOutput]
    log: PlanLog | None = Field(default=None, exclude_if=is_absent)
    active: bool
    on_node: OnNode | None = Field(default=None, exclude_if=_places_nothing)
    resources: dict[str, str] = Field(default_factory=dict, exclude_if=is_empty)
    service_account: str | None = Field(default=None, exclude_if=is_empty)
