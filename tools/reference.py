"""Writes `docs/reference/` from the code: `python tools/reference.py [--check]`.

The tables of values in the READMEs of `charts/`, and the rights that the chart of knit grants, are
written too: see `reference_charts`.

Pages are pure functions of the code, so that the same code always gives the same text:
the command line from its Typer app, the settings from `Settings`, the Plan file from the schema
that the API publishes, the endpoints from the API's OpenAPI document, the statuses from the domain.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined
from reference_charts import readmes, rights
from reference_metrics import INTRODUCTION, OTHERS, alert_rows, metric_rows
from reference_words import (
    COMMAND_LINE,
    ENDPOINTS,
    EXITS,
    HOOKS_FILE,
    OTHER_VARIABLES,
    PLAN_FILE,
    PLAN_KEYS,
    SETTINGS,
    SETTINGS_WORDS,
    STATUSES,
)
from typer.core import TyperArgument, TyperGroup, TyperOption
from typer.main import get_command

from knit_api.__main__ import deps_from
from knit_api.app import create_app
from knit_cli.main import KnitGroup, app
from knit_cli.plans.schema import plan_schema_text
from knit_cli.shell.lazy import LazyGroup, load
from knit_workflows.domain.plans.options import PodOptions
from knit_workflows.domain.plans.rules import DEFAULT_RESOURCES, MAX_MOUNTPOINTS
from knit_workflows.domain.plans.size import INPUT_BYTES, OUTPUT_BYTES
from knit_workflows.domain.runs import run as runs
from knit_workflows.domain.tags import MAX_KEY_CHARS, MAX_VALUE_CHARS
from knit_workflows.hooks.file import KEYS as HOOKS_KEYS
from knit_workflows.hooks.urls import MAX_URL_CHARS
from knit_workflows.settings import HookSettings, Settings
from knit_workflows.wire.plans import PlanSpec

Json: TypeAlias = dict[str, Any]
Row: TypeAlias = tuple[str, ...]

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "docs" / "reference"
NOTE: Final = (
    "<!-- Written by tools/reference.py from the code; run `make docs` after a change. -->"
)


class WordsMissing(LookupError):
    """The code has something that no sentence describes, or a sentence has lost its subject."""


# --- the command line ---


def cli_page() -> str:
    """Gives every command with its arguments and options, as `--help` knows them."""
    parts = [NOTE, "# Command line", COMMAND_LINE, "## Common flags", _options(get_command(app))]
    parts.append("They may stand anywhere on the line.")
    for words, command in _commands():
        parts += [f"## `{' '.join(words)}`", *_command(words, command)]
    return _page(parts)


def command_names() -> list[tuple[str, ...]]:
    """Gives the words of every command: ("knit", "data", "push") and so on."""
    return [words for words, _ in _commands()]


def _commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    # Typer carries its own click, whose types are not public: hence Any.
    for name, entry in KnitGroup.entries.items():
        yield from _commands_of(("knit", name), load(name, entry))


def _commands_of(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(command, TyperGroup):
        yield words, command
        return
    entries = command.entries if isinstance(command, LazyGroup) else {}
    for name, one in command.commands.items():
        loaded = load(name, entries[name]) if name in entries else one
        yield from _commands_of((*words, name), loaded)


def _command(words: tuple[str, ...], command: Any) -> list[str]:
    pieces = [_plain(piece) for piece in command.collect_usage_pieces(_context(command))]
    usage = f"```sh\n{' '.join([*words, *pieces])}\n```"
    text = inspect.cleandoc(command.help or "")
    return [text, usage, _arguments(command), _options(command)]


def _plain(piece: str) -> str:
    return piece.replace("{", "").replace("}", "")


def _arguments(command: Any) -> str:
    rows = []
    for parameter in command.params:
        if isinstance(parameter, TyperArgument) and parameter.help:
            name, _ = parameter.get_help_record(_context(command)) or ("", "")
            rows.append((f"`{name.partition(' <')[0]}`", parameter.help))
    return _table(("argument", ""), rows) if rows else ""


def _options(command: Any) -> str:
    rows = []
    for parameter in command.params:
        record = isinstance(parameter, TyperOption) and parameter.get_help_record(_context(command))
        if record:
            words, _, default = record[1].partition("  [default: ")
            shown = f"`{default.removesuffix(']')}`" if default else ""
            rows.append((f"`{record[0]}`", words, shown))
    return _table(("option", "", "default"), rows) if rows else ""


def _context(command: Any) -> Any:
    return command.context_class(command)


# --- settings ---


def settings_page() -> str:
    """Gives every environment variable that the processes read, by section."""
    sections = [_section("Logging", "KNIT_", Settings, nested=False)]
    sections += _sections("KNIT_", Settings)
    others = _table(("variable", "read by", ""), OTHER_VARIABLES)
    return _page(
        [NOTE, "# Settings", SETTINGS, *sections, "## Variables of the tools around knit", others]
    )


def setting_names() -> set[str]:
    """Gives the names of all environment variables that make up `Settings`."""
    return {name for name, _, _ in _leaves("KNIT_", Settings)}


def other_variables() -> set[str]:
    """Gives the names of the variables that are described but are no settings."""
    return {name for cell, _, _ in OTHER_VARIABLES for name in re.findall(r"KNIT_[A-Z_]+", cell)}


def _sections(prefix: str, model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            below = f"{prefix}{name.upper()}__"
            yield _section(f"`{below}…`", below, kind, nested=False)
            yield from _sections(below, kind)


def _section(title: str, prefix: str, model: type[BaseModel], *, nested: bool) -> str:
    told = [] if model is Settings else [inspect.cleandoc(model.__doc__ or "")]
    rows = [
        (f"`{name}`", _default(default), words)
        for name, default, words in _leaves(prefix, model, nested=nested)
    ]
    table = [_table(("variable", "default", ""), rows)] if rows else []
    return "\n\n".join([f"## {title}", *told, *table])


def _leaves(
    prefix: str, model: type[BaseModel], *, nested: bool = True
) -> Iterator[tuple[str, object, str]]:
    """Gives (variable, default, description) of a settings class, and of those inside it."""
    words = _attribute_docs(model)
    for name, field in model.model_fields.items():
        kind, variable = field.annotation, f"{prefix}{name.upper()}"
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if nested:
                yield from _leaves(f"{variable}__", kind)
            continue
        told = words.get(name) or SETTINGS_WORDS.get(variable)
        if told is None:
            raise WordsMissing(f"{variable}: give it a docstring, in knit_workflows/settings")
        if get_origin(kind) is Literal and name != "log_format":
            told = f"{' or '.join(f'`{choice}`' for choice in get_args(kind))}. {told}"
        yield variable, field.default, told.replace("None: ", "Not set: ")


def _attribute_docs(model: type) -> dict[str, str]:
    """Gives the strings that stand below the attributes of a class."""
    [body] = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for above, below in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(above, ast.AnnAssign)
            and isinstance(above.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            docs[above.target.id] = " ".join(below.value.value.split())
    return docs


def _default(value: object) -> str:
    """Gives a default as it is written in the environment; –: there is nothing to write."""
    match value:
        case SecretStr():
            return f"`{value.get_secret_value()}`"
        case timedelta():
            return f"`{_duration(value)}`"
        case None | () | "" | PodOptions():
            return "–"
        case bool():
            return f"`{str(value).lower()}`"
        case tuple() | dict():
            return f"`{json.dumps(value, default=str)}`"
    return "–" if value is PydanticUndefined else f"`{value}`"


def _duration(span: timedelta) -> str:
    minutes, seconds = divmod(span.total_seconds(), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [
        f"{amount:g}{unit}"
        for amount, unit in ((hours, "H"), (minutes, "M"), (seconds, "S"))
        if amount
    ]
    return f"PT{''.join(parts) or '0S'}"


# --- the Plan file ---


def plan_page() -> str:
    """Gives the keys of a Plan file, from the schema of what the API takes."""
    schema = PlanSpec.model_json_schema(mode="validation")
    facts = {
        "cpu": DEFAULT_RESOURCES["cpu"],
        "memory": DEFAULT_RESOURCES["memory"],
        "mountpoints": f"{MAX_MOUNTPOINTS:,}",
        "input": f"{INPUT_BYTES} bytes",
        "output": f"{OUTPUT_BYTES} bytes",
        "tag_key": f"{MAX_KEY_CHARS:,}",
        "tag_value": f"{MAX_VALUE_CHARS:,}",
    }
    rows, found = [], set()
    for key, part, required in _keys("", schema, schema.get("$defs", {})):
        found.add(key)
        if key not in PLAN_KEYS:
            raise WordsMissing(f"the Plan's key {key} is not described in reference_words.py")
        form, default = PLAN_KEYS[key]
        needed = "required" if required else default
        rows.append((f"`{key}`", form or _form(part), needed.format(**facts), part["description"]))
    if lost := set(PLAN_KEYS) - found:
        raise WordsMissing(f"a Plan has no such keys: {sorted(lost)}")
    table = _table(("key", "form", "default", ""), rows)
    return _page([NOTE, PLAN_FILE.format(table=table, **facts)])


def _keys(prefix: str, schema: Json, definitions: Json) -> Iterator[tuple[str, Json, bool]]:
    for name, part in schema["properties"].items():
        key = f"{prefix}{name}"
        yield key, part, name in schema.get("required", ())
        for inner, mark in _inner(part):
            model = inner.get("$ref", "").rpartition("/")[2]
            if "properties" in definitions.get(model, {}):
                yield from _keys(f"{key}{mark}.", definitions[model], definitions)


def _inner(part: Json) -> Iterator[tuple[Json, str]]:
    for form in part.get("anyOf", [part]):
        yield (form["items"], "[]") if form.get("type") == "array" else (form, "")


def _form(part: Json) -> str:
    names = {"string": "text", "array": "list of text", "boolean": "true or false"}
    found = [form.get("type", "") for form in part.get("anyOf", [part])]
    return " or ".join(names.get(kind, kind) for kind in found if kind != "null")


def plan_schema_page() -> str:
    """Gives the JSON Schema of a Plan file, as `knit plan schema` prints it."""
    return plan_schema_text() + "\n"


# --- the hooks file ---


def hooks_page() -> str:
    """Gives the keys of a hooks file, and the settings of the worker that reads it."""
    rows = [(f"`{key}`", words) for key, words in HOOKS_KEYS.items() if words]
    settings = [
        (f"`{name}`", _default(default), words)
        for name, default, words in _leaves("KNIT_HOOKS__", HookSettings)
    ]
    return _page(
        [
            NOTE,
            HOOKS_FILE.format(
                table=_table(("key", ""), rows),
                settings=_table(("variable", "default", ""), settings),
                url=f"{MAX_URL_CHARS:,}",
            ),
        ]
    )


# --- the API ---


def api_page() -> str:
    """Gives every endpoint with its parameters, bodies and answers."""
    document = create_app(deps_from(Settings())).openapi()
    parts = [NOTE, "# Web API", ENDPOINTS]
    rows, details = [], []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            title = f"{method.upper()} {path}"
            first, _, rest = operation["description"].partition("\n\n")
            rows.append((f"[`{title}`](#{_anchor(title)})", first.replace("\n", " ")))
            details.append(_operation(title, operation, first, rest))
    parts += [_table(("endpoint", ""), rows), *details]
    return _page(parts)


def _operation(title: str, operation: Json, first: str, rest: str) -> str:
    paragraphs = (part.replace("\n", " ") for part in (first, *rest.split("\n\n")))
    parts = [f"## `{title}`", *paragraphs]
    refusals: tuple[str, ...] = ()
    if role := operation.get("x-role"):
        parts.append(f"Needs the role {role}.")
        refusals = ("401", "403", "429")  # of all that need a role: said once, above
    for place in ("query", "header"):
        rows = [
            (f"`{one['name']}`", _repeats(one) + one.get("description", ""))
            for one in operation.get("parameters", [])
            if one["in"] == place
        ]
        if rows:
            parts.append(_table((place, ""), rows))
    if body := operation.get("requestBody", {}).get("content"):
        parts.append(f"Takes {_contents(body)}.")
    answers = [
        (f"{status}", answer.get("description", ""), _contents(answer.get("content", {})))
        for status, answer in sorted(operation["responses"].items())
        if status not in refusals
    ]
    parts.append(_table(("answer", "", "body"), answers))
    return "\n\n".join(part for part in parts if part)


def _repeats(parameter: Json) -> str:
    return "may be repeated; " if parameter["schema"].get("type") == "array" else ""


def _contents(content: Mapping[str, Json]) -> str:
    return ", ".join(
        f"`{media}`{_model(part.get('schema', {}))}" for media, part in content.items()
    )


def _model(schema: Json) -> str:
    many = schema.get("type") == "array"
    name = schema.get("items", schema).get("$ref", "").rpartition("/")[2]
    return f" {'list of ' if many else ''}{name}" if name else ""


def _anchor(title: str) -> str:
    kept = (char for char in title.lower() if char.isalnum() or char in " -_")
    return "".join(kept).replace(" ", "-")


# --- statuses ---


def statuses_page() -> str:
    """Gives the statuses of a Run, the legal moves, and the exit codes of knit's own."""
    if STATUSES.keys() != {status.value for status in runs.RunStatus}:
        raise WordsMissing("reference_words.STATUSES and RunStatus differ")
    rows = [(f"`{status}`", STATUSES[status], _moves(status)) for status in runs.RunStatus]
    own = (runs.STOPPED_BY_USER, runs.ABORTED_BY_USER, runs.LOST)
    exits = EXITS.format(*(f"`{one.message}`" for one in own))
    table = _table(("status", "meaning", "may become"), rows)
    return _page([NOTE, "# Statuses of a Run", table, exits])


