"""The single values of a Plan's document: how each is written, and how it is read.

Every reader takes the *place* of its value (`inputs[1].tags[0]`) and names it when it refuses: at
the front of `reason`, and alone in `see`. `null` always means "not given". Rules between values are
in `plan_rules`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from knit_workflows.domain.errors import InvalidPlan, InvalidQuantity, InvalidTag
from knit_workflows.domain.plans import Annotation, Image
from knit_workflows.domain.quantities import canonical_quantity, parse_quantity
from knit_workflows.domain.tags import Tag, checked_tag, parse_tag

_MAX_REPOSITORY_CHARS: Final = 512
_MAX_ANNOTATION_KEY_CHARS: Final = 253
_MAX_ANNOTATION_VALUE_CHARS: Final = 1_048_576
MAX_PRIORITY: Final = 1000
"""Priorities go from minus this to plus this."""

_ALNUM: Final = "[A-Za-z0-9]"
_DNS_LABEL: Final = "[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_DNS_NAME: Final = rf"(?=.{{1,253}}(?:/|$)){_DNS_LABEL}(?:\.{_DNS_LABEL})*"
_LABEL: Final = rf"{_ALNUM}(?:[-_.A-Za-z0-9]{{0,61}}{_ALNUM})?"
NODE_KEY: Final = re.compile(rf"(?:{_DNS_NAME}/)?{_ALNUM}(?:[-A-Za-z0-9]{{0,61}}{_ALNUM})?")
"""A node label's key; narrower than Kubernetes: no `_` and `.` behind the slash."""
NODE_VALUE: Final = re.compile(_LABEL)
_EXTENDED_RESOURCE: Final = re.compile(rf"{_DNS_NAME}/{_LABEL}")
_PLAIN_RESOURCE: Final = re.compile(rf"cpu|memory|ephemeral-storage|hugepages-{_LABEL}")
_SERVICE_ACCOUNT: Final = re.compile(rf"(?=.{{1,63}}$){_DNS_NAME}")
_HOST_NAME: Final = rf"{_ALNUM}(?:[-.A-Za-z0-9]*{_ALNUM})?"
_REGISTRY: Final = re.compile(rf"(?:{_HOST_NAME}|\[[0-9a-f:]+\])(?::[0-9]+)?")
_REPOSITORY: Final = re.compile(r"(?=.{2,255}$)[a-z0-9_.-]+(?:/[a-z0-9_.-]+)*")
_IMAGE_TAG: Final = re.compile(r"[A-Za-z0-9_.-]{1,127}")


def refuse(place: str, problem: str, advice: str) -> InvalidPlan:
    """Make the error for one place of a document; the place `""` is the document itself."""
    return InvalidPlan(f"{place or 'the Plan'}: {problem}", advice=advice, see=place)


def wrong_type(place: str, wanted: str, found: object, advice: str = "") -> InvalidPlan:
    """Make the error for a value of another type than the wanted one."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", int: "a number",
             float: "a number", type(None): "nothing"}  # fmt: skip
    kind = names.get(type(found), f"a {type(found).__name__}")
    return refuse(place, f"{wanted} is wanted here, not {kind}", advice or f"write {wanted}")


def read_mapping(value: object, place: str, known: Sequence[str]) -> Mapping[str, object]:
    """Read a mapping that holds no other keys than the known ones."""
    if not isinstance(value, Mapping):
        raise wrong_type(place, "a mapping", value, f"write it with the keys {', '.join(known)}")
    for key in value:
        if key not in known:
            near = get_close_matches(str(key), known, 1)
            advice = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(known)}"
            name = str(key)[:60]
            where = f"{place}.{name}" if place else name
            raise refuse(where, f"there is no key {name!r} here", advice)
    return value


def read_list(value: object, place: str) -> list[object]:
    """Read a list; null is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise wrong_type(place, "a list", value, "write one entry per line, each behind '- '")
    return list(value)


def read_text(value: object, place: str) -> str:
    """Read text that databases and operating systems can hold: no NUL, no lone surrogate."""
    if not isinstance(value, str):
        raise wrong_type(place, "text", value, "write it in quotes")
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise refuse(place, "the text holds a character that is none", "remove it (NUL, surrogate)")
    return value


def read_texts(value: object, place: str) -> tuple[str, ...]:
    """Read a list of text; null is an empty one."""
    return tuple(read_text(one, f"{place}[{i}]") for i, one in enumerate(read_list(value, place)))


