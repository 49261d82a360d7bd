"""Reads the options of run pods and volumes; what no cluster takes is refused here, in words.

Keys by which knit and Kubernetes tell run pods are reserved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Final, get_args

from knit_workflows.domain.errors import InvalidQuantity
from knit_workflows.domain.plans.forms import (
    DNS_NAME,
    LABEL,
    read_list,
    read_mapping,
    read_text,
    refuse,
    wrong_type,
)
from knit_workflows.domain.plans.options import (
    NO_POD_OPTIONS,
    QUEUE_LABEL,
    PlanOptions,
    PodOptions,
    Spread,
    Toleration,
)
from knit_workflows.domain.quantities import canonical_quantity, parse_quantity
from knit_workflows.domain.volumes import AS_INSTALLED, AccessMode, VolumeOptions

INSTALLED: Final = "run_pods"
"""The place of what holds for all run pods of an installation."""
MAX_ANNOTATIONS_BYTES: Final = 256 * 1024
"""What Kubernetes takes of keys and values of one object."""
EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")
OPERATORS: Final = ("Equal", "Exists")
WHEN_UNSATISFIABLE: Final = ("DoNotSchedule", "ScheduleAnyway")
_KEY: Final = re.compile(rf"(?:{DNS_NAME}/)?{LABEL}")
_VALUE: Final = re.compile(rf"(?:{LABEL})?")
_NAME: Final = re.compile(DNS_NAME)
_RESERVED: Final = ("knit/", "app.kubernetes.io/", "batch.kubernetes.io/")
_RESERVED_KEYS: Final = ("job-name", "controller-uid")
_LEAST_SHM_BYTES: Final = 1024**2
_POD_KEYS: Final = tuple(one.name for one in fields(PodOptions))
_VOLUME_KEYS: Final = tuple(one.name for one in fields(VolumeOptions))


def parse_options_change(document: object) -> PlanOptions:
    """Reads `{"pod": {…}, "volumes": {path: {…}}}`, all options of a Plan; raises InvalidPlan."""
    parts = read_mapping(document, "", ("pod", "volumes"))
    volumes = parts.get("volumes")
    if volumes is not None and not isinstance(volumes, Mapping):
        raise wrong_type("volumes", "a mapping", volumes, "write options by the path of an output")
    read = {
        str(path): parse_volume(one, f"volumes.{path}") for path, one in (volumes or {}).items()
    }
    return PlanOptions(
        parse_pod(parts.get("pod"), "pod"),
        {path: one for path, one in sorted(read.items()) if one != AS_INSTALLED},
    )


def parse_pod(value: object, place: str) -> PodOptions:
    """Reads the options of run pods; null is none. Raises InvalidPlan."""
    if value is None:
        return NO_POD_OPTIONS
    parts = read_mapping(value, place, _POD_KEYS)
    secrets = enumerate(read_list(parts.get("image_pull_secrets"), f"{place}.image_pull_secrets"))
    tolerated = enumerate(read_list(parts.get("tolerations"), f"{place}.tolerations"))
    spread = enumerate(read_list(parts.get("topology_spread"), f"{place}.topology_spread"))
    return PodOptions(
        labels=_labels(parts.get("labels"), f"{place}.labels"),
        annotations=_annotations(parts.get("annotations"), f"{place}.annotations"),
        tolerations=tuple(_toleration(one, f"{place}.tolerations[{i}]") for i, one in tolerated),
        runtime_class=_name(parts.get("runtime_class"), f"{place}.runtime_class"),
        priority_class=_name(parts.get("priority_class"), f"{place}.priority_class"),
        image_pull_secrets=tuple(
            _required_name(one, f"{place}.image_pull_secrets[{i}]") for i, one in secrets
        ),
        shm_size=_size(parts.get("shm_size"), f"{place}.shm_size", _LEAST_SHM_BYTES),
        topology_spread=tuple(_spread(one, f"{place}.topology_spread[{i}]") for i, one in spread),
        queue=_queue(parts.get("queue"), f"{place}.queue"),
        relaunches=_relaunches(parts.get("relaunches"), f"{place}.relaunches"),
    )


def parse_volume(value: object, place: str) -> VolumeOptions:
    """Reads how a volume is made; null is as installed. Raises InvalidPlan."""
    if value is None:
        return AS_INSTALLED
    parts = read_mapping(value, place, _VOLUME_KEYS)
    modes = get_args(AccessMode)
    mode = parts.get("access_mode")
    if mode is not None and mode not in modes:
        advice = f"write one of {', '.join(modes)}"
        raise refuse(f"{place}.access_mode", f"{str(mode)[:40]!r} is no access mode", advice)
    return VolumeOptions(
        storage_class=_name(parts.get("storage_class"), f"{place}.storage_class"),
        access_mode=mode,  # type: ignore[arg-type]
        size=_size(parts.get("size"), f"{place}.size", 1),
    )


def is_reserved(key: str) -> bool:
    """Says whether knit and Kubernetes tell run pods by this label or annotation."""
    return key.startswith(_RESERVED) or key in _RESERVED_KEYS


def _texts(value: object, place: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise wrong_type(place, "a mapping", value, "write it as {key: value}")
    found = {}
    for key, text in sorted(value.items()):
        here = f"{place}.{str(key)[:80]}"
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            advice = "a key is [domain/]name, the name with at most 63 letters, digits, -, _ and ."
            raise refuse(here, f"{str(key)[:80]!r} is no key that Kubernetes takes", advice)
        if is_reserved(key):
            advice = "choose another; knit and Kubernetes tell run pods by this one"
            raise refuse(here, f"the key {key!r} is reserved", advice)
        found[key] = read_text(text, here)
    return found


def _labels(value: object, place: str) -> dict[str, str]:
    found = _texts(value, place)
    for key, text in found.items():
        here = f"{place}.{key}"
        if key == QUEUE_LABEL:
            raise refuse(here, "the label of Kueue is set by knit", "write queue: instead")
        if not _VALUE.fullmatch(text):
            advice = "a value has at most 63 letters, digits, '-', '_' and '.', no sign at its ends"
            raise refuse(here, f"{text[:80]!r} is not the value of a label", advice)
    return found


def _annotations(value: object, place: str) -> dict[str, str]:
    found = _texts(value, place)
    total = sum(len(key.encode()) + len(text.encode()) for key, text in found.items())
    if total > MAX_ANNOTATIONS_BYTES:
        problem = f"they are {total:,} bytes, {MAX_ANNOTATIONS_BYTES:,} at most"
        raise refuse(place, problem, "put long texts into a ConfigMap, or into an input")
    return found


def _toleration(value: object, place: str) -> Toleration:
    parts = read_mapping(value, place, ("key", "operator", "value", "effect", "seconds"))

    def text(name: str) -> str:
        return read_text("" if parts.get(name) is None else parts[name], f"{place}.{name}")

    key, wanted, effect = text("key"), text("value"), text("effect")
    operator = text("operator") or ("Equal" if wanted else "Exists")
    if key and not _KEY.fullmatch(key):
        raise refuse(f"{place}.key", f"{key[:80]!r} is not the key of a taint", "see its node")
    if operator not in OPERATORS or effect not in ("", *EFFECTS):
        advice = f"operators are {', '.join(OPERATORS)}, effects {', '.join(EFFECTS)}"
        raise refuse(place, "Kubernetes knows no such toleration", advice)
    if (operator == "Exists" and wanted) or (operator == "Equal" and not key):
        advice = "Exists takes no value, Equal needs a key"
        raise refuse(place, "operator, key and value do not go together", advice)
    if not _VALUE.fullmatch(wanted):
        raise refuse(f"{place}.value", f"{wanted[:80]!r} is not the value of a taint", "see a node")
    seconds = parts.get("seconds")
    if seconds is not None:
        seconds = _count(seconds, f"{place}.seconds", least=0)
        if effect != "NoExecute":
            advice = "leave them out, or write effect: NoExecute"
            raise refuse(f"{place}.seconds", "only NoExecute evicts after a while", advice)
    return Toleration(key, operator, wanted, effect, seconds)


def _spread(value: object, place: str) -> Spread:
    parts = read_mapping(value, place, ("topology_key", "max_skew", "when_unsatisfiable"))
    key = read_text(parts.get("topology_key"), f"{place}.topology_key")
    if not _KEY.fullmatch(key):
        advice = "write that of a node label, e.g. topology.kubernetes.io/zone"
        raise refuse(f"{place}.topology_key", f"{key[:80]!r} is not the key of a label", advice)
    skew = parts.get("max_skew")
    skew = 1 if skew is None else _count(skew, f"{place}.max_skew", least=1)
    when = parts.get("when_unsatisfiable") or WHEN_UNSATISFIABLE[0]
    if when not in WHEN_UNSATISFIABLE:
        advice = f"write {' or '.join(WHEN_UNSATISFIABLE)}"
        raise refuse(f"{place}.when_unsatisfiable", f"{str(when)[:40]!r} is unknown", advice)
    return Spread(key, skew, str(when))


def _relaunches(value: object, place: str) -> int | None:
    if value is None:
        return None
    if place.startswith(INSTALLED):
        advice = "set KNIT_ENGINE__DISRUPTION_LIMIT, which holds for all Plans without a limit"
        raise refuse(place, "this key is for Plans alone", advice)
    return _count(value, place, least=0)


def _count(value: object, place: str, *, least: int) -> int:
    # A file keeps scalars as they are written.
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
        raise refuse(place, f"{str(value)[:40]!r} is no such number", f"write one from {least} up")
    return value


def _name(value: object, place: str) -> str | None:
    name = read_text("" if value is None else value, place)
    return _required_name(name, place) if name else None


def _required_name(value: object, place: str) -> str:
    name = read_text(value, place)
    if not _NAME.fullmatch(name):
        advice = "use at most 253 lower-case letters, digits, '-' and '.', as Kubernetes does"
        raise refuse(place, f"{name[:80]!r} is not the name of an object", advice)
    return name


def _queue(value: object, place: str) -> str | None:
    name = _name(value, place)
    if name is not None and not _VALUE.fullmatch(name):
        raise refuse(place, f"{name[:80]!r} is too long for a label", "name a LocalQueue of Kueue")
    return name


def _size(value: object, place: str, least: int) -> str | None:
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    text = read_text(value, place)
    try:
        amount = parse_quantity(text)
    except InvalidQuantity as cause:
        raise refuse(place, cause.reason, cause.advice) from cause
    if amount != amount.to_integral_value() or amount < least:
        advice = "write whole bytes, e.g. 512Mi or 10Gi" + (", at least 1Mi" if least > 1 else "")
        raise refuse(place, f"{text} is no such number of bytes", advice)
    return canonical_quantity(text)
