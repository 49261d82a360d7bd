"""The file of the extra APIs: what is wrong is said by place, before it can do any harm."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml

from knit_api.extra.in_force import ExtraApis
from knit_workflows.settings import ExtraApisSettings, extra_apis
from knit_workflows.settings.extra_apis import MAX_BYTES, ExtraApi, ExtraApisRefused

GOOD = "endpoints:\n- path: /extra\n  proxy_to: http://importer.knit:8000/v1\n"


def parse_extra_apis(content: bytes) -> tuple[ExtraApi, ...]:
    return extra_apis.parse_extra_apis(content, "extra.yaml")


def one(path: object = "/extra", proxy_to: object = "http://h", **more: object) -> bytes:
    entry = {"path": path, "proxy_to": proxy_to, **more}
    return yaml.safe_dump({"endpoints": [entry]}).encode()


@pytest.mark.parametrize("text", ["", "endpoints:\n", "endpoints: []", "null", "# nothing\n"])
def test_a_file_may_have_none(text):
    assert len(parse_extra_apis(text.encode())) == 0


@pytest.mark.parametrize("path", ["/", "/a", "/a/b.c", "/apis", "/healthz2", "/Ä"])
def test_a_good_path(path):
    assert len(parse_extra_apis(one(path))) == 1


@pytest.mark.parametrize(
    "url", ["http://h", "https://h:8443/a/", "http://[::1]:80/x", "http://10.0.0.1/%20"]
)
def test_a_good_url(url):
    assert len(parse_extra_apis(one(proxy_to=url))) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (one("extra"), "endpoints[0].path: 'extra' is not absolute: write /extra"),
        (one(""), "is not absolute"),
        (one("/a/../b"), "is not clean (dots, double or trailing slashes): write /b"),
        (one("/a/./b"), "write /a/b"),
        (one("/a//b"), "write /a/b"),
        (one("//a"), "write /a"),
        (one("/a/"), "write /a"),
        (one("/a?b"), "has a character"),
        (one("/a%20"), "has a character"),
        (one("/a b"), "has a character"),
        (one("/api"), "/api is taken: /api and all below is knit's own"),
        (one("/api/x"), "/api/x is taken"),
        (one("/healthz"), "/healthz is taken"),
        (one("/readyz/x"), "/readyz/x is taken"),
        (one(7), "endpoints[0].path: missing, or not text"),
        (one(proxy_to="h/x"), "is not an absolute URL with a host"),
        (one(proxy_to="http:///x"), "is not an absolute URL with a host"),
        (one(proxy_to="ftp://h"), "is not an absolute URL with a host"),
        (one(proxy_to="file:///etc/passwd"), "is not an absolute URL with a host"),
        (one(proxy_to="http://h:99999"), "is not a URL"),
        (one(proxy_to="http://h:x"), "is not a URL"),
        (one(proxy_to="http://h/?a=1"), "a query or a fragment"),
        (one(proxy_to="http://h/#"), "a query or a fragment"),
        (one(proxy_to="http://h/a b"), "a space"),
        (one(proxy_to=None), "endpoints[0].proxy_to: missing, or not text"),
        (one(proxyTo="x"), "endpoints[0].proxyTo: not a key of this file, proxy_to is the nearest"),
        (b"extraApi: {}", "extraApi: not a key of this file, endpoints is the nearest"),
        (b"endpoints: {}\nx: 1", "x: not a key"),
        (b"endpoints: {a: b}", "endpoints: not a list"),
        (b"endpoints: [a]", "endpoints[0]: not a mapping"),
        (b"[]", "extra.yaml is not a mapping"),
        (b"a: [", "extra.yaml is not YAML"),
        (b"endpoints: []\nendpoints: []", "the key endpoints is there twice"),
        (b"endpoints: [{path: /a, path: /b}]", "the key path is there twice"),
        (b"\xff\xfe\x00", "extra.yaml is not YAML in UTF-8"),
        # The parser takes a second.
        pytest.param(b"[" * 5000, "extra.yaml is not YAML", marks=pytest.mark.patient),
        (b"#" * (MAX_BYTES + 1), "larger than 1 MiB"),
    ],
)
def test_a_fault_is_named(content, words):
    with pytest.raises(ExtraApisRefused) as refused:
        parse_extra_apis(content)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_password_is_not_repeated():
    with pytest.raises(ExtraApisRefused) as refused:
        parse_extra_apis(one(proxy_to="http://user:hunter2@h"))
    assert "a password" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_the_same_path_twice_is_refused():
    entries = [{"path": "/a", "proxy_to": f"http://{name}"} for name in ("h", "i")]
    with pytest.raises(
        ExtraApisRefused, match=r"endpoints\[1\].path: /a is that of endpoints\[0\]"
    ):
        parse_extra_apis(yaml.safe_dump({"endpoints": entries}).encode())


def test_all_faults_are_told_at_once_but_not_thousands():
    entries = [{"path": f"a{number}", "proxy_to": "h"} for number in range(20)]
    with pytest.raises(ExtraApisRefused) as refused:
        parse_extra_apis(yaml.safe_dump({"endpoints": entries}).encode())
    assert "endpoints[4].proxy_to" in str(refused.value)
    assert str(refused.value).endswith("and 30 more")


async def test_a_change_is_put_in_force_and_a_bad_one_is_not(tmp_path: Path, caplog):
    file = tmp_path / "extra.yaml"
    file.write_text(GOOD)
    extra = ExtraApis(ExtraApisSettings(config=file))
    extra.load()
    assert extra.endpoints.find("/extra")
    file.write_text(GOOD.replace("/extra", "/other"))
    await extra.refresh(file)
    assert extra.endpoints.find("/extra"), "it may just be being written"
    await extra.refresh(file)
    assert extra.endpoints.find("/other")
    assert not extra.endpoints.find("/extra")
    caplog.clear()
    for bad in (GOOD.replace("/extra", "/api"), None):
        file.unlink() if bad is None else file.write_text(bad)
        for _ in range(3):
            await extra.refresh(file)
        assert extra.endpoints.find("/other"), "the last valid file stays in force"
        assert extra.refusal
        assert str(file) in extra.refusal
    told = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert len(told) == 2, "each refusal is logged once"
    file.write_text(GOOD.replace("/extra", "/other"))
    for _ in range(2):
        await extra.refresh(file)
    assert extra.refusal is None, "what is in force is in the file again"


async def test_a_swapped_configmap_is_noticed(tmp_path: Path):
    """A kubelet writes a new folder and moves a link to it; the file's own path never changes."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "extra.yaml").write_text(GOOD.replace("/extra", f"/{name}"))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "extra.yaml").symlink_to("..data/extra.yaml")
    extra = ExtraApis(ExtraApisSettings(config=tmp_path / "extra.yaml"))
    extra.load()
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(tmp_path / "..data")
    for _ in range(2):
        await extra.refresh(tmp_path / "extra.yaml")
    assert extra.endpoints.find("/two")


def test_a_missing_file_is_refused_at_the_start(tmp_path: Path):
    extra = ExtraApis(ExtraApisSettings(config=tmp_path / "none.yaml"))
    with pytest.raises(ExtraApisRefused, match="No such file"):
        extra.load()
