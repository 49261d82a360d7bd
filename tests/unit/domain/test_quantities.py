from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knit_workflows.domain.errors import InvalidQuantity
from knit_workflows.domain.quantities import canonical_quantity, parse_quantity

# Every row was compared with k8s.io/apimachinery v0.34.4.
TABLE = [
    ("0", "0", "0"),
    ("-0", "0", "0"),
    ("0Ki", "0", "0"),
    ("1", "1", "1"),
    ("+1", "1", "1"),
    ("-1", "-1", "-1"),
    ("001", "1", "1"),
    ("1.", "1", "1"),
    (".5", "0.5", "500m"),
    ("0.5", "0.5", "500m"),
    ("0.50000", "0.5", "500m"),
    ("1.5", "1.5", "1500m"),
    ("1000m", "1", "1"),
    ("500m", "0.5", "500m"),
    ("1500m", "1.5", "1500m"),
    ("3u", "0.000003", "3u"),
    ("3000u", "0.003", "3m"),
    ("7n", "0.000000007", "7n"),
    ("0.1n", "0.000000001", "1n"),
    ("3.001n", "0.000000004", "4n"),
    ("-0.1n", "-0.000000001", "-1n"),
    ("8k", "8000", "8k"),
    ("100.035k", "100035", "100035"),
    ("1000k", "1000000", "1M"),
    ("10.035M", "10035000", "10035k"),
    ("7M", "7000000", "7M"),
    ("6G", "6000000000", "6G"),
    ("5T", "5000000000000", "5T"),
    ("2.5P", "2500000000000000", "2500T"),
    ("1E", "1000000000000000000", "1E"),
    ("1Ki", "1024", "1Ki"),
    ("1024Mi", "1073741824", "1Gi"),
    ("1Gi", "1073741824", "1Gi"),
    ("1.5Gi", "1610612736", "1536Mi"),
    ("1536Mi", "1610612736", "1536Mi"),
    ("0.5Ki", "512", "512"),
    ("0.9765625Ki", "1000", "1k"),
    ("1000Ki", "1024000", "1000Ki"),
    ("1.1Ki", "1126.4", "1126400m"),
    ("-2048Ki", "-2097152", "-2Mi"),
    ("3Ti", "3298534883328", "3Ti"),
    ("4Pi", "4503599627370496", "4Pi"),
    ("3Ei", "3458764513820540928", "3Ei"),
    ("1e3", "1000", "1e3"),
    ("1E3", "1000", "1e3"),
    ("1.3E+6", "1300000", "1300e3"),
    ("1e2", "100", "100"),
    ("1e14", "100000000000000", "100e12"),
    ("1E-3", "0.001", "1e-3"),
    ("1e-12", "0.000000001", "1e-9"),
    ("9223372036854775807", "9223372036854775807", "9223372036854775807"),
]


@pytest.mark.parametrize(("text", "value", "canonical"), TABLE)
def test_it_reads_and_prints_as_kubernetes_does(text: str, value: str, canonical: str) -> None:
    assert parse_quantity(text) == Decimal(value)
    assert canonical_quantity(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "-",
        "+.",
        "Ki",
        "m",
        "1 Gi",
        " 1",
        "1\n",
        "1K",
        "1ki",
        "1gi",
        "1i",
        "1mi",
        "1e",
        "1e+",
        "1e1.5",
        "1Gie3",
        "--1",
        "1,5",
        "0x10",
        "١",
        "inf",
        "nan",
        "1_000",
        "e3",
        "1e9999",
        "1" * 65,
    ],
)
def test_it_refuses_what_is_no_quantity(text: str) -> None:
    for read in (parse_quantity, canonical_quantity):
        with pytest.raises(InvalidQuantity) as caught:
            read(text)
        assert "4Gi" in caught.value.advice


@pytest.mark.parametrize("text", ["9223372036854775808", "8Ei", "-8Ei", "12E", "1e30", "1e999"])
def test_it_refuses_what_kubernetes_would_cap(text: str) -> None:
    with pytest.raises(InvalidQuantity, match="too large"):
        parse_quantity(text)


SUFFIXES = {
    **dict.fromkeys([""], Fraction(1)),
    **{s: Fraction(10) ** e for s, e in zip("numkMGT", (-9, -6, -3, 3, 6, 9, 12), strict=True)},
    **{s + "i": Fraction(1024) ** e for e, s in enumerate("KMGT", 1)},
    **{f"e{e}": Fraction(10) ** e for e in (-9, -3, 0, 1, 6)},
}
NUMBERS = st.from_regex(r"[+-]?([0-9]{1,5}(\.[0-9]{0,3})?|\.[0-9]{1,3})", fullmatch=True)


@given(NUMBERS, st.sampled_from(sorted(SUFFIXES)))
def test_the_value_is_the_number_times_the_suffix(number: str, suffix: str) -> None:
    exact = Fraction(number.rstrip(".")) * SUFFIXES[suffix]
    found = Fraction(parse_quantity(number + suffix))
    assert abs(found) >= abs(exact)
    assert abs(found - exact) < Fraction(1, 10**9)
    if (exact * 10**9).denominator == 1:
        assert found == exact


@given(NUMBERS, st.sampled_from(sorted(SUFFIXES)))
def test_the_canonical_form_keeps_the_value_and_is_its_own(number: str, suffix: str) -> None:
    canonical = canonical_quantity(number + suffix)
    assert parse_quantity(canonical) == parse_quantity(number + suffix)
    assert canonical_quantity(canonical) == canonical
    assert "." not in canonical
    assert "+" not in canonical


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_quantity(text)
    except InvalidQuantity:
        with pytest.raises(InvalidQuantity):
            canonical_quantity(text)
    else:
        assert canonical_quantity(text)
