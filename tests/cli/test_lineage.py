"""`knit data lineage`, and the walk behind it."""

from __future__ import annotations

import itertools
import json
import re

import httpx
import pytest

from tests.cli.real_api import error


def chain(api, length):
    """Data → Run → Data → … ; gives all Data and Runs in order."""
    data = [api.add_data("step:0")]
    runs = []
    for step in range(1, length + 1):
        run, made = api.add_run({"/in": data[-1]}, {"/out": f"step:{step}"})
        runs.append(run)
        data.append(made["/out"])
    return data, runs


def graph(knit, *arguments):
    return knit("data", "lineage", *arguments, "--format", "json").json


def ids(graph):
    return {one["knitId"] for one in graph["data"]}


def test_both_directions_and_three_runs_far_by_default(knit, api):
    data, _ = chain(api, 9)
    found = graph(knit, data[4].knit_id)
    assert ids(found) == {one.knit_id for one in data[1:8]}


@pytest.mark.parametrize(
    ("flags", "reached"),
    [
        (["-u"], range(1, 5)),
        (["--downstream"], range(4, 8)),
        (["-d", "-n", "1"], range(4, 6)),
        (["-u", "--numbers", "all"], range(5)),
        (["-n", "all"], range(10)),
    ],
)
def test_direction_and_distance(knit, api, flags, reached):
    data, _ = chain(api, 9)
    found = graph(knit, data[4].knit_id, *flags)
    assert ids(found) == {data[step].knit_id for step in reached}


def test_side_data_are_shown_but_not_followed(knit, api):
    side_source = api.add_data("side:source")
    _, side = api.add_run({"/in": side_source}, {"/out": "side:made"})
    start = api.add_data("start:yes")
    run, made = api.add_run(
        {"/a": start, "/b": side["/out"]}, {"/out": "out:1", "/more": "out:2"}, log=True
    )
    found = graph(knit, start.knit_id, "-d", "-n", "all")
    assert ids(found) == {
        start.knit_id,
        side["/out"].knit_id,
        *(one.knit_id for one in made.values()),
    }
    ends = {(edge["from"], edge["to"], edge["label"]) for edge in found["edges"]}
    assert (side["/out"].knit_id, run.run_id, "/b") in ends
    assert (run.run_id, made["/log"].knit_id, "(log)") in ends
    up = graph(knit, made["/out"].knit_id, "-u", "-n", "1")
    assert made["/more"].knit_id in ids(up)
    assert side_source.knit_id not in ids(up)


def test_a_diamond_is_walked_once(knit, api):
    top = api.add_data("top:1")
    _, left = api.add_run({"/in": top}, {"/out": "left:1"})
    _, right = api.add_run({"/in": top}, {"/out": "right:1"})
    _, bottom = api.add_run({"/a": left["/out"], "/b": right["/out"]}, {"/out": "bottom:1"})
    found = graph(knit, bottom["/out"].knit_id, "-u", "-n", "all")
    assert len(found["runs"]) == 4
    ended = knit("data", "lineage", bottom["/out"].knit_id, "-u", "-n", "all", "--format", "tree")
    assert ended.out.decode().count(" (shown above)") == 1


def test_dot_is_the_default_where_stdout_is_no_terminal(knit, api):
    data, runs = chain(api, 2)
    ended = knit("data", "lineage", data[1].knit_id)
    text = ended.out.decode()
    assert text.startswith("digraph G {\n") and text.endswith("\n}")
    nodes = re.findall(r'^    "(\w[^"]*)" \[', text, re.MULTILINE)
    assert sorted(nodes) == sorted(
        [
            *(f"d{one.knit_id}" for one in data),
            *(f"r{run.run_id}" for run in runs),
            f"r{data[0].upstream.run.run_id}",
            "root#0",
        ]
    )
    assert f'"d{data[1].knit_id}" -> "r{runs[1].run_id}" [label="/in"];' in text
    assert f'"r{runs[1].run_id}" -> "d{data[2].knit_id}" [label="/out"];' in text
    assert f'"root#0" -> "r{data[0].upstream.run.run_id}"' in text
    assert text.count("#d4ecc6") == 1


def test_dot_escapes_what_users_write(knit, api):
    data = api.add_data('a<b>&:"quoted" </TABLE>')
    api.add_run({'/in"x\\y': data}, {"/out": "x:y"})
    text = knit("data", "lineage", data.knit_id).out.decode()
    assert "<B>a&lt;b&gt;&amp;</B>:&quot;quoted&quot; &lt;/TABLE&gt;" in text
    assert '[label="/in\\"x\\\\y"]' in text


def test_dot_begins_and_ends_as_the_contract_says(knit, api):
    """No line end after the last brace; what a Run and a Data show of themselves."""
    data, runs = chain(api, 1)
    text = knit("data", "lineage", data[0].knit_id, "--format", "dot").out.decode()
    lines = text.split("\n")
    assert lines[0] == "digraph G {"
    assert lines[1].strip() == "node [shape=record fontsize=10]"
    assert lines[2].strip() == "edge [fontsize=10]"
    assert lines[-1] == "}"
    (run,) = [line for line in lines if line.startswith(f'    "r{runs[0].run_id}" [')]
    for shown in ("#FFA500", ">Run<", "#007700", "done", "last updated: ", "image = example/"):
        assert shown in run
    (start,) = [line for line in lines if line.startswith(f'    "d{data[0].knit_id}" [')]
    for shown in ("#1c9930", ">Data<", f"knit#id: {data[0].knit_id}", "#d4ecc6", "<B>step</B>:0"):
        assert shown in start
    assert '"root#0" [shape=Mdiamond];' in text


