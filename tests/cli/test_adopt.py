"""`knit data adopt`, and what deletion says of what was adopted."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.cli.real_api import error


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Three folders of somebody else."""
    made = [tmp_path / "theirs" / name for name in ("a", "b", "c")]
    for one in made:
        one.mkdir(parents=True)
        (one / "file").write_text(one.name)
    return [str(one.resolve()) for one in made]


def tags_of(data: dict) -> set[str]:
    return {tag for tag in data["tags"] if not tag.startswith("knit#")}


def test_folders_become_data_with_tags(knit, api, folders):
    ended = knit("data", "adopt", *folders[:2], "-t", "type:dataset", "--tag", "owner:them")
    assert [one["outcome"] for one in ended.json] == ["new", "new"]
    for folder, one in zip(folders, ended.json, strict=False):
        assert one["volume"] == one["data"]["adopted_volume"] == folder
        assert tags_of(one["data"]) == {"type:dataset", "owner:them"}
        assert one["data"]["upstream"]["run"]["plan"]["name"] == "knit#imported"
    assert "2 adopted" in ended.err
    assert len(knit("data", "find", "-t", "owner:them").json) == 2


def test_adopting_again_changes_nothing_but_tags(knit, api, folders):
    [first] = knit("data", "adopt", folders[0], "-t", "k:a").json
    [again] = knit("data", "adopt", folders[0], "-t", "x:1").json
    assert again["outcome"] == "known"
    assert again["data"]["knitId"] == first["data"]["knitId"]
    assert tags_of(again["data"]) == {"k:a", "x:1"}
    assert len(api.data) == 1


def test_an_adopted_folder_is_pulled_as_any_data(knit, folders):
    [one] = knit("data", "adopt", folders[0]).json
    knit_id = one["data"]["knitId"]
    assert knit("data", "pull", "-x", knit_id, "got").code == 0
    assert (knit.cwd / "got" / knit_id / "file").read_text() == "a"


def test_a_dry_run_adopts_nothing(knit, api, folders):
    knit("data", "adopt", folders[0])
    ended = knit("data", "adopt", *folders, "--dry-run")
    assert [one["outcome"] for one in ended.json] == ["known", "new", "new"]
    assert "2 would be adopted, 1 known" in ended.err
    assert len(api.data) == 1


def test_a_lost_response_is_asked_for_again(knit, api, folders):
    def lost(request: httpx.Request) -> httpx.Response:
        api.forward(request)
        raise httpx.ReadError("connection reset", request=request)

    api.interrupt["POST", "/adoptions"] = [api.forward, lost]
    [one] = knit("data", "adopt", folders[0]).json
    assert one["outcome"] == "known"
    assert len(api.data) == 1


# ------------------------------------------------------------ manifests

YAML = """\
# what we have
- volume: {0}
  tags: [type:dataset, "owner:them"]
- path: {1}
  tags:
    - type: labels
    - owner:us
- volume: {2}
  tags: {{type: masks}}
"""
CSV = """\
volume,type,tags
{0},dataset,owner:them
{1},labels,owner:us;
"{2}",masks,
"""


@pytest.mark.parametrize(("name", "text"), [("m.yaml", YAML), ("m.json", YAML), ("m.CSV", CSV)])
def test_a_manifest_gives_each_volume_its_tags(knit, folders, name, text):
    (knit.cwd / name).write_text(text.format(*folders))
    found = knit("data", "adopt", "--manifest", name, "-t", "all:yes").json
    assert [one["volume"] for one in found] == folders
    assert [tags_of(one["data"]) for one in found] == [
        {"all:yes", "type:dataset", "owner:them"},
        {"all:yes", "type:labels", "owner:us"},
        {"all:yes", "type:masks"},
    ]


BROKEN_YAML = """\
- volume: {0}
  tags: [no-colon, knit#id:x]
- tags: [k:a]
- volume: {0}
  colour: red
- just text
- volume: {1}
  tags:
    - [nested]
"""
YAML_FAULTS = {
    2: ["'no-colon' has no ':'", "knit#id:x is a system tag"],
    3: ["the volume is missing"],
    4: ["is in line 1 already"],
    5: ["'colour' is not known"],
    6: ["write '- volume: NAME'"],
    9: ["write each tag as key:value"],
}
BROKEN_CSV = """\
volume,tags
{0},no-colon;k:a

,k:a
{0},k:a
{1}
{2},k:a,too much
"""
CSV_FAULTS = {
    2: ["'no-colon' has no ':'"],
    4: ["the volume is missing"],
    5: ["is in line 2 already"],
    6: ["1 cells, but the first line has 2"],
    7: ["3 cells, but the first line has 2"],
}


