"""Every command in docs/operations is one that there is, and prints what the pages say."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from typer.main import get_command

from knit_cli.main import app
from knit_cli.views.status import describe
from knit_workflows import names
from knit_workflows.domain.runs.run import ABORTED_BY_USER, LOST
from knit_workflows.settings.engine import EngineSettings
from knit_workflows.store.migrations import REVISION
from knit_workflows.wire.situation import InstallationStatus
from tests.docs.blocks import blocks
from tests.docs.command_words import commands_of

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted((ROOT / "docs" / "operations").glob("*.md"))
MIGRATION: Final = ROOT / "docs" / "how-to" / "migrate-from-knitfab.md"
TEXT: Final = "\n".join(" ".join(page.read_text("utf-8").split()) for page in PAGES)

FLAGS: Final[Mapping[str, str]] = {
    "get": "-l -o --field-selector --show-labels --raw",
    "describe": "-l",
    "logs": "-l --since --tail",
    "exec": "--container",
    "delete": "-l --ignore-not-found",
    "scale": "--replicas",
    "patch": "-p",
    "rollout restart": "",
    "rollout status": "",
    "top": "",
    "create serviceaccount": "",
    "label": "",
    "taint": "",
    "drain": "--ignore-daemonsets --delete-emptydir-data",
    "cordon": "",
    "uncordon": "",
    "port-forward": "",
}
"""The verbs of kubectl in these pages, and of each the flags in use, as its `--help` has them."""

_NAMED: Final = r"^  name: \{\{ \.Values\.component \}\}(.*)$"
"""How a template names what it makes."""
_OPTIONAL: Final = r"^kind: Deployment\nmetadata:\n  name: (knit-[a-z-]+)$"
"""How a template of knit-app names what it makes only if a value says so."""

SAID: Final = (
    ("an administrator has frozen this knit", "knit_cli/admin/freezing/scaling.py"),
    ("waits for what is under way.", "knit_cli/admin/freezing/freeze.py"),
    ("knit-backup-volumes", "knit_cli/admin/backup/on_cluster.py"),
    ("another backup is at work on", "knit_workflows/backup/destinations/s3.py"),
    ("is not empty", "knit_workflows/backup/restoring.py"),
    ("there is no set in", "knit_workflows/backup/restoring.py"),
    ("no worker is up that opens transfers", "knit_workflows/client.py"),
    ("the system is busy: the transfer was not opened within", "knit_workflows/client.py"),
    ("there is no room left in the Data's volume", "knit_api/transfers/remote_volume.py"),
    ("the content has arrived, but Temporal does not answer", "knit_api/transfers/lifecycle.py"),
    ("the checksum does not match: the body was changed", "knit_api/transfers/codecs.py"),
    ("cannot be trusted", "knit_cli/api/responses.py"),
    ("the database does not answer", "knit_api/watchdog.py"),
    ("waits for room, for as long as it takes", "knit_workflows/store/runs/queue.py"),
    ("Outputs and logs must start empty.", "knit_workflows/pod/program/check.go"),
    ("this knit is older than its database: start the", "knit_workflows/store/postgres.py"),
    ("the database does not know its Run", "knit_workflows/inspection/engine_checks.py"),
    ("the database knows no Run of this pod", "knit_workflows/inspection/volume_checks.py"),
    ("no Data has this volume", "knit_workflows/inspection/volume_checks.py"),
    (
        "some of it is mended if you repeat the command with --repair",
        "knit_cli/commands/admin/recovery/verify.py",
    ),
    ("repeat knit admin install", "knit_cli/admin/doctor/cluster_checks.py"),
    ("engine_recovered", "knit_workflows"),
)
"""What the pages quote, and where the program says it."""

STATUS: Final = InstallationStatus.model_validate(
    {
        "at": "2026-11-29T12:00:00+00:00",
        "problems": [],
        "runs": [
            {"status": "waiting", "runs": 3, "since": "2026-11-29T11:59:20Z", "runId": "RUN_ID"},
            {"status": "running", "runs": 12, "since": "2026-11-29T10:00:00Z", "runId": "RUN_ID"},
        ],
        "held_up": [],
        "ended": {
            "hours": 24,
            "done": 212,
            "failed": 1,
            "failures": [
                {
                    "runId": "RUN_ID",
                    "at": "2026-11-29T09:00:00Z",
                    "plan": "demo:2",
                    "exit": {"code": 137, "message": "(container main) OOMKilled"},
                }
            ],
        },
        "backlog": {"events": 0, "oldest_event_seconds": 0, "transfers": 0, "discarded": 0},
        "limits": {"total": 20},
        "workers": [
            {"role": role, "queue": f"knit-{role}", "workers": 1, "waiting": 0}
            for role in ("engine", "compute", "watch", "interactive", "hooks")
        ],
        "versions": {"knit": "0.1.0", "database": REVISION, "temporal": "1.29.1"},
        "disk": {"database": 48 << 20},
    }
)


def commands_in_pages(*programs: str, pages: Iterable[Path] = PAGES) -> list[Any]:
    """The commands of all pages, once each, for a test each."""
    every = {tuple(words): page for page in pages for words in commands_of(page, *programs)}
    return [pytest.param(words, id=f"{at.stem}: {' '.join(words)}") for words, at in every.items()]


@pytest.mark.parametrize("words", commands_in_pages("knit", pages=[*PAGES, MIGRATION]))
def test_each_command_of_knit_is_accepted_by_the_command_line(words: tuple[str, ...]) -> None:
    """Parsed, with all its flags and arguments, but not executed."""
    command: Any = get_command(app)
    context, left, name = None, list(words[1:]), words[0]
    while hasattr(command, "commands") and left:
        context = command.make_context(name, list(left), parent=context)
        name, command, left = command.resolve_command(context, left)
        assert command is not None, words
    if left:  # a sentence may name a group, or a command without its arguments
        command.make_context(name, list(left), parent=context)


@pytest.mark.parametrize("words", commands_in_pages("kubectl"))
def test_each_command_of_kubectl_is_one_and_names_what_the_charts_make(
    words: tuple[str, ...],
) -> None:
    given = list(words[1 : words.index("--")] if "--" in words else words[1:])
    flags, plain = split(given)
    if not plain and not flags:  # "with kubectl"
        return
    verb = next((one for one in (" ".join(plain[:2]), *plain[:1]) if one in FLAGS), None)
    if plain:
        assert verb is not None, f"is {plain[0]} a verb of kubectl? add it to FLAGS"
    allowed = {"-n", *FLAGS[verb or "get"].split()}
    assert {flag for flag, _ in flags} <= allowed
    for flag, value in flags:
        if flag == "-l":
            assert key_and_value(value) <= labels(), value
        if flag == "--container":
            assert value in containers()
    assert set(deployments_in(plain)) <= deployments()


def test_each_module_that_is_started_exists() -> None:
    started = set(re.findall(r"python3? -m ([\w.]+)", TEXT))
    assert started
    assert [one for one in started if importlib.util.find_spec(one) is None] == []


def test_the_status_in_the_page_is_what_is_printed() -> None:
    [page] = [page for page in PAGES if page.name == "routine.md"]
    [shown, *_] = blocks(page, "console")
    printed = [line.rstrip() for line in shown.splitlines()[1:]]
    assert printed == [line.rstrip() for line in describe(STATUS)]


@pytest.mark.parametrize(("words", "place"), SAID)
def test_what_is_quoted_is_what_the_program_says(words: str, place: str) -> None:
    assert words in TEXT
    path = ROOT / place
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert any(words in joined(file.read_text("utf-8")) for file in files)


def test_the_outcomes_that_are_quoted_are_those_of_runs() -> None:
    for exit in (LOST, ABORTED_BY_USER):
        assert f"### {exit.code}" in (ROOT / "docs/operations/runbooks.md").read_text("utf-8")
        assert exit.message in TEXT


def test_every_alert_has_a_first_step() -> None:
    rules = yaml.safe_load((ROOT / "charts/knit-app/files/alerts.yaml").read_text("utf-8"))
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    assert alerts
    assert {alert for alert in alerts if f"| `{alert}` |" not in TEXT} == set()


def test_the_times_that_are_told_are_the_defaults() -> None:
    """A default that changes is changed in these pages too."""
    engine = EngineSettings()
    assert engine.poll_interval == timedelta(seconds=15)
    assert engine.heartbeat == timedelta(seconds=20)
    assert engine.projector_heartbeat == timedelta(seconds=5)
    assert engine.open_deadline == timedelta(seconds=60)
    assert engine.gc_interval == timedelta(seconds=60)
    assert engine.gc_grace_period == timedelta(minutes=5)
    assert engine.disruption_limit == 3


def joined(source: str) -> str:
    """Source code with the parts of each long string put together."""
    return re.sub(r'"\s*\n\s*f?"', "", source)


def split(given: Iterable[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Gives flags with their values, and the other words."""
    switches = {"--ignore-not-found", "--ignore-daemonsets", "--delete-emptydir-data"}
    switches |= {"--show-labels"}
    flags: list[tuple[str, str]] = []
    plain: list[str] = []
    left = list(given)
    while left:
        word = left.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("-"):
            plain.append(word)
        elif equals or flag in switches:
            flags.append((flag, value))
        else:
            flags.append((flag, left.pop(0)))
    return flags, plain


