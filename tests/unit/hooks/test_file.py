"""The hooks file: what it says, and what is said about a bad one."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knit_workflows.domain.hooks import Hooks
from knit_workflows.hooks.document import HooksRefused
from knit_workflows.hooks.file import HooksFile, parse_hooks_file, read_hooks_file
from knit_workflows.hooks.urls import MAX_URL_CHARS, url_fault


def parsed(text: str) -> HooksFile:
    return parse_hooks_file(text.encode(), "hooks.yaml")


def refused(text: str | bytes) -> str:
    with pytest.raises(HooksRefused) as caught:
        parse_hooks_file(text.encode() if isinstance(text, str) else text, "hooks.yaml")
    return str(caught.value)


def test_the_file_of_the_contract() -> None:
    file = parsed(
        "lifecycle-hooks:\n"
        "  before:\n"
        "    - http://gate.example.com/runs?key=a%2Fb\n"
        "    - https://[2001:db8::1]:8443/x\n"
        "  after: ['http://gate.example.com/runs?key=a%2Fb']\n"
    )
    gate = "http://gate.example.com/runs?key=a%2Fb"
    assert file == HooksFile(Hooks((gate, "https://[2001:db8::1]:8443/x"), (gate,)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n# nothing yet\n",
        "---\n",
        "{}",
        "null",
        "lifecycle-hooks:",
        "lifecycle-hooks: {before: [], after: []}",
        "lifecycle-hooks:\n  before:\n  after:\n",
        "\ufefflifecycle-hooks: {}",
    ],
)
def test_a_file_without_urls_means_no_hooks(text: str) -> None:
    assert parsed(text) == HooksFile()


def test_what_is_beyond_the_contract() -> None:
    file = parsed(
        "format: cloudevents\nallow: [10.0.0.7/8, 169.254.1.1, 'fe80::/64', Gate.Example.Com.]\n"
    )
    assert file.format == "cloudevents"
    assert file.allow.networks == (
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("169.254.1.1/32"),
        ipaddress.ip_network("fe80::/64"),
    )
    assert file.allow.hosts == {"gate.example.com"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "lifecycle-hook: {}",
            "hooks.yaml, line 1: lifecycle-hook is not a key of a hooks file; lifecycle-hooks is "
            "the nearest",
        ),
        (
            "lifecycle-hooks:\n  befor: []\n",
            "hooks.yaml, line 2: lifecycle-hooks.befor is not a key of a hooks file; before is the "
            "nearest",
        ),
        (
            "hooks:\n  lifecycle-hooks: {}\n",
            "hooks.yaml, line 1: hooks is not a key of a hooks file; put what is below it at the "
            "top",
        ),
        (
            "lifecycle-hooks:\n  before: http://a/\n",
            "hooks.yaml, line 2: lifecycle-hooks.before is not a list; begin each line of it with "
            "`- `",
        ),
        (
            "lifecycle-hooks:\n  before: [7]\n",
            "hooks.yaml, line 2: lifecycle-hooks.before[0] is not a text",
        ),
        (
            "lifecycle-hooks:\n  after:\n  - http://a/\n  - http://b/\n  - http://a/\n",
            "hooks.yaml, line 5: lifecycle-hooks.after[2]: http://a/ is already in this list, on "
            "line 3",
        ),
        (
            "lifecycle-hooks:\n  after: []\n  after: []\n",
            "hooks.yaml, line 3: lifecycle-hooks.after stands there twice",
        ),
        ("[]", "hooks.yaml, line 1: the file is not a mapping with lifecycle-hooks and format and "
         "allow"),
        ("{[a]: b}", "hooks.yaml, line 1: a list or mapping is not a key of a hooks file; "
         "use lifecycle-hooks or format or allow"),
        ("a: [", "hooks.yaml, line 1 is not YAML: expected the node content, but found "
         "'<stream end>'"),
        ("{}\n---\n{}", "hooks.yaml, line 2 is not YAML: but found another document"),
        ("a: \x00", "hooks.yaml is not YAML: unacceptable character #x0000: special characters are "
         'not allowed in "<unicode string>", position 3'),
        ("format: xml", "hooks.yaml, line 1: format is neither json nor cloudevents"),
        ("format: 7", "hooks.yaml, line 1: format is neither json nor cloudevents"),
        ("allow: x", "hooks.yaml, line 1: allow is not a list; begin each line of it with `- `"),
        ("allow: [10.0.0.0/40]", "hooks.yaml, line 1: allow[0]: 10.0.0.0/40 is neither a host name "
         "nor an address, nor a network such as 10.0.0.0/8"),
        ("allow: [127.0.0.1]", "hooks.yaml, line 1: allow[0]: 127.0.0.1 is this machine, which "
         "only KNIT_HOOKS__ALLOW_LOOPBACK allows"),
        ("allow: ['::1']", "hooks.yaml, line 1: allow[0]: ::1 is this machine, which only "
         "KNIT_HOOKS__ALLOW_LOOPBACK allows"),
        (
            "lifecycle-hooks:\n  before: [ftp://a/]\n  after: [http:///x]\n",
            "hooks.yaml, line 2: lifecycle-hooks.before[0]: ftp://a/ is not an http or https URL; "
            "line 3: lifecycle-hooks.after[0]: http:///x has no host",
        ),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_in_words(text: str, words: str) -> None:
    assert refused(text) == words


def test_a_file_full_of_faults_is_refused_in_a_few_words() -> None:
    """They are kept, and shown to everybody who asks whether knit is ready."""
    urls = "\n".join(f"  - ftp://{number}.example/{'x' * 1900}" for number in range(120))
    with pytest.raises(HooksRefused) as refused:
        parsed(f"lifecycle-hooks:\n  before:\n{urls}\n")
    words = str(refused.value)
    assert len(words) < 5_000
    assert words.endswith("; and 110 more")
    with pytest.raises(HooksRefused) as refused:
        parsed(f"allow: ['{'y' * 200_000}']")
    assert len(str(refused.value)) < 500


def test_bytes_that_are_no_text_are_refused() -> None:
    assert refused(b"\xff\xfe\x00").startswith("hooks.yaml is not text in UTF-8: ")


@pytest.mark.patient
def test_a_file_that_is_too_deep_or_repeats_itself_is_refused_at_once() -> None:
    assert refused("[" * 5000).startswith("hooks.yaml")
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(60))
    assert "is not a key" in refused(bomb)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("a.example/x", "a.example/x is not an http or https URL: write http://a.example/x or "
         "https://a.example/x"),
        ("HTTP://a/", None),
        ("http://a", None),
        ("http://a:80/x?y=%20z&w=a'b(c)~", None),
        ("http://xn--bcher-kva.example/", None),
        ("http://a_b.svc.cluster.local.:8080/", None),
        ("http://127.0.0.1:80/", None),
        ("http://a:0/", "http://a:0/ has the port 0"),
        ("http://a:99999/", "http://a:99999/ is not a URL: Port out of range 0-65535"),
        ("http://[::1/", "http://[::1/ is not a URL: Invalid IPv6 URL"),
        ("http://u:secret@a/x", "http://a/x has a user or password in it, which everybody could "
         "read; let knit sign its calls instead (KNIT_HOOKS__SECRETS_FILE)"),
        ("http://a/x#y", "http://a/x#y has a fragment (#…), which would never be sent"),
        ("http://a/x y", "http://a/x y has ' ' at character 11, which cannot stand in a URL: write "
         "it percent-encoded, and a host as ASCII (xn--…)"),
        ("http://bücher.example/", "http://bücher.example/ has 'ü' at character 9, which cannot "
         "stand in a URL: write it percent-encoded, and a host as ASCII (xn--…)"),
        ("http://a/%zz", "http://a/%zz has '%' at character 10, which cannot stand in a URL: write "
         "it percent-encoded, and a host as ASCII (xn--…)"),
        ("http://a\r\nX: y/", "http://a\r\nX: y/ has '\\r' at character 9, which cannot stand in a "
         "URL: write it percent-encoded, and a host as ASCII (xn--…)"),
        ("http://127.1/", "127.1 is neither a host name nor an address"),
        ("http://2130706433/", "2130706433 is neither a host name nor an address"),
        ("http://0x7f.0x1/", "0x7f.0x1 is neither a host name nor an address"),
        ("http://a..b/", "a..b is neither a host name nor an address"),
        ("http://%61/", "%61 is neither a host name nor an address"),
        ("http://" + "a" * MAX_URL_CHARS, f"the URL has {MAX_URL_CHARS + 7} characters, more than "
         f"{MAX_URL_CHARS}"),
        ("", " is not an http or https URL: write http:// or https://"),
    ],
)  # fmt: skip
def test_which_urls_may_be_hooks(url: str, words: str | None) -> None:
    assert url_fault(url) == words


@given(st.text(max_size=30))
def test_any_text_is_a_url_or_is_refused_in_words(text: str) -> None:
    for one in (text, f"http://{text}", f"http://a/{text}"):
        fault = url_fault(one)
        assert fault is None or fault


@given(st.binary(max_size=60))
def test_any_content_is_a_hooks_file_or_is_refused_in_words(content: bytes) -> None:
    try:
        file = parse_hooks_file(content, "hooks.yaml")
    except HooksRefused as error:
        assert str(error).startswith("hooks.yaml")
    else:
        assert isinstance(file, HooksFile)


def test_nothing_is_a_file_without_hooks() -> None:
    assert read_hooks_file(Path(os.devnull)) == HooksFile()


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place, words in (
        (tmp_path / "none.yaml", "cannot be read: No such file or directory"),
        (tmp_path, "is not a file"),
        (pipe, "is not a file"),
    ):
        with pytest.raises(HooksRefused) as caught:
            read_hooks_file(place)
        assert str(caught.value) == f"{place} {words}"
    (tmp_path / "large.yaml").write_bytes(b"#" * ((256 << 10) + 1))
    with pytest.raises(HooksRefused, match="is larger than 256 KiB"):
        read_hooks_file(tmp_path / "large.yaml")