@pytest.mark.parametrize(
    ("name", "text", "faults"),
    [("m.yml", BROKEN_YAML, YAML_FAULTS), ("m.csv", BROKEN_CSV, CSV_FAULTS)],
)
def test_all_faults_of_a_manifest_are_told_at_once(knit, api, folders, name, text, faults):
    """Each with its line, and before anything is sent."""
    (knit.cwd / name).write_text(text.format(*folders))
    ended = knit("data", "adopt", "-m", name)
    assert ended.code == 1
    for line, said in faults.items():
        for words in said:
            assert [one for one in ended.err.splitlines() if f"{name}:{line}: " in one
                    and words in one], (line, words, ended.err)  # fmt: skip
    assert ended.err.count(f"{name}:") == sum(map(len, faults.values())), ended.err
    assert api.requests == []


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("m.yaml", "", "no volume in it"),
        ("m.yaml", "volume: x", "a manifest is a list"),
        ("m.yaml", "- a: [", "not YAML"),
        ("m.yaml", "- a\0", "not YAML"),
        ("m.csv", "", "no volume in it"),
        ("m.csv", "/srv/a,k:a", "must name the columns"),
        ("m.csv", "volume,k,k\nx,1,2", "a name of its own"),
        ("m.csv", 'volume\n"x', "not CSV"),
    ],
)
def test_what_is_no_manifest_is_refused_in_words(knit, api, name, text, said):
    (knit.cwd / name).write_text(text)
    ended = knit("data", "adopt", "-m", name)
    assert ended.code == 1
    assert f"{name}:" in ended.err
    assert said in ended.err
    assert api.requests == []


def test_all_refused_volumes_are_told_with_their_lines(knit, api, folders):
    """Before any other is adopted."""
    (knit.cwd / "m.yaml").write_text(
        f"- volume: {folders[0]}\n- volume: /no/such\n- volume: relative\n- volume: /\n"
    )
    ended = knit("data", "adopt", "-m", "m.yaml")
    assert ended.code == 1
    for line, words in {2: "/no/such", 3: "not an absolute path", 4: "root"}.items():
        assert any(f"m.yaml:{line}: " in one and words in one for one in ended.err.splitlines())
    assert "nothing was adopted" in ended.err
    assert api.data == {}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "name volumes"),
        (["/a", "/a"], 1, "named twice"),
        (["/a", "-t", "nothing"], 1, "has no ':'"),
        (["/a", "-t", "knit#id:x"], 2, "system tag"),
        (["-m", "missing.yaml"], 1, "cannot read missing.yaml"),
    ],
)
def test_wrong_use_is_told_before_anything_is_sent(knit, api, arguments, code, said):
    ended = knit("data", "adopt", *arguments)
    assert ended.code == code
    assert said in ended.err
    assert api.requests == []


def test_the_api_may_be_away(knit, api, folders):
    api.interrupt["POST", "/adoptions"] = [error(503, "no worker", "wait")] * 9
    ended = knit("data", "adopt", folders[0])
    assert ended.code == 1
    assert "no worker" in ended.err


# ------------------------------------------------------------ deletion


def test_deletion_says_that_the_volume_stays(knit, folders, tmp_path):
    [one] = knit("data", "adopt", folders[0]).json
    ended = knit("run", "rm", one["data"]["upstream"]["run"]["runId"])
    assert ended.code == 0
    assert f"the volume {folders[0]} stays as it is" in ended.err
    assert (Path(folders[0]) / "file").read_text() == "a"
    assert knit("data", "find").json == []


def test_deletion_says_nothing_of_knits_own_volumes(knit, api):
    data = api.add_data("k:a")
    api.store.memory.transfers.clear()
    ended = knit("run", "rm", data.upstream.run.run_id)
    assert ended.code == 0
    assert "volume" not in ended.err
