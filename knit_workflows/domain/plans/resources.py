"""Resources that a Plan requests: names and amounts that Kubernetes and Linux accept.

Bytes come in whole ones: `512m` of memory is half a byte to Kubernetes, which warns, starts the
container all the same and lets it fail. So here, and nowhere later, it is asked what was meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Final

from knit_workflows.domain.errors import InvalidQuantity
from knit_workflows.domain.plans.forms import DNS_NAME, LABEL, read_text, refuse, wrong_type
from knit_workflows.domain.quantities import canonical_quantity, parse_quantity

LEAST_MEMORY_BYTES: Final = 1024**2
"""With less no container starts, on any engine; 0 stands for no limit."""
LEAST_CPU: Final = Decimal("0.001")
"""The finest step of Kubernetes; 0 stands for no limit."""

_EXTENDED: Final = re.compile(rf"(?!requests\.)(?=[^/]{{1,244}}/){DNS_NAME}/{LABEL}")
_PLAIN: Final = re.compile(rf"cpu|memory|ephemeral-storage|(?P<huge>hugepages)-(?P<page>{LABEL})")
_BYTES: Final = ("memory", "ephemeral-storage", "hugepages-")
_MEANT: Final = {"m": "Mi", "": "Gi", "u": "Mi", "n": "Mi"}
"""The suffix that was probably meant if a number of bytes is far too small."""
_NUMBER: Final = re.compile(r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)([a-zA-Z]*)")


def read_resources(value: object, place: str) -> Mapping[str, object]:
    """Reads a mapping of whatever names; null is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise wrong_type(place, "a mapping", value, "write e.g. {cpu: 2, memory: 4Gi}")
    return {str(name): quantity for name, quantity in value.items()}


def parse_resource(name: str, value: object, place: str) -> str:
    """Checks a resource's name and returns its quantity in canonical form.

    Plain YAML numbers are welcome. A fraction of a byte at the end of many (`1.1Gi`) is rounded up,
    as the kubelet does. Raises InvalidPlan, or InvalidQuantity for the quantity itself.
    """
    plain, extended = _PLAIN.fullmatch(name), _EXTENDED.fullmatch(name)
    if not (plain or extended):
        advice = "use cpu, memory, ephemeral-storage, or a name with a domain, e.g. nvidia.com/gpu"
        raise refuse(place, f"{name[:80]!r} is not a resource of Kubernetes", advice)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    text = read_text(value, place)
    amount = _amount(text, place)
    if amount < 0:
        raise refuse(place, f"{text} is negative", "ask for zero or more")
    if extended and amount != amount.to_integral_value():
        raise refuse(place, f"{text} is not a whole number", f"{name} comes in whole pieces only")
    if name == "cpu" and 0 < amount < LEAST_CPU:
        advice = "the least is 1m, a thousandth of a core; 1 is a whole one"
        raise refuse(place, f"{text} is too little to be counted", advice)
    if name.startswith(_BYTES):
        text = _whole_bytes(name, text, amount, place)
    if plain and plain["huge"]:
        _check_pages(plain["page"], amount, text, place)
    return canonical_quantity(text)


def _amount(text: str, place: str) -> Decimal:
    try:
        return parse_quantity(text)
    except InvalidQuantity as cause:
        raise InvalidQuantity(f"{place}: {cause.reason}", advice=cause.advice, see=place) from cause


def _whole_bytes(name: str, text: str, amount: Decimal, place: str) -> str:
    least = LEAST_MEMORY_BYTES if name == "memory" else 0
    whole = amount == amount.to_integral_value()
    if (whole or amount >= 1024) and (amount == 0 or amount >= least):
        return text if whole else str(int(amount.to_integral_value(ROUND_CEILING)))
    if not whole:
        fault = f"{text} is {'less than a byte' if amount < 1 else 'no whole number of bytes'}"
    else:
        fault = f"{text} is only {int(amount):,} B, with which no container starts"
    raise refuse(place, fault, _likely(text, least))


def _likely(text: str, least: int) -> str:
    """Says what was probably meant: `512Mi` for `512m` and for `512`, `1.5Gi` for `1.5`."""
    found = _NUMBER.fullmatch(text)
    number, suffix = found.groups() if found else ("", "?")
    if suffix == "" and "." not in number:
        suffix = "m"  # 512, as 512m, is a number of megabytes to most people
    if suffix in _MEANT:
        meant = f"{number}{_MEANT[suffix]}"
        if parse_quantity(meant) >= least:
            return f"did you mean {meant}? Mi and Gi count bytes, m is a thousandth of one"
    return "write whole bytes, e.g. 512Mi or 4Gi" + (", at least 1Mi" if least else "")


def _check_pages(page: str, amount: Decimal, text: str, place: str) -> None:
    try:
        size = parse_quantity(page)
    except InvalidQuantity as cause:
        advice = "name it by the size of its pages: hugepages-2Mi or hugepages-1Gi"
        raise refuse(place, f"{page[:40]!r} is not the size of a page", advice) from cause
    if size <= 0 or size != size.to_integral_value() or amount % size:
        advice = f"ask for whole pages of {page}"
        raise refuse(place, f"{text} is not a whole number of pages", advice)