def deployments_in(plain: list[str]) -> list[str]:
    """Gives the Deployments that a command names."""
    kinds = ("deployment", "deploy", "deployments")
    after = [plain[at + 1 :] for at, word in enumerate(plain) if word in kinds][:1]
    slashed = [word.partition("/")[2] for word in plain if word.partition("/")[0] in kinds]
    return [*(word for rest in after for word in rest), *filter(None, slashed)]


@functools.cache
def objects() -> list[dict[str, Any]]:
    snapshot = ROOT / "tests" / "charts" / "snapshots" / "knit-app.yaml"
    return [one for one in yaml.safe_load_all(snapshot.read_text("utf-8")) if one]


@functools.cache
def deployments() -> set[str]:
    """Those of knit-app, optional ones too; of other charts names follow from `component`."""
    made = {one["metadata"]["name"] for one in objects() if one["kind"] == "Deployment"}
    for path in (ROOT / "charts" / "knit-app" / "templates").rglob("*.yaml"):
        made |= set(re.findall(_OPTIONAL, path.read_text("utf-8"), re.MULTILINE))
    for chart in (ROOT / "charts").iterdir():
        template = chart / "templates" / "deployment.yaml"
        if template.is_file():
            values = yaml.safe_load((chart / "values.yaml").read_text("utf-8"))
            found = re.search(_NAMED, template.read_text("utf-8"), re.MULTILINE)
            assert found, template
            made.add(f"{values['component']}{found[1]}")
    return made


@functools.cache
def containers() -> set[str]:
    made = [one for one in objects() if one["kind"] == "Deployment"]
    return {box["name"] for one in made for box in one["spec"]["template"]["spec"]["containers"]}


@functools.cache
def labels() -> set[tuple[str, str]]:
    """Key and value of each label of what the charts make, and of Runs and their Data."""
    of_runs = (
        *((names.LABEL_RUN, "RUN_ID"), (names.LABEL_PLAN, "PLAN_ID")),
        *((names.LABEL_KNIT_ID, "KNIT_ID"), (names.LABEL_AGENT_KNIT_ID, "KNIT_ID")),
    )
    made = {pair for one in objects() for pair in (one["metadata"].get("labels") or {}).items()}
    made.add(("knit/backup", ""))  # which `knit admin backup` and `restore` give their pods
    return made | set(of_runs) | {(key, "") for key, _ in of_runs}


def key_and_value(selector: str) -> set[tuple[str, str]]:
    key, _, value = selector.partition("=")
    return {(key, value)}
