"""Kubernetes quantities: `500m`, `4Gi`, `2`; read exactly, and written as Kubernetes prints them.

A quantity is kept as a whole number of nano-units, the finest step Kubernetes knows, so nothing
here is ever a binary fraction. Grammar and canonical form are those of
https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
with two exceptions, both on the strict side: a number beyond 2⁶³-1 is refused where Kubernetes
silently caps it, and a lone `.` is not a number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Context, Decimal
from enum import Enum, auto
from typing import Final

from knit_workflows.domain.errors import InvalidQuantity

_NANOS: Final = 10**9
_MAX_NANOS: Final = (2**63 - 1) * _NANOS
_MAX_CHARS: Final = 64
_EXACT: Final = Context(prec=40)  # 2⁶³ in nano-units has 28 digits
_DECIMAL_SUFFIXES: Final = {
    "n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18,
}  # fmt: skip
_BINARY_SUFFIXES: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_SUFFIX_OF: Final = {exponent: suffix for suffix, exponent in _DECIMAL_SUFFIXES.items()}
_GRAMMAR: Final = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>[0-9]*)(?:\.(?P<fraction>[0-9]*))?"
    r"(?:(?P<suffix>[numkMGTPE]|[KMGTPE]i)|[eE](?P<exponent>[+-]?[0-9]{1,3}))?"
)


class _Form(Enum):
    """The family of suffixes a quantity was written with; Kubernetes keeps to it when printing."""

    DECIMAL = auto()
    BINARY = auto()
    EXPONENT = auto()


@dataclass(frozen=True, slots=True)
class _Quantity:
    nanos: int
    form: _Form


def parse_quantity(text: str) -> Decimal:
    """Reads a quantity as an exact number of units, e.g. `0.5` for `500m`, `1073741824` for `1Gi`.

    What is finer than a nano-unit is rounded away from zero, as Kubernetes does.
    Raises InvalidQuantity when the text is none, or beyond ±(2⁶³-1).
    """
    return Decimal(_read(text).nanos).scaleb(-9, _EXACT).normalize(_EXACT)


def canonical_quantity(text: str) -> str:
    """Writes a quantity as Kubernetes prints it: no fraction, the largest suffix that allows it.

    The family of suffixes stays (`1024Mi` is `1Gi`, `1000M` is `1G`), except that a binary
    quantity below 1024 or with a fraction becomes decimal (`0.5Ki` is `512`).
    Raises InvalidQuantity as `parse_quantity` does.
    """
    quantity = _read(text)
    sign = "-" if quantity.nanos < 0 else ""
    nanos = abs(quantity.nanos)
    if nanos == 0:
        return "0"
    units, fraction = divmod(nanos, _NANOS)
    if quantity.form is _Form.BINARY and units >= 1024 and not fraction:
        return sign + _binary(units)
    return sign + _decimal(nanos, quantity.form)


def _read(text: str) -> _Quantity:
    match = _GRAMMAR.fullmatch(text) if len(text) <= _MAX_CHARS else None
    if match is None or not (match["whole"] or match["fraction"]):
        raise InvalidQuantity(
            f"{text[:_MAX_CHARS]!r} is not a Kubernetes quantity",
            advice="write a number with an optional suffix, e.g. 2, 500m or 4Gi",
        )
    suffix, fraction = match["suffix"] or "", match["fraction"] or ""
    form, twos, tens = _Form.DECIMAL, 0, 0
    if suffix in _BINARY_SUFFIXES:
        form, twos = _Form.BINARY, _BINARY_SUFFIXES[suffix]
    elif match["exponent"] is not None:
        form, tens = _Form.EXPONENT, int(match["exponent"])
    else:
        tens = _DECIMAL_SUFFIXES[suffix]
    digits = int(match["whole"] + fraction) << twos
    nanos = _scaled_up(digits, tens - len(fraction) + 9)
    if nanos > _MAX_NANOS:
        raise InvalidQuantity(
            f"the quantity {text!r} is too large", advice="a quantity is at most 2^63-1"
        )
    return _Quantity(-nanos if match["sign"] == "-" else nanos, form)


def _scaled_up(number: int, exponent: int) -> int:
    """Returns number × 10^exponent, rounded up, so that a tiny request never becomes zero."""
    if exponent >= 0:
        return int(number * 10**exponent)
    return int(-(-number // 10**-exponent))


def _binary(units: int) -> str:
    exponent = 0
    while units % 1024 == 0:
        units, exponent = units // 1024, exponent + 10
    suffixes = {power: suffix for suffix, power in _BINARY_SUFFIXES.items()}
    return f"{units}{suffixes.get(exponent, '')}"


def _decimal(nanos: int, form: _Form) -> str:
    number, exponent = nanos, -9
    while number % 1000 == 0:
        number, exponent = number // 1000, exponent + 3
    if form is _Form.EXPONENT:
        return f"{number}e{exponent}" if exponent else str(number)
    return f"{number}{_SUFFIX_OF[exponent]}"
