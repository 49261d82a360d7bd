"""Plans on the wire: what a client registers or changes, and what the server responds with."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from knit_workflows.domain.plans.forms import MAX_PRIORITY
from knit_workflows.wire.base import (
    Request,
    Response,
    Texts,
    is_absent,
    is_empty,
    null_as_list,
    optional,
)
from knit_workflows.wire.options import MadeVolume, Pod, PodSpec, Quantity, VolumeSpec
from knit_workflows.wire.tags import RequestTags, Tag

CONFIRM = "confirm=true"
"""What `see` of a refusal says when this in the query would make the server do it."""

# ---------------------------------------------------------------- what a client sends


def _null_as_object(value: Any) -> Any:
    return {} if value is None else value


def _null_as_true(value: Any) -> Any:
    return True if value is None else value


def _null_as_zero(value: Any) -> Any:
    return 0 if value is None else value


"""A Kubernetes quantity as text (`500m`, `1Gi`); whether it is one the engine decides."""

Quantities = Annotated[
    dict[str, Quantity],
    BeforeValidator(_null_as_object, json_schema_input_type=dict[str, str | float] | None),
]


_Priority = Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)]


class MountpointSpec(Request):
    """A mountpoint of a Plan: its path and its tags."""

    path: str
    tags: RequestTags = Field(default_factory=list)


class InputSpec(MountpointSpec):
    """What a Run needs: one Data for each entry."""

    path: str = Field(description="Where the Data is, read-only.")
    tags: RequestTags = Field(
        default_factory=list, description="Data that have all of these fit. At least one."
    )


class OutputSpec(MountpointSpec):
    """What a Run makes: one new Data for each entry."""

    path: str = Field(description="An empty folder, which becomes the Data.")
    tags: RequestTags = Field(default_factory=list, description="What the new Data is tagged with.")
    volume: VolumeSpec | None = Field(
        default=None,
        description="On Kubernetes: how its volume is made.",
        exclude_if=is_absent,
    )


class LogSpec(Request):
    """The tags that the log of each Run of the Plan gets."""

    tags: RequestTags = Field(default_factory=list, description="What that Data is tagged with.")
    volume: VolumeSpec | None = Field(
        default=None,
        description="On Kubernetes: how its volume is made.",
        exclude_if=is_absent,
    )


InputSpecs = Annotated[
    list[InputSpec], BeforeValidator(null_as_list, json_schema_input_type=list[InputSpec] | None)
]
OutputSpecs = Annotated[
    list[OutputSpec], BeforeValidator(null_as_list, json_schema_input_type=list[OutputSpec] | None)
]


class OnNodeSpec(Request):
    """On which nodes Runs may, would rather, or must be placed; entries are `key=value`."""

    may: Texts = Field(default_factory=list, description="Nodes tainted so are tolerated.")
    prefer: Texts = Field(
        default_factory=list, description="Tolerated, and taken if there is room."
    )
    must: Texts = Field(default_factory=list, description="Tolerated, and no other will do.")


class PlanSpec(Request):
    """The body of `POST /plans`: the shape of a Plan document; its rules are the engine's.

    `active` and the resources have defaults in the engine: absent and `null` mean the same.
    """

    image: str = Field(
        description="`[host[:port]/]repository[:tag][@digest]`; without both, the tag is `latest`."
    )
    entrypoint: Texts = Field(
        default_factory=list, description="The command, word by word; no shell reads it."
    )
    args: Texts = Field(default_factory=list, description="The arguments, word by word.")
    inputs: InputSpecs = Field(
        default_factory=list,
        description="What a Run needs: one Data for each entry. At least one.",
    )
    outputs: OutputSpecs = Field(
        default_factory=list, description="What a Run makes: one new Data for each entry."
    )
    log: LogSpec | None = Field(
        default=None, description="Keeps what the container prints, as one more Data."
    )
    on_node: OnNodeSpec | None = Field(
        default=None, description="On Kubernetes: which nodes, by labels `key=value`."
    )
    resources: Quantities = Field(
        default_factory=dict,
        description="What the container may use; on Kubernetes also what it is promised.",
    )
    service_account: str | None = Field(
        default=None, description="On Kubernetes: whose token the container gets."
    )
    annotations: Texts = Field(
        default_factory=list,
        description="Notes `key=value` for people; they change nothing else.",
    )
    active: Annotated[
        bool,
        BeforeValidator(_null_as_true, json_schema_input_type=bool | None),
        Field(description="Whether its Runs may start."),
    ] = True
    # Left out when 0, so that servers that know no priorities take the Plan.
    priority: Annotated[
        int,
        BeforeValidator(_null_as_zero, json_schema_input_type=_Priority | None),
        Field(
            description=f"From -{MAX_PRIORITY} to {MAX_PRIORITY}; Runs of a higher one go first.",
            exclude_if=is_empty,
        ),
    ] = 0

    # Left out when there is none, for the same servers.
    pod: PodSpec | None = Field(
        default=None,
        description="What is asked of a cluster for its run pods.",
        exclude_if=is_absent,
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


class PriorityChange(Request):
    """The body of `PUT /plans/{planId}/priority`; Runs of a higher one go first."""

    priority: _Priority


# ---------------------------------------------------------------- responses


class Mountpoint(Response):
    """A path and its tags."""

    path: str
    tags: list[Tag]


class LogPoint(Response):
    """The tags of a log."""

    tags: list[Tag]


class PlanSummary(Response):
    """What identifies a Plan wherever it is mentioned.

    `image` (`repository[:tag][@digest]`) for a Plan of a user, `name` for a built-in one; never
    both.
    Annotations are `key=value`, sorted by key, then value.
    """

    plan_id: str
    image: str | None = optional()
    entrypoint: list[str] = Field(default_factory=list, exclude_if=is_empty)
    args: list[str] = Field(default_factory=list, exclude_if=is_empty)
    name: str | None = optional()
    annotations: list[str] = Field(default_factory=list, exclude_if=is_empty)


class PlanUpstream(Response):
    """A Plan whose output (`mountpoint`) or log (`log`) can fill an input; exactly one is there."""

    plan: PlanSummary
    mountpoint: Mountpoint | None = optional()
    log: LogPoint | None = optional()


class PlanDownstream(Response):
    """A Plan with an input (`mountpoint`) that an output or log can fill."""

    plan: PlanSummary
    mountpoint: Mountpoint


class PlanInput(Mountpoint):
    """An input and the Plans that can fill it, in no particular order."""

    upstreams: list[PlanUpstream]


class PlanOutput(Mountpoint):
    """An output and the Plans it can feed, in no particular order."""

    volume: MadeVolume | None = optional()
    downstreams: list[PlanDownstream]


class PlanLog(LogPoint):
    """A log and the Plans it can feed, in no particular order."""

    volume: MadeVolume | None = optional()
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
    log: PlanLog | None = optional()
    active: bool
    on_node: OnNode | None = Field(default=None, exclude_if=_places_nothing)
    resources: dict[str, str] = Field(default_factory=dict, exclude_if=is_empty)
    service_account: str | None = Field(default=None, exclude_if=is_empty)
    priority: int = Field(default=0, exclude_if=is_empty)
    pod: Pod | None = optional()


class InputPreview(Response):
    """How many Data fill an input now."""

    path: str
    data: int


class PlanPreview(Response):
    """What registering a Plan would do at once.

    `runs` is how many Runs it would create; `assignments` (path → knitId) are the first of them.
    """

    runs: int
    inputs: list[InputPreview]
    assignments: list[dict[str, str]]


class PlanTrial(Response):
    """What the back-end says of a Plan that it has not started; each part is a list of sentences.

    Without `refusals` it would accept the Plan's Runs. `warnings`: what it objects to, or could not
    do now. `unchecked`: what only a Run can tell.
    """

    refusals: list[str]
    warnings: list[str]
    unchecked: list[str]
