"""YAML with the place of each part: what all files that people write for knit are read with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knit_workflows.yaml_lines import (
    Document,
    NotYaml,
    RepeatedKey,
    Unfit,
    line_of,
    only_texts,
    parse,
)


def test_scalars_stay_as_they_are_written_and_have_a_place() -> None:
    document = Document("a: 1.10\nb:\n- yes\n- null\n- {c: 2024-01-01}\n")
    assert document.content == {"a": "1.10", "b": ["yes", None, {"c": "2024-01-01"}]}
    assert line_of(document.mark_of(("b", 2, "c"))) == 5
    assert line_of(document.mark_of(("b", 2, "none"))) == 5, "what it would be in"
    assert line_of(document.mark_of(("none",))) == 1
    assert Document("").content == {}


def test_what_is_not_a_text_can_be_told() -> None:
    [text, number] = Document("[a, 7]", only_texts).content
    assert text == "a"
    assert line_of(number) == 1
    assert Document("['7', ~]", only_texts).content == ["7", None]


def test_merges_are_done_and_are_no_repetition() -> None:
    text = "base: &base {a: 1, b: 2}\none: {<<: *base, b: 3}\ntwo: {<<: *base}\n"
    content = Document(text).content
    assert content["one"] == {"a": "1", "b": "3"}
    assert content["two"] == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: [", 1, "expected the node content"),
        ("a: 1\n---\nb: 2", 2, "but found another document"),
        ("a: 1\nb: {a: 1\n", 3, "expected ',' or '}'"),
        ("<<: 1", 1, "expected a mapping or list of mappings for merging"),
        ("[" * 1000, 1, "too deeply"),
        ("a: \0", 1, "special characters are not allowed"),
    ],
)
def test_what_is_no_yaml_is_said_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(NotYaml) as found:
        Document(text)
    assert line_of(found.value.mark) == line
    assert words in found.value.problem
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", RepeatedKey, 4),
        ("a: 1\n? [b]\n: 2\n", Unfit, 2),
        ("a: 1\n<<: {[b]: 2}\n", Unfit, 2),
        ("a: 1\nb: &b [*b]\n", Unfit, 2),
        pytest.param("a: 1\nb: [" + "1, " * 100_000 + "]", Unfit, 2, marks=pytest.mark.patient),
    ],
)
def test_what_has_no_plain_values_is_said_with_its_line(
    text: str, kind: type[Unfit], line: int
) -> None:
    with pytest.raises(kind) as found:
        Document(text)
    assert line_of(found.value.mark) == line


@pytest.mark.patient
def test_a_file_cannot_expand_without_end() -> None:
    """Each line doubles what the one before it means."""
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 19)]
    with pytest.raises(Unfit, match="too large or too deep"):
        Document("\n".join(lines))


@given(st.text())
def test_every_text_is_read_or_refused(text: str) -> None:
    try:
        Document(text)
        parse(text)
    except (NotYaml, Unfit) as found:
        assert str(found)
