"""The single values of a Plan's document: how each is written, and how it is read.

Every reader takes the *place* of its value (`inputs[1].tags[0]`) and names it when it refuses: at
the front of `reason`, and alone in `see`. `null` always means "not given". Rules between values are
in `plans.rules`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from knit_workflows.domain.errors import InvalidPlan, InvalidTag
from knit_workflows.domain.plans.model import Annotation, NodeMode, NodeRule
from knit_workflows.domain.tags import Tag, checked_tag, parse_tag

_MAX_ANNOTATION_KEY_CHARS: Final = 253
_MAX_ANNOTATION_VALUE_CHARS: Final = 1_048_576
MAX_PRIORITY: Final = 1000
"""Priorities go from minus this to plus this."""

_ALNUM: Final = "[A-Za-z0-9]"
_DNS_PART: Final = "[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
DNS_NAME: Final = rf"(?=[^/]{{1,253}}(?:/|$)){_DNS_PART}(?:\.{_DNS_PART})*"
"""A DNS name as Kubernetes checks it: 253 characters in all, any number in a part."""
LABEL: Final = rf"{_ALNUM}(?:[-_.A-Za-z0-9]{{0,61}}{_ALNUM})?"
"""The name part of a key, or a value that is not empty, of Kubernetes' labels."""
_NODE_KEY: Final = re.compile(rf"(?:{DNS_NAME}/)?{LABEL}")
_NODE_VALUE: Final = re.compile(rf"(?:{LABEL})?")
_SERVICE_ACCOUNT: Final = re.compile(DNS_NAME)


def refuse(place: str, problem: str, advice: str) -> InvalidPlan:
    """Makes the error for one place of a document; the place `""` is the document itself."""
    return InvalidPlan(f"{place or 'the Plan'}: {problem}", advice=advice, see=place)


def wrong_type(place: str, wanted: str, found: object, advice: str = "") -> InvalidPlan:
    """Makes the error for a value of the wrong type."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", int: "a number",
             float: "a number", type(None): "nothing"}  # fmt: skip
    kind = names.get(type(found), f"a {type(found).__name__}")
    return refuse(place, f"{wanted} is wanted here, not {kind}", advice or f"write {wanted}")


def read_mapping(value: object, place: str, known: Sequence[str]) -> Mapping[str, object]:
    """Reads a mapping that has only known keys."""
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
    """Reads a list; null is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise wrong_type(place, "a list", value, "write one entry per line, each behind '- '")
    return list(value)


def read_text(value: object, place: str) -> str:
    """Reads text that databases and operating systems can hold: no NUL, no lone surrogate."""
    if not isinstance(value, str):
        raise wrong_type(place, "text", value, "write it in quotes")
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise refuse(place, "the text holds NUL or half a character (a surrogate)", "take it out")
    return value


def read_texts(value: object, place: str) -> tuple[str, ...]:
    """Reads a list of text; null is an empty one."""
    return tuple(read_text(one, f"{place}[{i}]") for i, one in enumerate(read_list(value, place)))


def parse_tag_form(value: object, place: str) -> Tag:
    """Reads a tag written as `"key:value"` or as `{"key": …, "value": …}`; raises InvalidTag.

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
    """Reads `key=value`: split at the first `=`, white space around both parts trimmed.

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
    """Reads the name of a service account; null and empty text are None. Raises InvalidPlan."""
    name = read_text("" if value is None else value, place)
    if name and not _SERVICE_ACCOUNT.fullmatch(name):
        advice = "use at most 253 lower-case letters, digits, '-' and '.', as Kubernetes does"
        raise refuse(place, f"{name[:70]!r} is not the name of a service account", advice)
    return name or None


def parse_priority(value: object, place: str) -> int:
    """Reads a priority; null is 0. Raises InvalidPlan."""
    if value is None:
        return 0
    advice = f"write a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}; more goes first"
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type(place, "a whole number", value, advice)
    if not -MAX_PRIORITY <= value <= MAX_PRIORITY:
        raise refuse(place, "the priority is out of range", advice)
    return value


def parse_node_rule(mode: NodeMode, text: str, place: str) -> NodeRule:
    """Reads `key=value`, the two as Kubernetes takes them in a label; raises InvalidPlan.

    The value may be empty. Parts that no label can have are let through for `check_node_rule`.
    """
    key, equals, value = text.partition("=")
    if not equals:
        advice = "write key=value, or key= for a label without a value"
        raise refuse(place, f"{text[:140]!r} has no '='", advice)
    return NodeRule(mode, key, value)


def check_node_rule(rule: NodeRule, place: str) -> None:
    """Raises InvalidPlan if no node can have such a label."""
    if not _NODE_KEY.fullmatch(rule.key):
        advice = (
            "a key is [domain/]name: the domain in lower case, the name with at most 63 letters, "
            "digits, '-', '_' and '.', no sign at its ends"
        )
        raise refuse(place, f"{rule.key[:80]!r} is not the key of a node label", advice)
    if not _NODE_VALUE.fullmatch(rule.value):
        advice = "a value has at most 63 letters, digits, '-', '_' and '.', no sign at its ends"
        raise refuse(place, f"{rule.value[:80]!r} is not the value of a node label", advice)
