"""What a Plan, or an installation, asks of a cluster for run pods and volumes, beyond resources.

Keys of knit's own (Knitfab has none of them), which can be changed and are no part of what makes a
Plan this Plan. An installation writes what holds for all its run pods in the same form; a Plan's
own options go before those (`merged`). How they are read is in `option_forms`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from knit_workflows.domain.errors import InvalidPlan
from knit_workflows.domain.volumes import AS_INSTALLED, VolumeOptions

QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"


@dataclass(frozen=True, slots=True)
class Toleration:
    """A taint of nodes that is tolerated, as Kubernetes writes it; `seconds` None: for ever."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    """How the run pods of one Plan are spread over the values of a node label."""

    topology_key: str
    max_skew: int = 1
    when_unsatisfiable: str = "DoNotSchedule"


@dataclass(frozen=True, slots=True)
class PodOptions:
    """What is asked of a cluster for a run pod."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    runtime_class: str | None = None
    priority_class: str | None = None
    image_pull_secrets: tuple[str, ...] = ()
    shm_size: str | None = None
    """A canonical quantity: how large /dev/shm may become; it counts as the container's memory."""
    topology_spread: tuple[Spread, ...] = ()
    queue: str | None = None
    """A LocalQueue of Kueue, which starts the Job when there is room."""
    relaunches: int | None = None
    """How often a Run is launched again after disruptions. None: as the engine's settings say."""


NO_POD_OPTIONS: Final = PodOptions()


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """The options of a Plan: of its run pods, and of its outputs' volumes by path (`/log` too)."""

    pod: PodOptions = NO_POD_OPTIONS
    volumes: Mapping[str, VolumeOptions] = field(default_factory=dict)

    def of_volume(self, path: str) -> VolumeOptions:
        """Gives how the volume of an output is made."""
        return self.volumes.get(path, AS_INSTALLED)


NO_OPTIONS: Final = PlanOptions()


# --- for stores and wires ---


def pod_document(pod: PodOptions) -> dict[str, Any]:
    """Gives what is set, in the form that `parse_pod` reads."""
    return _set_values(pod)


def volume_document(volume: VolumeOptions) -> dict[str, Any]:
    """Gives what is set, in the form that `parse_volume` reads."""
    return _set_values(volume)


def options_document(options: PlanOptions) -> dict[str, Any]:
    """Gives what is set: `pod`, and `volumes` by path."""
    volumes = {path: _set_values(one) for path, one in sorted(options.volumes.items())}
    return _without_nothing({"pod": pod_document(options.pod), "volumes": volumes})


def stored_options(document: Mapping[str, Any]) -> PlanOptions:
    """Reads what `options_document` gave, without checking it again: rules may have changed."""
    pod = dict(document.get("pod") or {})
    pod["tolerations"] = tuple(Toleration(**one) for one in pod.get("tolerations", ()))
    pod["topology_spread"] = tuple(Spread(**one) for one in pod.get("topology_spread", ()))
    pod["image_pull_secrets"] = tuple(pod.get("image_pull_secrets", ()))
    volumes = document.get("volumes") or {}
    return PlanOptions(
        PodOptions(**pod), {path: VolumeOptions(**one) for path, one in volumes.items()}
    )


def _set_values(options: Any) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for one in fields(options):
        value = getattr(options, one.name)
        if isinstance(value, tuple):
            value = [_part(part) for part in value]
        elif isinstance(value, Mapping):
            value = dict(value)
        document[one.name] = value
    return _without_nothing(document)


def _part(part: str | Toleration | Spread) -> Any:
    if isinstance(part, str):
        return part
    # Of a spread all is written: it has no part that could be missing.
    return asdict(part) if isinstance(part, Spread) else _set_values(part)


def _without_nothing(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value not in (None, "", [], {})}


# --- what is left to Plans ---


def require_allowed(pod: PodOptions, allowed: Sequence[str] | None) -> None:
    """Raises InvalidPlan if an installation leaves one of these keys of `pod` not to Plans.

    `allowed` None: all are left to them.
    """
    refused = [] if allowed is None else sorted(pod_document(pod).keys() - set(allowed))
    if refused:
        left = f"only {', '.join(allowed)}" if allowed else "none"
        raise InvalidPlan(
            f"Plans may not have pod.{refused[0]} here",
            advice=f"leave it out: of the keys of pod this installation leaves {left} to Plans; or "
            "ask who runs knit to allow it (KNIT_COMPUTE__KUBERNETES__PLAN_POD_KEYS, or "
            "runs.planPodKeys of the chart)",
            see=f"pod.{refused[0]}",
        )


# --- together ---


def merged(installed: PodOptions, own: PodOptions) -> PodOptions:
    """Gives what holds for a run pod: a Plan's own options, and those of the installation.

    Labels and annotations of both, the Plan's where both have a key; tolerations and secrets of
    both; of all others the Plan's, if it has any.
    """
    return PodOptions(
        labels={**installed.labels, **own.labels},
        annotations={**installed.annotations, **own.annotations},
        tolerations=tuple(dict.fromkeys((*installed.tolerations, *own.tolerations))),
        runtime_class=own.runtime_class or installed.runtime_class,
        priority_class=own.priority_class or installed.priority_class,
        image_pull_secrets=tuple(
            dict.fromkeys((*installed.image_pull_secrets, *own.image_pull_secrets))
        ),
        shm_size=own.shm_size or installed.shm_size,
        topology_spread=own.topology_spread or installed.topology_spread,
        queue=own.queue or installed.queue,
        relaunches=installed.relaunches if own.relaunches is None else own.relaunches,
    )
