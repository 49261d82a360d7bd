"""`knit plan graph`, and how graphs are written."""

from __future__ import annotations

import html.parser
import json
import re

import httpx
import pytest

from knit_cli.graphs.dot import to_dot
from knit_cli.graphs.json_graph import to_json
from knit_cli.graphs.mermaid import to_mermaid
from knit_cli.graphs.model import Edge, Graph, Node, NodeKind, Row, Span


@pytest.fixture
def plans(knit, api) -> list[str]:
    """Five Plans in a row: 0 → 1 → 2 → 3 → 4, and 2 feeds 4 by its log, too."""
    ids = []
    for number in range(5):
        knit.write(
            "plan.yaml",
            f"image: step:{number}\ninputs: [{{path: /in, tags: ['k:{number}']}}]\n"
            f"outputs: [{{path: /out, tags: ['k:{number + 1}']}}]\n"
            f"log: {'{tags: [k:4]}' if number == 2 else '{}'}\n"
            f"annotations: ['who=a<b&\"c\"']\nactive: {'no' if number == 1 else 'yes'}\n",
        )
        ids.append(knit("plan", "apply", "plan.yaml").json["planId"])
    api.requests.clear()
    return ids


def shown(knit, *arguments: str) -> list[int]:
    """The numbers of the Plans in a graph."""
    found = knit("plan", "graph", "--format", "json", *arguments).json
    return sorted(int(plan["image"].partition(":")[2]) for plan in found["plans"])


@pytest.mark.patient
def test_both_directions_three_plans_far_unless_told_otherwise(knit, plans):
    assert shown(knit, plans[0]) == [0, 1, 2, 3, 4]  # 4 is fed by the log of 2
    assert shown(knit, plans[4]) == [0, 1, 2, 3, 4]
    assert shown(knit, plans[2], "-n", "1") == [1, 2, 3, 4]
    assert shown(knit, plans[2], "-u") == [0, 1, 2]
    assert shown(knit, plans[2], "-d", "-n=1") == [2, 3, 4]
    assert shown(knit, plans[1], "-u", "-d", "--numbers", "all") == [0, 1, 2, 3, 4]
    assert shown(knit, plans[0], "-n", "2") == [0, 1, 2]


def test_a_flag_that_is_given_makes_the_other_false(knit, plans):
    """So `no` alone gives the Plan alone."""
    assert shown(knit, plans[2], "--no-upstream") == [2]
    assert shown(knit, plans[2], "--upstream", "false") == [2]
    assert shown(knit, plans[2], "--no-upstream", "-d", "-n", "1") == [2, 3, 4]


def test_what_lies_beside_the_way_is_not_followed(knit, api, plans):
    """Upstream of a Plan downstream there may be half the catalogue."""
    knit.write(
        "plan.yaml", "image: step:9\ninputs: [{path: /x, tags: [z:z]}]\nlog: {tags: [k:1]}\n"
    )
    knit("plan", "apply", "plan.yaml")
    assert shown(knit, plans[0]) == [0, 1, 2, 3, 4]
    assert shown(knit, plans[1], "-u") == [0, 1, 9]


def test_each_plan_is_asked_for_once(knit, api, plans):
    shown(knit, plans[0], "-n", "all")
    assert sorted(api.asked()) == sorted(f"GET /plans/{one}" for one in plans)


def test_a_loop_in_what_the_api_says_ends(knit, api, plans):
    """No real one says so: it refuses what would close a cycle."""
    last = knit("plan", "show", plans[4]).json
    last["outputs"][0]["downstreams"] = [
        {"plan": {"planId": plans[0]}, "mountpoint": {"path": "/in", "tags": []}}
    ]
    for flags in (["--format", "json"], ["--format", "tree"]):
        api.interrupt[("GET", f"/plans/{plans[4]}")] = [httpx.Response(200, json=last)]
        assert knit("plan", "graph", plans[0], "-n", "all", *flags).code == 0
        assert len(api.requests) == 1 + len(plans)
        del api.requests[1:]


def test_dot_is_what_is_piped(knit, plans):
    """Frames with points around each Plan, nodes before edges, no final newline."""
    dot = knit("plan", "graph", plans[2], "-n", "1").out.decode()
    lines = [line.strip() for line in dot.splitlines()]
    assert lines[:3] == ["digraph G {", "node [shape=record fontsize=10]", "edge [fontsize=10]"]
    assert dot.endswith("}")
    p1, p2, p3, p4 = plans[1:]
    assert dot.count('graph [cluster=true penwidth=0.3 color="#DAA520"]') == 4
    assert f'"p{p2}@/in" [shape=point color="#1c9930"];' in lines
    assert f'"p{p2}@log" [shape=point color="#1c9930"];' in lines
    inner = "weight=10 penwidth=0.3];"
    assert f'"p{p2}@/in" -> "p{p2}" [label="/in" {inner}' in lines
    assert f'"p{p2}" -> "p{p2}@/out" [label="/out" {inner}' in lines
    assert f'"p{p2}" -> "p{p2}@log" [label="(log)" {inner}' in lines
    assert f'"p{p1}@/out" -> "p{p2}@/in";' in lines
    assert f'"p{p2}@log" -> "p{p4}@/in";' in lines
    assert f'"p{p3}@/out" -> "p{p4}@/in";' in lines
    arrows = [number for number, line in enumerate(lines) if " -> " in line]
    assert min(arrows) > max(number for number, line in enumerate(lines) if "label=<" in line)
    (start,) = [line for line in lines if 'BGCOLOR="#EDD9B4"' in line]
    assert start.startswith(f'"p{p2}" [')
    assert '<FONT COLOR="#007700">active</FONT>' in start
    assert "image = step:2" in start
    assert "<B>who</B>=a&lt;b&amp;&quot;c&quot;" in start
    (inactive,) = [line for line in lines if line.startswith(f'"p{p1}" [')]
    assert '<FONT COLOR="gray">inactive</FONT>' in inactive


