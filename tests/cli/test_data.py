"""`knit data find`, `push`, `pull` and `tag`."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest

from knit_cli.api import requests
from knit_cli.api.client import ApiClient
from knit_cli.api.requests import Requests
from knit_cli.api.retry import Retry
from knit_workflows.archive.zstd import zstd
from tests.api.archives import tar_of as plain_tar
from tests.cli.real_api import error, files_of

WHOLE_TAR = plain_tar({"y": b"content"})
PACKED = gzip.compress(WHOLE_TAR)
HALF = len(WHOLE_TAR) // 2

WHOLE = {
    "one member": PACKED,
    "several members": gzip.compress(WHOLE_TAR[:HALF]) + gzip.compress(WHOLE_TAR[HALF:]),
    "zeros behind it": PACKED + bytes(1024),
    "zeros between members": gzip.compress(WHOLE_TAR[:HALF]) + bytes(3) + gzip.compress(
        WHOLE_TAR[HALF:]
    ),
}  # fmt: skip
CUT = {
    "in the gzip header": PACKED[:7],
    "in the middle": PACKED[: len(PACKED) // 2],
    "within the checksum": PACKED[:-5],
    "one byte before the end": PACKED[:-1],
    "between members": gzip.compress(WHOLE_TAR[:700]),
    "before the second zero block": gzip.compress(WHOLE_TAR[:1536]),
    "nothing": b"",
}
DAMAGED = {
    "no gzip": b"no gzip",
    "no tar": gzip.compress(b"no tar" * 1000),
    "another checksum": PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:],
    "another length": PACKED[:-4] + b"\1\1\1\1",
    "something behind it": PACKED + b"more",
    "something behind the tar": gzip.compress(WHOLE_TAR + b"more"),
    "a second archive": PACKED + PACKED,
}


def coded_response(content: bytes, coding: str = "zstd") -> httpx.Response:
    return httpx.Response(200, headers={"Content-Encoding": coding}, content=iter([content]))


PACKED_ZSTD = zstd.compress(WHOLE_TAR[:HALF]) + zstd.compress(WHOLE_TAR[HALF:])


def cases(gzipped: dict[str, bytes], plain: dict[str, bytes]) -> list[Any]:
    """What a pull gets, by its flags: gzip for a file, plain tar to unpack."""
    found = [pytest.param([], content, id=f"file, {name}") for name, content in gzipped.items()]
    return found + [pytest.param(["-x"], one, id=f"unpacked, {n}") for n, one in plain.items()]


CUT_CASES = cases(
    CUT, {"in the middle": WHOLE_TAR[:700], "before the end": WHOLE_TAR[:1536], "nothing": b""}
)
DAMAGED_CASES = cases(
    DAMAGED, {"no tar": b"no tar" * 1000, "something behind it": WHOLE_TAR + b"more"}
)


def archive_response(content: bytes) -> httpx.Response:
    return httpx.Response(200, content=iter([content]))


# ------------------------------------------------------------ find


def test_find_shows_data_with_all_the_tags_as_json(knit, api):
    wanted = api.add_data("type:dataset", "project:demo")
    api.add_data("type:dataset")
    ended = knit("data", "find", "-t", "type:dataset", "--tag", "project:demo")
    assert ended.code == 0
    assert [one["knitId"] for one in ended.json] == [wanted.knit_id]
    assert ended.err == ""
    assert b'\n    {\n        "knitId"' in ended.out  # four blanks


def test_find_shows_an_empty_list_when_there_is_nothing(knit):
    ended = knit("data", "find")
    assert (ended.code, ended.out, ended.err) == (0, b"[]\n", "")


def test_find_asks_for_pages_and_shows_what_one_answer_would(knit, api, monkeypatch):
    """However much there is, the API never has to give it at once."""
    for _ in range(5):
        api.add_data("type:dataset")
    whole = knit("data", "find", "-t", "type:dataset")
    assert [one.url.params.get("limit") for one in api.requests] == ["1000"]
    api.requests.clear()
    monkeypatch.setattr(requests, "PAGE", 2)
    paged = knit("data", "find", "-t", "type:dataset")
    assert (paged.code, paged.out, paged.err) == (0, whole.out, "")
    assert len(whole.json) == 5
    asked = [one.url.params for one in api.requests]
    assert [(one["tag"], one["limit"]) for one in asked] == [("type:dataset", "2")] * 3
    assert ["cursor" in one for one in asked] == [False, True, True]


def test_a_page_that_is_cut_is_asked_for_again(knit, api, monkeypatch):
    for _ in range(3):
        api.add_data()
    whole = knit("data", "find").json
    api.requests.clear()
    monkeypatch.setattr(requests, "PAGE", 2)

    def cut(request: httpx.Request) -> httpx.Response:
        raise httpx.RemoteProtocolError("peer closed connection")

    api.interrupt["GET", "/data"] = [api.forward, cut]
    assert knit("data", "find").json == whole
    places = ["cursor" in one.url.params for one in api.requests]
    assert places == [False, True, True]


def test_short_flags_take_their_value_after_an_equals_sign(knit, api):
    api.add_data("type:dataset")
    assert len(knit("data", "find", "-t=type:dataset").json) == 1


@pytest.mark.parametrize(
    ("value", "statuses"),
    [
        ("both", ["done", "running"]),
        ("yes", ["running"]),
        ("true", ["running"]),
        ("no", ["done"]),
        ("false", ["done"]),
    ],
)
def test_find_filters_transient_data_itself(knit, api, value, statuses):
    for status in ("done", "running"):
        api.add_run({}, {"/out": "type:x"}, status=status)
    found = knit("data", "find", "--transient", value).json
    assert [one["upstream"]["run"]["status"] for one in found] == statuses
    assert "transient" not in str(api.requests[-1].url)


def test_find_sends_times_with_a_numeric_offset(knit, api):
    ended = knit("data", "find", "--since", "2025-02-01 10:00Z", "--duration", "1.5h")
    assert ended.code == 0
    query = api.requests[-1].url.params
    assert query["since"] == "2025-02-01T10:00:00+00:00"
    assert query["duration"] == "1.5h"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--tag", "no-colon"], 1, "has no ':'"),
        (["--tag", "knit#timestamp:yesterday"], 1, "is not a time"),
        (["--tag", "knit#transient:maybe"], 1, "processing or failed"),
        (["--since", "2025-02-30"], 1, "--since is not a time"),
        (["--since", "2025-02-01", "--duration", "1 hour"], 1, "--duration is not a duration"),
        (["--duration", "1h"], 2, "needs --since"),
        (["--transient", "perhaps"], 2, "perhaps"),
        (["--unknown"], 2, "--unknown"),
        (["surplus"], 2, "surplus"),
    ],
)
def test_find_refuses_bad_input_without_asking_the_api(knit, api, arguments, code, said):
    ended = knit("data", "find", *arguments)
    assert (ended.code, ended.out) == (code, b"")
    assert said in ended.err
    assert api.requests == []


# ------------------------------------------------------------ push


def test_push_uploads_a_folder_with_its_tags_in_one_request(knit, api):
    knit.write("set/a.txt", "alpha")
    knit.write("set/deep/b.bin", b"\0" * 3_000_000)
    (knit.cwd / "set" / "link").symlink_to("a.txt")
    ended = knit("data", "push", "set", "--tag", "type:dataset", "-n", "-t", "note:a b&c:d")
    assert ended.code == 0
    assert api.asked() == ["POST /data"]
    tags = [tag for tag in ended.json["tags"] if not tag.startswith("knit#")]
    assert tags == ["name:set", "note:a b&c:d", "type:dataset"]
    archive = api.archive(ended.json["knitId"])
    assert files_of(archive) == {
        "a.txt": b"alpha",
        "deep/b.bin": b"\0" * 3_000_000,
        "link": "a.txt",
    }


def test_push_of_a_file_makes_a_folder_with_that_file(knit, api):
    knit.write("one.csv", "1,2")
    (knit.cwd / "latest.csv").symlink_to("one.csv")
    ended = knit("data", "push", "latest.csv", "--name")
    assert files_of(api.archive(ended.json["knitId"])) == {"latest.csv": b"1,2"}
    assert "name:latest.csv" in ended.json["tags"]


def test_push_takes_the_current_folder_and_a_link_to_a_folder(knit, api):
    knit.write("real/x", "x")
    (knit.cwd / "latest").symlink_to("real")
    ended = knit("data", "push", "latest", "-n")
    assert files_of(api.archive(ended.json["knitId"])) == {"x": b"x"}
    ended = knit("data", "push", ".", "-n", cwd=knit.cwd / "real")
    assert ended.code == 1  # no profile there
    ended = knit("--profile", str(knit.cwd), "data", "push", ".", "-n", cwd=knit.cwd / "real")
    assert "name:real" in ended.json["tags"]


def test_dereference_stores_what_links_lead_to(knit, api):
    knit.write("outside", "content")
    knit.write("set/file")
    (knit.cwd / "set" / "link").symlink_to("../outside")
    for flag in ("--dereference", "-L"):
        ended = knit("data", "push", "set", flag)
        assert files_of(api.archive(ended.json["knitId"]))["link"] == b"content"


def test_push_shows_each_source_as_json(knit, api):
    knit.write("a/x")
    knit.write("b/y")
    ended = knit("data", "push", "a", "b")
    assert ended.out.count(b'"knitId"') == len(api.data) == 2


def test_push_adds_the_tags_of_the_project_but_no_system_tags(knit, api):
    knit.write("knitenv", 'tag: ["project:demo", "knit#id:x", "owner: alice "]')
    knit.write("sub/set/x")
    ended = knit("--profile", str(knit.cwd), "data", "push", "set", cwd=knit.cwd / "sub")
    tags = [tag for tag in ended.json["tags"] if not tag.startswith("knit#")]
    assert tags == ["owner:alice", "project:demo"]


def test_a_missing_source_stops_everything_before_anything_is_uploaded(knit, api):
    knit.write("a/x")
    ended = knit("data", "push", "a", "nowhere")
    assert (ended.code, ended.out) == (1, b"")
    assert "nowhere" in ended.err
    assert "nothing was uploaded" in ended.err
    assert api.requests == []


def test_what_cannot_be_packed_is_left_out_and_named_before_anything_is_sent(knit, api):
    knit.write("a/b/x", "x")
    knit.write("a/lost+found/y")
    os.mkfifo(knit.cwd / "a" / "pipe")
    os.mknod(knit.cwd / "a" / "b" / "s", stat.S_IFSOCK | 0o600)
    ended = knit("data", "push", "a")
    assert ended.code == 0
    assert ended.err.splitlines() == [
        "knit: left out of a: 2 things",
        "knit:   b/s (socket)",
        "knit:   lost+found (folder of the file system)",
    ]
    with tarfile.open(fileobj=BytesIO(api.archive(ended.json["knitId"]))) as opened:
        kinds = {member.name: member.type for member in opened}
    assert kinds == {"b": b"5", "b/x": b"0", "pipe": b"6"}


def test_of_very_many_things_left_out_the_first_are_named_and_all_counted(knit, api):
    knit.write("a/x")
    for number in range(25):
        (knit.cwd / "a" / f"l{number:02}").symlink_to("x")
    ended = knit("data", "push", "a", "--no-links")
    assert ended.code == 0
    assert "left out of a: 25 things" in ended.err
    assert "l19 (link)" in ended.err
    assert "l20" not in ended.err
    assert ended.err.endswith("and 5 more\n")
    assert files_of(api.archive(ended.json["knitId"])) == {"x": b""}


def test_no_links_and_dereference_are_wrong_usage(knit, api):
    knit.write("a/x")
    ended = knit("data", "push", "a", "--no-links", "--dereference")
    assert ended.code == 2
    assert api.requests == []


def test_links_are_pushed_as_they_are_wherever_they_lead(knit, api):
    knit.write("a/x", "x")
    for name, target in {"abs": "/etc/passwd", "up": "../..", "dangling": "no/where"}.items():
        (knit.cwd / "a" / name).symlink_to(target)
    for flags in ([], ["--no-dereference"], ["--links"]):
        ended = knit("data", "push", "a", *flags)
        assert (ended.code, ended.err) == (0, "")
        assert files_of(api.archive(ended.json["knitId"])) == {
            "abs": "/etc/passwd", "up": "../..", "dangling": "no/where", "x": b"x",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (".", "leads back to a folder above"),
        ("loop", "leads to itself"),
        ("nowhere", "the link is broken"),
    ],
)
def test_links_that_cannot_be_followed_are_an_error_before_anything_is_sent(
    knit, api, target, said
):
    knit.write("a/x")
    (knit.cwd / "a" / "loop").symlink_to(target)
    ended = knit("data", "push", "a", "-L")
    assert ended.code == 1
    assert "a/loop" in ended.err or "'loop'" in ended.err
    assert said in ended.err
    assert "without --dereference" in ended.err
    assert api.requests == []


def test_holes_are_pushed_as_holes(knit, api):
    knit.write("a/x")
    os.truncate(knit.cwd / "a" / "x", 8 << 20)
    ended = knit("data", "push", "a")
    archive = api.archive(ended.json["knitId"])
    assert len(archive) < 1 << 14
    with tarfile.open(fileobj=BytesIO(archive)) as opened:
        (member,) = opened.getmembers()
        assert (member.name, member.size) == ("x", 8 << 20)


def test_system_tags_are_refused_before_anything_is_uploaded(knit, api):
    knit.write("a/x")
    ended = knit("data", "push", "a", "--tag", "knit#id:x")
    assert ended.code == 2
    assert "system tag" in ended.err
    assert api.requests == []


def test_push_without_a_source_is_wrong_usage(knit):
    assert knit("data", "push").code == 2


def test_too_many_tags_for_a_query_follow_in_a_second_request(knit, api):
    knit.write("a/x")
    tags = [f"key{number}:{'v' * 200}" for number in range(100)]
    knit.write("knitenv", "tag: [" + ", ".join(f'"{tag}"' for tag in tags) + "]")
    ended = knit("data", "push", "a")
    assert set(tags) <= set(ended.json["tags"])
    assert api.requests[0].url.query == b""
    assert len(api.requests) == 2


def test_a_push_that_could_not_be_tagged_says_which_data_is_left(knit, api):
    api.interrupt[("PUT", "*")] = [error(500, "unexpected error")]
    knit.write("a/x")
    ended = knit("data", "push", "a", "-t", f"type:{'x' * 20_000}")
    assert ended.code == 1
    assert "without its tags" in ended.err
    (knit_id,) = api.data
    assert f"see: {knit_id}" in ended.err


def test_a_refused_push_shows_reason_and_advice(knit, api):
    api.interrupt[("POST", "/data")] = [error(400, "bad request", "use other tags", "a-url")]
    knit.write("a/x")
    ended = knit("data", "push", "a")
    assert (ended.code, ended.out) == (1, b"")
    assert ended.err == (
        "error: cannot push\nreason: bad request\nhint: use other tags\nsee: a-url\n"
    )


# ------------------------------------------------------------ pull


def test_pull_keeps_the_archive_under_the_id(knit, api):
    data = api.add_data(archive=plain_tar({"x/y.txt": b"content"}))
    ended = knit("data", "pull", data.knit_id, "into/it")
    assert (ended.code, ended.out) == (0, b"")
    archive = knit.cwd / "into" / "it" / f"{data.knit_id}.tar.gz"
    assert list(archive.parent.iterdir()) == [archive]
    with tarfile.open(archive, "r:gz") as opened:
        assert opened.getnames() == ["x", "x/y.txt"]
    assert archive.stat().st_mode & 0o044  # not private, as a temporary file would be


def test_pull_extracts_below_the_id(knit, api):
    data = api.add_data(archive=plain_tar({"x/y.txt": b"content"}))
    assert knit("data", "pull", "-x", data.knit_id).code == 0
    assert (knit.cwd / data.knit_id / "x" / "y.txt").read_bytes() == b"content"
    assert (knit.cwd / data.knit_id).stat().st_mode & 0o055
    assert api.requests[-1].headers["Accept"] == "application/x-tar;entries=all;holes=kept"


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        ([], "zstd, identity;q=0.5"),
        (["--compress"], "zstd, identity;q=0.5"),
        (["--no-compress"], "identity"),
    ],
)
def test_an_unpacking_pull_has_its_archive_compressed_on_the_way(knit, api, flags, asked):
    files = {"text": b"a line\n" * 100_000, "y": b"content"}
    data = api.add_data(archive=plain_tar(files))
    assert knit("data", "pull", "-x", *flags, data.knit_id).code == 0
    assert api.requests[-1].headers["Accept-Encoding"] == asked
    folder = knit.cwd / data.knit_id
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_pull_from_this_machine_is_not_compressed():
    """Nothing is quicker there than the archive as it is."""
    for root, is_here in (
        ("http://127.0.0.1:8080/api", True),
        ("http://[::1]:8080/api", True),
        ("https://localhost/api", True),
        ("https://knit.example/api", False),
    ):
        with httpx.Client(base_url=root) as http:
            client = ApiClient(
                Requests(http, where="", retry=Retry(lambda _: None, lambda _: None))
            )
            assert client.is_on_this_machine is is_here


def test_compressing_is_for_pulls_that_unpack(knit, api):
    """A KNIT_ID.tar.gz is compressed by what it is."""
    for flag in ("--compress", "--no-compress"):
        ended = knit("data", "pull", flag, "x")
        assert ended.code == 2
        assert "it needs --extract" in ended.err


def test_pull_names_what_the_data_has_that_no_archive_can_hold(knit, api):
    data = api.add_data()
    os.mknod(api.content(data.knit_id) / "s", stat.S_IFSOCK | 0o600)
    (api.content(data.knit_id) / "link").symlink_to("/etc/passwd")
    ended = knit("data", "pull", "-x", data.knit_id)
    assert ended.code == 0
    assert f"left out of {data.knit_id}: 1 thing\nknit:   s (socket)\n" in ended.err
    assert (knit.cwd / data.knit_id / "link").readlink() == Path("/etc/passwd")
    ended = knit("data", "pull", "-x", "--no-links", data.knit_id, "other")
    assert ended.code == 0
    assert f"left out of {data.knit_id}: 2 things" in ended.err
    assert "  link (link)" in ended.err
    assert list((knit.cwd / "other" / data.knit_id).iterdir()) == []


def test_a_pull_to_a_file_asks_for_what_any_tool_can_read(knit, api):
    data = api.add_data(archive=plain_tar({"y": b"content"}))
    assert knit("data", "pull", data.knit_id).code == 0
    assert api.requests[-1].headers["Accept"] == "application/tar+gzip;entries=all"


def test_pull_to_stdout_is_the_raw_archive(knit, api):
    data = api.add_data(archive=plain_tar({"y": b"content"}))
    ended = knit("data", "pull", data.knit_id, "-")
    assert ended.err == ""
    with tarfile.open(fileobj=BytesIO(ended.out), mode="r:gz") as opened:
        assert opened.getnames() == ["y"]


def test_pull_does_not_mix_into_a_folder_that_is_there(knit, api):
    data = api.add_data(archive=plain_tar({"y": b"new"}))
    kept = knit.write(f"{data.knit_id}/z", "old")
    ended = knit("data", "pull", "-x", data.knit_id)
    assert ended.code == 1
    assert "already exists" in ended.err
    assert "hint: remove it" in ended.err
    assert list(kept.parent.iterdir()) == [kept]
    assert api.requests == []


def test_of_two_pulls_at_once_the_later_one_says_that_the_folder_is_there(knit, api, monkeypatch):
    data = api.add_data(archive=plain_tar({"y": b"content"}))

    def when_another_was_first(request):
        knit.write(f"{data.knit_id}/y", "content")
        return api.forward(request)

    api.interrupt[("GET", f"/data/{data.knit_id}")] = [when_another_was_first]
    ended = knit("data", "pull", "-x", data.knit_id)
    assert ended.code == 1
    assert f"{data.knit_id} already exists" in ended.err
    assert ".part" not in ended.err
    assert [path.name for path in (knit.cwd / data.knit_id).iterdir()] == ["y"]


def test_pull_fills_an_empty_folder_that_is_there(knit, api):
    data = api.add_data(archive=plain_tar({"y": b"new"}))
    (knit.cwd / data.knit_id).mkdir()
    assert knit("data", "pull", "-x", data.knit_id).code == 0
    assert (knit.cwd / data.knit_id / "y").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil-knit"])
def test_a_dangerous_archive_leaves_nothing(knit, api, name):
    """No real API sends one: it would not have taken it."""
    data = api.add_data()
    evil = plain_tar({"fine": b"", name: b"evil"})
    api.interrupt[("GET", f"/data/{data.knit_id}")] = [archive_response(evil)]
    ended = knit("data", "pull", "-x", data.knit_id, "dest")
    assert ended.code == 1
    assert "evil" in ended.err
    assert list((knit.cwd / "dest").iterdir()) == []


@pytest.mark.parametrize("flags", [["-x"], []])
def test_a_connection_that_breaks_leaves_nothing(knit, api, flags):
    def broken(_request):
        def chunks():
            yield plain_tar({"y": b"content"})[:700] if flags else PACKED[:70]
            raise httpx.RemoteProtocolError("peer closed connection")

        return httpx.Response(200, content=chunks())

    data = api.add_data()
    api.interrupt[("GET", f"/data/{data.knit_id}")] = [broken] * 3
    ended = knit("data", "pull", *flags, data.knit_id, "dest")
    assert ended.code == 1
    assert "was cut" in ended.err
    assert list((knit.cwd / "dest").iterdir()) == []


@pytest.mark.parametrize("arguments", [["-x"], [], ["-"]])
def test_a_pull_is_begun_anew_when_its_connection_breaks(knit, api, arguments):
    """Into a folder always; into a pipe only before something went through it."""
    data = api.add_data(archive=plain_tar({"y": b"content"}))

    def broken(_request):
        def chunks():
            if arguments != ["-"]:
                yield plain_tar({"y": b"content"})[:700] if arguments else PACKED[:70]
            raise httpx.RemoteProtocolError("peer closed connection")

        return httpx.Response(200, content=chunks())

    api.interrupt[("GET", f"/data/{data.knit_id}")] = [broken, broken]
    ended = knit("data", "pull", data.knit_id, *arguments)
    assert ended.code == 0
    assert ended.err.count("retrying in") == 2
    if arguments == ["-x"]:
        assert (knit.cwd / data.knit_id / "y").read_bytes() == b"content"


def test_what_went_through_a_pipe_is_not_sent_again(knit, api):
    data = api.add_data()

    def broken(_request):
        def chunks():
            yield b"first piece"
            raise httpx.RemoteProtocolError("peer closed connection")

        kind = {"Content-Type": "application/tar+gzip"}
        return httpx.Response(200, headers=kind, content=chunks())

    api.interrupt[("GET", f"/data/{data.knit_id}")] = [broken]
    ended = knit("data", "pull", data.knit_id, "-")
    assert (ended.code, ended.out) == (1, b"first piece")
    assert len(api.requests) == 1


@pytest.mark.parametrize(
    ("content", "coding"),
    [
        (b"no zstd", "zstd"),
        (PACKED_ZSTD + b"more", "zstd"),
        (PACKED_ZSTD + zstd.compress(b"more"), "zstd"),
        (PACKED, "gzip"),
        (PACKED_ZSTD, "zstd, zstd"),
    ],
)
def test_a_damaged_coding_leaves_nothing(knit, api, content, coding):
    data = api.add_data()
    api.interrupt[("GET", f"/data/{data.knit_id}")] = [coded_response(content, coding)]
    ended = knit("data", "pull", "-x", data.knit_id, "dest")
    assert ended.code == 1
    assert f"error: cannot pull {data.knit_id}\nreason: " in ended.err
    assert list((knit.cwd / "dest").iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"", PACKED_ZSTD[:-1], PACKED_ZSTD[:30], zstd.compress(WHOLE_TAR[:700])],
    ids=["nothing", "one byte before the end", "in the middle", "between frames"],
)
def test_a_coding_that_ends_too_early_is_asked_for_again(knit, api, content):
    """Also where a frame ends, but not the archive."""
    data = api.add_data(archive=plain_tar({"y": b"content"}))
    api.interrupt[("GET", f"/data/{data.knit_id}")] = [coded_response(content)]
    ended = knit("data", "pull", "-x", data.knit_id, "dest")
    assert ended.code == 0, ended.err
    assert ended.err.count("was cut; retrying") == 1
    assert (knit.cwd / "dest" / data.knit_id / "y").read_bytes() == b"content"


@pytest.mark.parametrize(("flags", "content"), DAMAGED_CASES)
def test_a_damaged_archive_leaves_nothing(knit, api, flags, content):
    """It came whole, so that it is not asked for again."""
    data = api.add_data()
    api.interrupt[("GET", f"/data/{data.knit_id}")] = [archive_response(content)]
    ended = knit("data", "pull", *flags, data.knit_id, "dest")
    assert ended.code == 1
    assert f"error: cannot pull {data.knit_id}\nreason: " in ended.err
    assert "retrying" not in ended.err
    assert list((knit.cwd / "dest").iterdir()) == []


@pytest.mark.parametrize(("flags", "content"), CUT_CASES)
def test_an_archive_that_ends_too_early_is_asked_for_again(knit, api, flags, content):
    """Although the answer itself ended in order, as behind a proxy that was cut itself."""
    data = api.add_data(archive=plain_tar({"y": b"content"}))
    answers = [archive_response(content) for _ in range(2)]
    api.interrupt[("GET", f"/data/{data.knit_id}")] = answers
    ended = knit("data", "pull", *flags, data.knit_id, "dest")
    assert ended.code == 0, ended.err
    assert ended.err.count("was cut; retrying") == 2
    assert len(list((knit.cwd / "dest").iterdir())) == 1
    answers += [archive_response(content) for _ in range(3)]
    ended = knit("data", "pull", *flags, data.knit_id, "elsewhere")
    assert ended.code == 1
    assert "although the connection was closed cleanly" in ended.err
    assert list((knit.cwd / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_pull_waits_a_little_for_an_api_that_is_away(knit, api, status):
    """As a proxy before it says, too."""
    data = api.add_data(archive=plain_tar({"y": b"content"}))
    api.interrupt[("GET", f"/data/{data.knit_id}")] = [error(status, "away"), error(status, "away")]
    ended = knit("data", "pull", data.knit_id)
    assert ended.code == 0
    assert ended.err.count("temporarily unavailable") == 2


@pytest.mark.parametrize("content", WHOLE.values(), ids=WHOLE)
def test_members_and_padding_belong_to_gzip(knit, api, content):
    data = api.add_data()
    api.interrupt[("GET", f"/data/{data.knit_id}")] = [archive_response(content)]
    assert knit("data", "pull", data.knit_id).code == 0
    assert (knit.cwd / f"{data.knit_id}.tar.gz").read_bytes() == content


def test_an_archive_is_kept_with_what_we_would_not_unpack(knit, api):
    """Who cannot have it unpacked can still have it, and look for themselves."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        pipe = tarfile.TarInfo("pipe")
        pipe.type = tarfile.FIFOTYPE
        archive.addfile(pipe)
    data = api.add_data()
    api.interrupt[("GET", f"/data/{data.knit_id}")] = [archive_response(content.getvalue())]
    assert knit("data", "pull", data.knit_id).code == 0
    assert (knit.cwd / f"{data.knit_id}.tar.gz").read_bytes() == content.getvalue()