def test_mermaid_shows_the_same_graph(knit, api):
    data, _ = chain(api, 2)
    text = knit("data", "lineage", data[0].knit_id, "--format", "mermaid").out.decode()
    assert text.startswith("flowchart LR\n")
    found = graph(knit, data[0].knit_id)
    assert text.count("-->") == len(found["edges"]) + 1  # and the root's


def test_a_lineage_that_is_too_large_says_what_to_do(knit, api):
    data, _ = chain(api, 1)
    refusal = error(409, "the lineage is too large", "ask for fewer hops")
    api.interrupt[("GET", f"/data/{data[0].knit_id}/lineage")] = [refusal]
    ended = knit("data", "lineage", data[0].knit_id)
    assert (ended.code, ended.out) == (1, b"")
    assert "hint: ask for fewer hops" in ended.err


def test_tree_names_data_runs_and_paths(knit, api):
    start = api.add_data("type:dataset")
    run, made = api.add_run({"/in/data": start}, {"/out/model": "type:model"}, log=True)
    text = knit("data", "lineage", start.knit_id, "--format", "tree").out.decode()
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[0] == "came from"
    below = lines[lines.index("went into") :]
    assert re.search(rf"Data {start.knit_id} type:dataset 2025", below[1])
    assert below[2].strip("└─│ ") == f"Run {run.run_id} done image = example/work:v1"
    assert f"/out/model Data {made['/out/model'].knit_id} type:model" in below[3]
    assert f"(log) Data {made['/log'].knit_id} type:log" in below[4]


@pytest.mark.patient
def test_tree_of_a_long_chain(knit, api):
    """Deeper than Python's recursion limit would allow a naive drawing to be."""
    data, runs = chain(api, 600)
    ended = knit("data", "lineage", data[0].knit_id, "-d", "-n", "all", "--format", "tree")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.decode().count("│ Run ") == len(runs)


def test_a_tree_keeps_the_largest_way_in_the_same_column(knit, api):
    data, runs = chain(api, 2)
    other = api.add_data("side:1")
    run, made = api.add_run({"/a": data[-1], "/b": other}, {"/out": "type:end"}, log=True)
    text = knit("data", "lineage", made["/out"].knit_id, "-u", "--format", "tree").out.decode()
    heads = [line.split(" 2025")[0] for line in text.splitlines()]
    uploads = [one.upstream.run.run_id for one in (other, data[0])]
    assert heads[:10] == [
        f"Data {made['/out'].knit_id} type:end",
        f"│ Run {run.run_id} done image = example/work:v1",
        f"├── also made (log) Data {made['/log'].knit_id} type:log",
        f"├── /b Data {other.knit_id} side:1",
        f"│   └── Run {uploads[0]} done knit#uploaded",
        f"│ /a Data {data[2].knit_id} step:2",
        f"│ Run {runs[1].run_id} done image = example/work:v1",
        f"│ /in Data {data[1].knit_id} step:1",
        f"│ Run {runs[0].run_id} done image = example/work:v1",
        f"└── /in Data {data[0].knit_id} step:0",
    ]


def test_a_tree_says_what_is_farther_away_than_asked_for(knit, api):
    data, _ = chain(api, 9)
    ended = knit("data", "lineage", data[4].knit_id, "--format", "tree")
    assert ended.out.decode().count(" … 1 more Run") == 2
    assert ended.err == "knit: Runs farther away, not shown: 2; --numbers all shows everything\n"
    assert knit("data", "lineage", data[4].knit_id, "--format", "tree", "-n", "all").err == ""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nothing"], 1),
        (["x", "-n", "many"], 1),
        (["x", "-n", "0"], 2),
        (["x", "--format", "svg"], 2),
        ([], 2),
    ],
)
def test_bad_input(knit, arguments, code):
    ended = knit("data", "lineage", *arguments)
    assert (ended.code, ended.out) == (code, b"")
    assert ended.err


def test_what_vanishes_meanwhile_is_left_out(knit, api):
    """A Run that is deleted between two looks at the store is in one part of the answer only."""
    data, _ = chain(api, 3)
    path = f"/data/{data[0].knit_id}/lineage"
    whole = json.loads(api.get(f"{path}?downstream=all").content)
    del whole["runs"][1], whole["data"][2]
    api.interrupt[("GET", path)] = [httpx.Response(200, json=whole)]
    found = graph(knit, data[0].knit_id, "-d", "-n", "all")
    assert len(found["runs"]) == 2
    nodes = ids(found) | {run["runId"] for run in found["runs"]}
    assert all({edge["from"], edge["to"]} <= nodes for edge in found["edges"])


@pytest.mark.patient
def test_every_edge_has_both_ends(knit, api):
    data, _ = chain(api, 4)
    for start, hops in itertools.product(data, ("1", "2", "all")):
        found = graph(knit, start.knit_id, "-n", hops)
        nodes = ids(found) | {run["runId"] for run in found["runs"]}
        assert all(edge["from"] in nodes and edge["to"] in nodes for edge in found["edges"])