def _moves(status: runs.RunStatus) -> str:
    return ", ".join(move for move in runs.RunStatus if move in runs.MOVES[status]) or "–"


# --- metrics ---


def metrics_page() -> str:
    """Gives the metrics of API and workers, and the alerts of the chart."""
    metrics = _table(("metric", "type", "labels", "of", ""), list(metric_rows()))
    alerts = _table(("alert", "severity", "for", ""), list(alert_rows()))
    return _page([NOTE, "# Metrics", INTRODUCTION, metrics, OTHERS, "## Alerts", alerts])


# --- pages ---

PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "cli.md": cli_page,
    "settings.md": settings_page,
    "plan-file.md": plan_page,
    "plan.schema.json": plan_schema_page,
    "hooks.md": hooks_page,
    "api.md": api_page,
    "statuses.md": statuses_page,
    "metrics.md": metrics_page,
}


def _table(headings: Row, rows: list[Any] | tuple[Any, ...]) -> str:
    cells = [headings, tuple("---" for _ in headings), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in cells)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _page(parts: list[str]) -> str:
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def main() -> None:
    """Writes the pages, or with `--check` only say which would change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if stale")
    check = parser.parse_args().check
    stale = []
    pages = {FOLDER / name: make() for name, make in PAGES.items()}
    for place, text in (pages | readmes() | rights()).items():
        if not place.exists() or place.read_text(encoding="utf-8") != text:
            stale.append(str(place.relative_to(ROOT)))
            if not check:
                place.write_text(text, encoding="utf-8")
    print(f"{'stale' if check else 'written'}: {', '.join(stale) or 'nothing'}")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