@pytest.mark.parametrize("arguments", [["-x"], [], ["-"]])
def test_what_comes_is_what_is_kept(knit, api, arguments):
    content = os.urandom(3_000_000)
    data = api.add_data(archive=plain_tar({"y": content}))
    ended = knit("data", "pull", data.knit_id, *arguments)
    assert ended.code == 0, ended.err
    if arguments == ["-x"]:
        assert (knit.cwd / data.knit_id / "y").read_bytes() == content
        return
    kept = ended.out if arguments else (knit.cwd / f"{data.knit_id}.tar.gz").read_bytes()
    assert files_of(gzip.decompress(kept)) == {"y": content}


def test_pull_of_something_unknown(knit):
    ended = knit("data", "pull", "nothing")
    assert ended.code == 1
    assert ended.err.startswith(
        "error: cannot pull nothing\nreason: There is no such Data.\nhint: "
    )
    assert not list(knit.cwd.iterdir())


@pytest.mark.parametrize(
    "arguments", [["id", "-", "-x"], ["../x"], [".."], [], ["id", "--no-links"]]
)
def test_pull_refuses_wrong_usage(knit, api, arguments):
    assert knit("data", "pull", *arguments).code == 2
    assert api.requests == []


# ------------------------------------------------------------ tag


def test_tag_changes_tags_in_one_request_and_says_so_on_stderr(knit, api):
    data = api.add_data("version:latest", "old:1", "old:2")
    ended = knit(
        *("data", "tag", data.knit_id, "--add", "version:3"),
        *("--remove", "version:latest", "--remove-key", "old"),
    )
    assert (ended.code, ended.out) == (0, b"")
    assert "version:3" in ended.err
    assert api.asked() == [f"PUT /data/{data.knit_id}"]
    tags = [str(tag) for tag in api.data[data.knit_id].tags if not tag.key.startswith("knit#")]
    assert tags == ["version:3"]


@pytest.mark.parametrize("flag", ["--add", "--remove"])
def test_tag_refuses_system_tags(knit, api, flag):
    assert knit("data", "tag", "some-id", flag, "knit#id:x").code == 2
    assert api.requests == []


def test_the_api_refuses_system_keys(knit, api):
    api.interrupt[("PUT", "/data/some-id")] = [error(400, "format error", "no system tags")]
    assert knit("data", "tag", "some-id", "--remove-key", "knit#id").code == 1


def test_what_a_terminal_obeys_in_a_tag_reaches_none(knit, api):
    """JSON need not escape these, and the value is the same."""
    data = api.add_data("note:\x9b2J\x9dx")
    ended = knit("data", "find")
    assert "\x9b" not in ended.out.decode()
    assert "note:\x9b2J\x9dx" in ended.json[0]["tags"]
    tree = knit("data", "lineage", data.knit_id, "--format", "tree").out.decode()
    assert "\x9b" not in tree
    assert "note:?2J?x" in tree
