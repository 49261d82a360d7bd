"""The OpenAPI document as one page for people: no script, and nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any, Final

from knit_api.openapi.document import PATH, operations

MEDIA_TYPE: Final = "text/html; charset=utf-8"
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}

_STYLE: Final = """\
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font:14px/1.4 ui-monospace,monospace}pre{background:#8881;padding:.6rem;overflow:auto}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top}
td,th{padding:.2rem .8rem .2rem 0;border-bottom:1px solid #8884}
summary{cursor:pointer;padding:.3rem 0}h2{margin-top:2rem}
:root{color-scheme:light dark}
"""

Json = Mapping[str, Any]


def render(document: Json) -> str:
    """Gives the page; operations are in the document's order, folded until they are opened."""
    info = document["info"]
    title = f"{info['title']} {info['version']}"
    parts = [
        f"<h1>{escape(title)}</h1><p>{escape(info['description'])}</p>",
        f'<p>The same for programs: <a href="{PATH}">{PATH}</a> (OpenAPI 3.1)</p>',
    ]
    for tag in document["tags"]:
        parts.append(f"<h2>{escape(tag['name'])}</h2><p>{escape(tag['description'])}</p>")
        parts += _operations(document, tag["name"])
    parts.append("<h2>shapes</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts.append(_folded(f"<code>{escape(name)}</code>", _pre(schema), anchor=name))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )


def _operations(document: Any, tag: str) -> Iterator[str]:
    for path, method, operation in operations(document):
        if tag in operation["tags"]:
            first = operation["description"].partition("\n")[0]
            title = f"<code><b>{method}</b> {escape(path)}</code> {escape(first)}"
            yield _folded(title, "".join(_details(operation)), anchor=operation["operationId"])


def _details(operation: Json) -> Iterator[str]:
    yield f"<p>{escape(operation['description'])}</p>"
    if parameters := operation.get("parameters"):
        yield _table(
            ("parameter", "in", ""),
            ((one["name"], one["in"], one["description"]) for one in parameters),
        )
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Takes <code>{escape(media)}</code>{_shape(content)}</p>"
    for sample in operation["x-codeSamples"]:
        yield _pre(sample["source"])
    yield "<table><tr><th>status</th><th></th><th>body</th></tr>"
    for status, response in operation["responses"].items():
        yield f"<tr><td>{status}</td><td>{escape(response['description'])}</td>"
        yield f"<td>{'<br>'.join(_bodies(response))}</td></tr>"
    yield "</table>"
    content = operation["responses"].get("200", {}).get("content", {})
    if "example" in (shown := content.get("application/json", {})):
        yield _pre(shown["example"])


def _bodies(response: Json) -> Iterator[str]:
    for media, content in response.get("content", {}).items():
        yield f"<code>{escape(media)}</code>{_shape(content)}"


def _shape(content: Json) -> str:
    """Links the shapes that a body may have."""
    schema = content.get("schema", {})
    forms = schema.get("anyOf", [schema.get("items", schema)])
    names = [form["$ref"].rpartition("/")[2] for form in forms if "$ref" in form]
    links = " or ".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in names)
    many = "list of " if schema.get("type") == "array" else ""
    return f" {many}{links}" if links else ""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _folded(title: str, content: str, *, anchor: str) -> str:
    return f'<details id="{escape(anchor)}"><summary>{title}</summary>{content}</details>'


def _pre(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return f"<pre>{escape(text)}</pre>"
