"""What answers mean: the table of docs/how-to/hooks.md."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knit_workflows.domain.hooks import LONGEST_PAUSE, HookAnswer
from knit_workflows.hooks.answers import (
    MAX_VALUE_BYTES,
    environment_of,
    for_the_record,
    is_json,
    refusal,
    retry_after,
)
from knit_workflows.hooks.failures import CallFailed


def asked(value: Any) -> bytes:
    return json.dumps({"knitfabExtension": {"env": value}}).encode()


def refused(body: bytes, *, wanted: bool = True) -> str:
    with pytest.raises(CallFailed) as caught:
        environment_of(body, wanted=wanted)
    return caught.value.text


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", True),
        ("Application/JSON ; charset=utf-8", True),
        ("application/json;", True),
        ("application/problem+json", False),
        ("text/plain", False),
        ("application/jsonx", False),
        ("", False),
    ],
)
def test_a_media_type_is_compared_without_its_parameters(content_type: str, expected: bool) -> None:
    assert is_json(content_type) is expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \r\n",
        b"null",
        b"{}",
        b'{"other": [1]}',
        b'{"knitfabExtension": null}',
        b'{"knitfabExtension": {}}',
        b'{"knitfabExtension": {"env": null, "more": 1}}',
        b'{"knitfabExtension": {"env": {}}}',
        b'\xef\xbb\xbf{"a": 1}',
    ],
)
def test_bodies_without_an_extension(body: bytes) -> None:
    assert environment_of(body, wanted=True) == {}
    assert environment_of(body, wanted=False) == {}


def test_the_environment_is_taken_as_it_is() -> None:
    env = {"A": "", "b_1": "x=y\n", "_.-z": "ü 🦊", "-": "1", ".a": "2"}
    assert environment_of(asked(env), wanted=True) == env
    assert environment_of(asked(env), wanted=False) == {}
    assert environment_of(asked({"A": "x" * (MAX_VALUE_BYTES - 2)}), wanted=True)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "its answer says that it is application/json, but is not JSON: "),
        (b"<p>", "its answer says that it is application/json, but is not JSON: "),
        (b"\xff\xff", "its answer says that it is application/json, but is not JSON: "),
        (b"[" * 100_000, "its answer says that it is application/json, but is not JSON: too deep"),
        (b"[]", "its answer cannot be used: the JSON is not an object"),
        (b'"ok"', "its answer cannot be used: the JSON is not an object"),
    ],
)
def test_what_says_it_is_json_has_to_be_an_object(body: bytes, words: str) -> None:
    assert refused(body).startswith(words)
    assert refused(body, wanted=False).startswith(words)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"knitfabExtension": []}', "knitfabExtension is not an object"),
        (asked([]), "knitfabExtension.env is not an object"),
        (asked({"A": 1}), "knitfabExtension.env has 'A' with a value that is not a string; put it "
         "into quotes"),
        (asked({"A": None}), "knitfabExtension.env has 'A' with a value that is not a string; put "
         "it into quotes"),
        (asked({"1A": "x"}), "knitfabExtension.env has '1A', which is no name of an environment "
         "variable: use letters, digits, `-`, `_` and `.`, and no digit first"),
        (asked({"A": "a\0b"}), "knitfabExtension.env has 'A' with a NUL character in its value"),
        (asked({"A": "\ud800"}), "knitfabExtension.env has 'A' with half a surrogate pair in its "
         "value"),
        (asked({"A": "x" * (MAX_VALUE_BYTES - 1)}), "knitfabExtension.env has 'A' with 131072 "
         "bytes, more than the 131071 a program can be given"),
    ],
)  # fmt: skip
def test_an_environment_that_no_container_could_have_is_refused(body: bytes, words: str) -> None:
    assert refused(body) == f"its answer cannot be used: {words}"
    assert environment_of(body, wanted=False) == {}


@pytest.mark.parametrize(
    "name", ["", "A B", "A=B", "ä", "A\n", "\0", ".", "..", "..A", "1", "A\u0663", "A/B"]
)
def test_names_that_kubernetes_would_refuse(name: str) -> None:
    assert "which is no name of an environment variable" in refused(asked({name: "x"}))


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.text() | st.sampled_from(["knitfabExtension", "env"]), inner
    ),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
@pytest.mark.patient
def test_any_body_gives_strings_or_words(body: bytes) -> None:
    try:
        env = environment_of(body, wanted=True)
    except CallFailed as failed:
        assert failed.text.startswith("its answer")
    else:
        assert all(isinstance(value, str) and "\0" not in value for value in env.values())


@pytest.mark.parametrize(
    ("status", "location", "beginning", "words"),
    [
        (503, None, "not today", "answered 503 Service Unavailable: not today"),
        (404, "http://a/", "", "answered 404 Not Found"),
        (999, None, "", "answered 999"),
        (307, "http://a/\x1b[1m", "", "answered 307 Temporary Redirect to http://a/ [1m: redirects "
         "are never followed; put the hook's own URL into the file"),
        (304, None, "", "answered 304 Not Modified: redirects are never followed; put the hook's "
         "own URL into the file"),
    ],
)  # fmt: skip
def test_other_statuses_in_words(
    status: int, location: str | None, beginning: str, words: str
) -> None:
    assert refusal(status, location, beginning) == words


@pytest.mark.parametrize(
    ("extension", "kept"),
    [
        ({"env": {"A": "s3cret", "B": ""}}, {"env": {"A": "…", "B": "…"}}),
        ({"env": None}, {"env": "…"}),
        ({"env": ["s3cret"]}, {"env": "…"}),
        ("s3cret", {"env": "…"}),
        (None, {"env": "…"}),
    ],
)
def test_the_record_has_no_values(extension: Any, kept: Any) -> None:
    body = json.dumps({"knitfabExtension": extension, "said": "\ud800 fine"}).encode()
    shown = json.loads(for_the_record(body))
    assert shown == {"knitfabExtension": kept, "said": "? fine"}


@pytest.mark.parametrize("body", [b"", b" ", b"null", b"{}", b'{ "said":  "fine" }'])
def test_other_answers_are_kept_as_they_are(body: bytes) -> None:
    assert for_the_record(body) == body


NOW = 1_000_000_000.0  # Sun, 09 Sep 2001 01:46:40 GMT


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, 0),
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("-7", 0),
        ("7.5", 0),
        ("", 0),
        ("soon", 0),
        ("9" * 12, 60),
        ("9" * 30, 60),
        ("9" * 100_000, 0),
        ("Sun, 09 Sep 2001 01:47:00 GMT", 20),
        ("Sun, 09 Sep 2001 01:46:00 GMT", 0),
        ("Sun, 09 Sep 9999 01:46:00 GMT", 60),
        ("Sun, 09 Sep 2001", 0),
        ("Sun, 99 Sep 2001 01:46:00 GMT", 0),
    ],
)
def test_how_long_a_receiver_wants_to_be_left_alone(text: str | None, seconds: int) -> None:
    """As long as knit waits at most; nonsense does not matter."""
    answer = HookAnswer(False, "", timedelta(), 503, retry_after=retry_after(text, NOW))
    assert answer.pause(timedelta()).total_seconds() == seconds
    assert answer.pause(LONGEST_PAUSE) == LONGEST_PAUSE
