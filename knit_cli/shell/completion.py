"""Completes ids, tags and statuses on the command line, as far as the API knows them.

A completion must never disturb: it answers within a second or with nothing, says nothing, and
remembers for some seconds, since a user presses the key more than once. So the API is asked for
little, and for what begins like the word on the line: Data and Runs in full would take longer.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import typer

from knit_cli.api.client import ApiClient
from knit_cli.config.files import write_private
from knit_cli.graphs.labels import plan_label, user_tags
from knit_cli.invocation import Invocation
from knit_cli.session import api_of
from knit_cli.shell.arguments import BASH_PREFIX

Candidates = list[tuple[str, str]]
"""What may stand on the command line, each with a few words about it."""

STATUSES = (
    "deactivated",
    "waiting",
    "ready",
    "starting",
    "running",
    "completing",
    "aborting",
    "done",
    "failed",
)

_TIMEOUT = 1.0  # seconds; a key was pressed
_CACHE_SECONDS = 10.0  # seconds
_LIMIT = 100  # more, nobody reads in a terminal; who types on gets the rest


def complete_data(context: typer.Context, incomplete: str) -> Candidates:
    """Gives ids of Data, the newest if none is begun, each with its tags."""
    return _completed(context, incomplete, "data", _some_data)


def complete_run(context: typer.Context, incomplete: str) -> Candidates:
    """Gives ids of Runs, those that changed last if none is begun, with status and Plan."""
    return _completed(context, incomplete, "runs", _some_runs)


def complete_plan(context: typer.Context, incomplete: str) -> Candidates:
    """Gives ids of Plans, each with its image."""
    return _completed(context, incomplete, "plans", _plans)


def complete_tag(context: typer.Context, incomplete: str) -> Candidates:
    """Gives tags."""
    return _completed(context, incomplete, "tags", _some_tags)


def complete_tag_key(context: typer.Context, incomplete: str) -> Candidates:
    """Gives keys of tags."""
    return _completed(context, incomplete, "keys", _some_keys)


def complete_status(incomplete: str) -> Candidates:
    """Gives the statuses that Runs can be found by."""
    return [(status, "") for status in STATUSES if status.startswith(incomplete)]


# What an older server is asked, which knows no completions: of so few, whatever begins like this.


def _some_data(api: ApiClient) -> Candidates:
    found = api.find_data(limit=_LIMIT)
    return [(data.knit_id, " ".join(map(str, user_tags(data)))) for data in found]


def _some_tags(api: ApiClient) -> Candidates:
    tags = {str(tag) for data in api.find_data(limit=_LIMIT) for tag in user_tags(data)}
    return [(tag, "") for tag in sorted(tags)]


def _some_keys(api: ApiClient) -> Candidates:
    keys = [(tag.partition(":")[0], "") for tag, _ in _some_tags(api)]
    return list(dict.fromkeys(keys))


def _some_runs(api: ApiClient) -> Candidates:
    found = api.find_runs(limit=_LIMIT)
    return [(run.run_id, f"{run.status} {plan_label(run.plan)}") for run in found]


def _plans(api: ApiClient) -> Candidates:
    return [(plan.plan_id, plan_label(plan)) for plan in api.find_plans()]


def _completed(
    context: typer.Context, incomplete: str, kind: str, fetch: Callable[[ApiClient], Candidates]
) -> Candidates:
    try:
        invocation = _invocation_of(context)
        prefix = invocation.surroundings.variables.get(BASH_PREFIX, "")
        found = _remembered(invocation, kind, prefix + incomplete, fetch)
    except Exception:  # noqa: BLE001  the border to the shell: nothing may show on the user's line
        return []
    wanted = [(value, words) for value, words in found if value.startswith(prefix + incomplete)]
    return [(value.removeprefix(prefix), words) for value, words in wanted]


def _invocation_of(context: typer.Context) -> Invocation:
    """Gives the call so far; while completing, nobody has taken over its common flags."""
    root = context.find_root()
    if not isinstance(root.obj, Invocation):
        raise LookupError("no invocation")
    given = root.params.get
    return replace(root.obj, profile=given("profile"), profile_store=given("profile_store"))


def _remembered(
    invocation: Invocation, kind: str, begun: str, fetch: Callable[[ApiClient], Candidates]
) -> Candidates:
    """Gives what begins like this, and perhaps more."""
    memory = _memory(invocation, kind)
    try:
        if time.time() - memory.stat().st_mtime < _CACHE_SECONDS:
            before, is_all, found = json.loads(memory.read_bytes())
            if before == begun or (is_all and begun.startswith(before)):
                return [(value, words) for value, words in found]
    except (OSError, ValueError, TypeError):
        pass  # nothing remembered, or cut short: ask
    # Nothing is remembered too: an API that is away shall not cost a second each time.
    found = _in_time(lambda: _asked(invocation, kind, begun, fetch))
    write_private(memory, json.dumps((begun, len(found) < _LIMIT, found)))
    return found


def _memory(invocation: Invocation, kind: str) -> Path:
    # Whatever the profile is called, and wherever it is kept, it makes a file name.
    whose = f"{invocation.store_path}\0{invocation.profile_name}\0{kind}"
    name = hashlib.sha256(os.fsencode(whose)).hexdigest()[:16]
    variables: Mapping[str, str] = invocation.surroundings.variables
    home = invocation.surroundings.home or invocation.surroundings.cwd
    caches = Path(variables.get("XDG_CACHE_HOME") or home / ".cache")
    return caches / "knit" / f"complete-{name}.json"


def _asked(
    invocation: Invocation, kind: str, begun: str, fetch: Callable[[ApiClient], Candidates]
) -> Candidates:
    with api_of(invocation, notify=lambda _text: None) as api:
        found = api.completions(kind, begun, limit=_LIMIT)
        if found is None:
            return fetch(api)
        return [(one.value, one.words) for one in found]


def _in_time(ask: Callable[[], Candidates]) -> Candidates:
    """Gives the answer, or nothing; a thread that is left behind ends with the process."""
    answers: list[Candidates] = []

    def answer() -> None:
        with suppress(Exception):  # no profile, no API, no sense: all the same here
            answers.append(ask())

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    return answers[0] if answers else []
