"""Draws a lineage in Graphviz's dot language."""

from html import escape

from knit_api.schemas.data import Data
from knit_api.schemas.runs import Run
from knit_api.schemas.times import format_time
from knit_cli.lineage import Edge, Lineage
from knit_cli.wording import plan_words, state_words, user_tags

_DATA_COLOUR = "#1c9930"
_RUN_COLOUR = "#FFA500"
_START_COLOUR = "#d4ecc6"
_STATUS_COLOURS = {
    "deactivated": "gray",
    "completing": "#007700",
    "done": "#007700",
    "aborting": "red",
    "failed": "red",
}


def to_dot(lineage: Lineage) -> str:
    """Gives a digraph: nodes first, then edges; the start is highlighted."""
    lines = ["digraph G {", "    node [shape=record fontsize=10]", "    edge [fontsize=10]", ""]
    lines += [_data_node(one, one.knit_id == lineage.start) for one in lineage.data.values()]
    lines += [_run_node(run) for run in lineage.runs.values()]
    roots = [run for run in lineage.runs.values() if not run.inputs]
    lines += [f'    "root#{number}" [shape=Mdiamond];' for number in range(len(roots))]
    lines.append("")
    lines += [f'    "root#{number}" -> "r{run.run_id}";' for number, run in enumerate(roots)]
    lines += [_edge(edge) for edge in lineage.edges]
    return "\n".join([*lines, "}"])


def _data_node(data: Data, is_start: bool) -> str:
    background = f' BGCOLOR="{_START_COLOUR}"' if is_start else ""
    rows = [
        f'<TR><TD BGCOLOR="{_DATA_COLOUR}"><FONT COLOR="white"><B>Data</B></FONT></TD>'
        f"<TD{background}>knit#id: {escape(data.knit_id)}</TD></TR>"
    ]
    if state := state_words(data):
        rows.append(_wide(f'<FONT POINT-SIZE="8">{escape(" | ".join(state))}</FONT>'))
    tags = [f"<B>{escape(tag.key)}</B>:{escape(tag.value)}" for tag in user_tags(data)]
    if tags:
        rows.append(_wide("<BR/>".join(tags)))
    return _node(f"d{data.knit_id}", _DATA_COLOUR, rows)


def _run_node(run: Run) -> str:
    colour = _STATUS_COLOURS.get(run.status)
    status = escape(run.status)
    shown = f'<FONT COLOR="{colour}">{status}</FONT>' if colour else status
    updated = escape(format_time(run.updated_at.astimezone()))
    rows = [
        f'<TR><TD BGCOLOR="{_RUN_COLOUR}"><FONT COLOR="white"><B>Run</B></FONT></TD>'
        f"<TD><B>{shown}</B> {escape(run.run_id)}</TD></TR>",
        _wide(f'<FONT POINT-SIZE="8">last updated: {updated}</FONT>'),
        _wide(escape(plan_words(run.plan))),
    ]
    return _node(f"r{run.run_id}", _RUN_COLOUR, rows)


def _node(name: str, colour: str, rows: list[str]) -> str:
    table = (
        f'<TABLE BORDER="0" CELLBORDER="1" CELLSPACING="0" COLOR="{colour}">{"".join(rows)}</TABLE>'
    )
    return f'    "{_quoted(name)}" [shape=none color="{colour}" label=<{table}>];'


def _wide(content: str) -> str:
    return f'<TR><TD COLSPAN="2" ALIGN="LEFT">{content}</TD></TR>'


def _edge(edge: Edge) -> str:
    data, run = f'"{_quoted("d" + edge.knit_id)}"', f'"{_quoted("r" + edge.run_id)}"'
    source, target = (data, run) if edge.into_run else (run, data)
    return f'    {source} -> {target} [label="{_quoted(edge.label)}"];'


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