def parse_tag_form(value: object, place: str) -> Tag:
    """Read a tag written as `"key:value"` or as `{"key": …, "value": …}`; raises InvalidTag.

    Text is trimmed around key and value, the parts of an object are taken as they are.
    """
    try:
        if not isinstance(value, Mapping):
            return parse_tag(read_text(value, place))
        parts = read_mapping(value, place, ("key", "value"))
        key = read_text(parts.get("key"), f"{place}.key")
        return checked_tag(key, read_text(parts.get("value"), f"{place}.value"))
    except InvalidPlan as cause:
        advice = 'write a tag as key:value without a space, in quotes if in doubt: "type:dataset"'
        raise InvalidTag(cause.reason, advice=advice, see=cause.see) from cause
    except InvalidTag as cause:
        raise InvalidTag(f"{place}: {cause.reason}", advice=cause.advice, see=place) from cause


def parse_annotation(value: object, place: str) -> Annotation:
    """Read `key=value`: split at the first `=`, white space around both parts trimmed.

    Raises InvalidPlan.
    """
    key, equals, note = (part.strip() for part in read_text(value, place).partition("="))
    if not equals:
        raise refuse(place, f"{key[:60]!r} has no '='", "write an annotation as key=value")
    if len(key) > _MAX_ANNOTATION_KEY_CHARS or len(note) > _MAX_ANNOTATION_VALUE_CHARS:
        limits = f"{_MAX_ANNOTATION_KEY_CHARS}, a value {_MAX_ANNOTATION_VALUE_CHARS} characters"
        raise refuse(place, "the annotation is too long", f"a key has at most {limits}")
    return Annotation(key, note)


def parse_service_account(value: object, place: str) -> str | None:
    """Read the name of a service account; null and empty text are None. Raises InvalidPlan."""
    name = read_text("" if value is None else value, place)
    if name and not _SERVICE_ACCOUNT.fullmatch(name):
        advice = "use at most 63 lower-case letters, digits, '-' and '.', as Kubernetes does"
        raise refuse(place, f"{name[:70]!r} is not the name of a service account", advice)
    return name or None


def parse_priority(value: object, place: str) -> int:
    """Read a priority; null is 0. Raises InvalidPlan."""
    if value is None:
        return 0
    advice = f"write a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}; more goes first"
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type(place, "a whole number", value, advice)
    if not -MAX_PRIORITY <= value <= MAX_PRIORITY:
        raise refuse(place, "the priority is out of range", advice)
    return value


def read_resources(value: object, place: str) -> Mapping[str, object]:
    """Read a mapping of whatever names; null is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise wrong_type(place, "a mapping", value, "write e.g. {cpu: 2, memory: 4Gi}")
    return {str(name): quantity for name, quantity in value.items()}


def parse_resource(name: str, value: object, place: str) -> str:
    """Check a resource's name and return its quantity in canonical form.

    Plain YAML numbers are welcome. Raises InvalidPlan, or InvalidQuantity for the quantity itself.
    """
    extended = _EXTENDED_RESOURCE.fullmatch(name) is not None
    if not extended and not _PLAIN_RESOURCE.fullmatch(name):
        advice = "use cpu, memory, ephemeral-storage, or a name with a domain, e.g. nvidia.com/gpu"
        raise refuse(place, f"{name[:80]!r} is not a resource of Kubernetes", advice)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    text = read_text(value, place)
    try:
        amount = parse_quantity(text)
    except InvalidQuantity as cause:
        raise InvalidQuantity(f"{place}: {cause.reason}", advice=cause.advice, see=place) from cause
    if amount < 0:
        raise refuse(place, f"{text} is negative", "ask for zero or more")
    if extended and amount != amount.to_integral_value():
        raise refuse(place, f"{text} is not a whole number", f"{name} comes in whole pieces only")
    return canonical_quantity(text)


def parse_image(text: str, place: str) -> Image:
    """Read `[host[:port]/]repository[:tag]`; a missing tag is `latest`. Raises InvalidPlan.

    Empty parts are let through for `plan_rules` to refuse in their turn. The name is not resolved.
    """
    if "@" in text:
        advice = "name the image by a tag; knit records the digest that ran with each Run"
        raise refuse(place, f"{text[:100]!r} names an image by digest", advice)
    repository, colon, image_tag = text.rpartition(":")
    if not colon or "/" in image_tag:  # that colon belongs to the registry's port
        repository, image_tag = text, "latest"
    if not (repository and image_tag):
        return Image(repository, image_tag)
    host, slash, path = repository.partition("/")
    if not slash or not (host == "localhost" or "." in host or ":" in host):
        host, path = "", repository
    if (
        len(repository) > _MAX_REPOSITORY_CHARS
        or (host and not _REGISTRY.fullmatch(host))
        or not _REPOSITORY.fullmatch(path)
    ):
        advice = "write [host[:port]/]repository[:tag], the repository in lower case"
        raise refuse(place, f"{repository[:100]!r} is not the name of an image", advice)
    if not _IMAGE_TAG.fullmatch(image_tag):
        advice = "a tag has at most 127 letters, digits, '_', '.' and '-'"
        raise refuse(place, f"{image_tag[:130]!r} is not the tag of an image", advice)
    return Image(repository, image_tag)