@pytest.mark.patient
def test_json_has_the_plans_and_what_leads_where(knit, api, plans):
    found = knit("plan", "graph", plans[2], "-d", "-n", "1", "--format", "json").json
    assert found["start"] == plans[2]
    assert found["plans"] == [knit("plan", "show", one).json for one in plans[2:]]
    assert found["edges"] == [
        {"from": plans[2], "to": plans[3], "output": "/out", "input": "/in"},
        {"from": plans[2], "to": plans[4], "output": "(log)", "input": "/in"},
        {"from": plans[3], "to": plans[4], "output": "/out", "input": "/in"},
    ]


def test_a_tree_shows_the_ways(knit, plans):
    tree = knit("plan", "graph", plans[2], "--format", "tree").out.decode()
    up, _, down = tree.partition("feeds\n")
    assert f"/out → /in Plan {plans[1]} inactive image = step:1" in up
    assert plans[3] not in up
    assert re.search(rf"^│ /out → /in Plan {plans[3]} image = step:3$", down, re.MULTILINE)
    assert re.search(rf"^└── /out → /in Plan {plans[4]} ", down, re.MULTILINE)
    assert re.search(rf"^├── \(log\) → /in Plan {plans[4]} ", down, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["-n", "0"], 2),
        (["-n", "-1"], 2),
        (["-n", "x"], 1),
        (["--format", "png"], 2),
    ],
)
def test_bad_input(knit, api, plans, arguments, code):
    ended = knit("plan", "graph", plans[0], *arguments)
    assert (ended.code, ended.out, api.requests) == (code, b"", [])


def test_a_plan_that_is_not_there(knit):
    ended = knit("plan", "graph", "nothing")
    assert (ended.code, ended.out) == (1, b"")


# ------------------------------------------------------------ the writers

HOSTILE = [
    '"]; evil',
    "a\nb",
    "--> x",
    "<script>",
    "`#quot;",
    "end",
    "\\",
    "\x1b[31m",
    "ü ☃",
    "]]>",
]


def graph_of(text: str) -> Graph:
    """Two nodes and an edge that say this everywhere they can."""
    words = Span(text, bold=True, colour="red")
    rows = (Row(((words,),), small=True),)
    first = Node(f"d{text}", NodeKind.DATA, key=text, title=(words,), rows=rows, highlighted=True)
    second = Node(f"r{text}", NodeKind.RUN, key="run", frame=text)
    away = Edge("elsewhere", first.id)
    return Graph(
        text,
        (NodeKind.DATA, NodeKind.RUN),
        (first, second),
        (Edge(first.id, second.id, text), away),
    )


class Elements(html.parser.HTMLParser):
    """Collects the names of elements."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def handle_starttag(self, tag, attrs) -> None:
        self.names.add(tag)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text_in_dot(text):
    dot = to_dot(graph_of(text))
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', '""', dot)
    found = Elements()
    found.feed("".join(re.findall(r"label=<(.*?</TABLE>)>", dot, re.DOTALL)))
    assert found.names <= {"table", "tr", "td", "b", "font", "br"}
    assert re.sub(r"label=<.*?</TABLE>>", "", outside, flags=re.DOTALL).count("->") == 1
    assert "elsewhere" not in dot
    assert all(char.isprintable() or char == "\n" for char in dot)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text_in_mermaid(text):
    """Every statement is one of a few shapes, whatever the words in it."""
    label = r'"[^"<>`]*(?:<br/>[^"<>`]*)*"'
    shapes = [
        r"flowchart LR",
        r"subgraph f\d+\[\" \"\]",
        r"end",
        rf"n\d+(?:\[{label}\]|\({label}\)|\(\({label}\)\)|\{{{label}\}}):::[a-z]+",
        rf"n\d+ -->(?:\|{label}\|)? n\d+",
        r"classDef [a-z]+ stroke:#\w+,stroke-width:2px",
        r"style n\d+ stroke-width:5px",
    ]
    lines = to_mermaid(graph_of(text)).split("\n")
    for line in lines:
        assert any(re.fullmatch(shape, line.strip()) for shape in shapes), line
    assert sum(" --> " in line or " -->|" in line for line in lines) == 1


@pytest.mark.parametrize("text", HOSTILE)
def test_json_says_it_unchanged(text):
    found = json.loads(json.dumps(to_json(graph_of(text))))
    assert found == {
        "start": text,
        "data": [],
        "runs": [],
        "edges": [{"from": text, "to": "run", "label": text}],
    }
