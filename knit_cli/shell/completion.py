"""Completes ids, tags, hooks and statuses on the command line by asking the API.

Completion must never get in the way: it answers within a second or offers nothing, prints no
errors, and caches each response for a few seconds, because users press Tab repeatedly.
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

from knit_cli.config.files import write_private
from knit_cli.invocation import Invocation
from knit_cli.session import api_of
from knit_cli.shell.arguments import BASH_PREFIX
from knit_workflows.domain.hooks import HookPhase
from knit_workflows.domain.runs.run import RunStatus

Candidates = list[tuple[str, str]]
"""Values to offer, each with a short description."""

_TIMEOUT = 1.0  # seconds; the user is waiting at the prompt
_CACHE_SECONDS = 10.0
_HOOKS, _DELIVERIES, _TOKENS = (
    "hooks",
    "deliveries",
    "tokens",
)  # beside the nouns that the API completes
_SHELL = "_KNIT_COMPLETE"
"""The variable that says for which shell. zsh evaluates what it gets as words in double quotes, and
Typer (0.29) escapes all that means something there but the backslash: one before `$(…)` would have
a command in somebody's tag carried out."""
_LIMIT = 100  # nobody reads more in a terminal; typing on narrows the choice


def complete_data(context: typer.Context, incomplete: str) -> Candidates:
    """Gives ids of Data, newest first, each with its tags."""
    return _completed(context, incomplete, "data")


def complete_run(context: typer.Context, incomplete: str) -> Candidates:
    """Gives ids of Runs, most recently changed first, each with its status and Plan."""
    return _completed(context, incomplete, "runs")


def complete_plan(context: typer.Context, incomplete: str) -> Candidates:
    """Gives ids of Plans, each with its image."""
    return _completed(context, incomplete, "plans")


def complete_tag(context: typer.Context, incomplete: str) -> Candidates:
    """Gives tags."""
    return _completed(context, incomplete, "tags")


def complete_tag_key(context: typer.Context, incomplete: str) -> Candidates:
    """Gives keys of tags."""
    return _completed(context, incomplete, "keys")


def complete_delivery(context: typer.Context, incomplete: str) -> Candidates:
    """Gives ids of deliveries that a user may skip, latest first, each with what it is for."""
    return _completed(context, incomplete, _DELIVERIES)


def complete_hook(context: typer.Context, incomplete: str) -> Candidates:
    """Gives the URLs of the hooks in force."""
    return _completed(context, incomplete, _HOOKS)


def complete_token(context: typer.Context, incomplete: str) -> Candidates:
    """Gives ids of tokens that are not revoked, newest first, each with its name."""
    return _completed(context, incomplete, _TOKENS)


def complete_status(incomplete: str) -> Candidates:
    """Gives the statuses that `run find` accepts: all but that of deleted Runs."""
    findable = [status for status in RunStatus if status is not RunStatus.INVALIDATED]
    return [(status, "") for status in findable if status.startswith(incomplete)]


def _completed(context: typer.Context, incomplete: str, noun: str) -> Candidates:
    try:
        invocation = _invocation_of(context)
        prefix = invocation.surroundings.variables.get(BASH_PREFIX, "")
        found = _cached(invocation, noun, prefix + incomplete)
    except Exception:  # noqa: BLE001  the shell shows whatever is printed in the middle of the line
        return []
    wanted = [(value, note) for value, note in found if value.startswith(prefix + incomplete)]
    if invocation.surroundings.variables.get(_SHELL) == "complete_zsh":
        wanted = [(value, note.replace("\\", "/")) for value, note in wanted if "\\" not in value]
    return [(value.removeprefix(prefix), note) for value, note in wanted]


def _invocation_of(context: typer.Context) -> Invocation:
    """Gives the invocation with the common flags, which nobody else applies during completion."""
    root = context.find_root()
    if not isinstance(root.obj, Invocation):
        raise LookupError("no invocation")
    given = root.params.get
    return replace(root.obj, profile=given("profile"), profile_store=given("profile_store"))


def _cached(invocation: Invocation, noun: str, prefix: str) -> Candidates:
    """Gives candidates for the prefix, possibly with others that do not match it."""
    cache = _cache_file(invocation, noun)
    try:
        if time.time() - cache.stat().st_mtime < _CACHE_SECONDS:
            cached_prefix, is_complete, found = json.loads(cache.read_bytes())
            if cached_prefix == prefix or (is_complete and prefix.startswith(cached_prefix)):
                return [(value, note) for value, note in found]
    except (OSError, ValueError, TypeError):
        pass  # no cache, or a damaged one: ask the API
    # Failures are cached as well: an unreachable API must not cost a second per key press.
    found = _within_timeout(lambda: _fetched(invocation, noun, prefix))
    write_private(cache, json.dumps((prefix, len(found) < _LIMIT, found)))
    return found


def _cache_file(invocation: Invocation, noun: str) -> Path:
    # Hashed, because profile names and paths may contain anything.
    key = f"{invocation.store_path}\0{invocation.profile_name}\0{noun}"
    name = hashlib.sha256(os.fsencode(key)).hexdigest()[:16]
    variables: Mapping[str, str] = invocation.surroundings.variables
    home = invocation.surroundings.home or invocation.surroundings.cwd
    caches = Path(variables.get("XDG_CACHE_HOME") or home / ".cache")
    return caches / "knit" / f"complete-{name}.json"


def _fetched(invocation: Invocation, noun: str, prefix: str) -> Candidates:
    # A login is not renewed: this may be given up at any moment.
    with api_of(invocation, notify=lambda _text: None, renews=False) as api:
        if noun == _HOOKS:
            hooks = api.hooks.in_force()
            return [(url, "") for url in dict.fromkeys((*hooks.before, *hooks.after))]
        if noun == _DELIVERIES:
            failed, _ = api.hooks.deliveries(failed=True, limit=_LIMIT)
            return [
                (one.id, f"{one.from_status} → {one.to_status}, {one.url}")
                for one in failed
                if one.phase == HookPhase.BEFORE
            ]
        if noun == _TOKENS:
            tokens = (one for one in api.accounts.tokens() if one.revoked_at is None)
            return [(one.token_id, one.name) for one in tokens][:_LIMIT]
        found = api.completions(noun, prefix, limit=_LIMIT)
    return [(one.value, one.words) for one in found]


def _within_timeout(fetch: Callable[[], Candidates]) -> Candidates:
    """Gives what is fetched in time, else nothing; the thread left behind dies with the process."""
    fetched: list[Candidates] = []

    def run() -> None:
        with suppress(Exception):  # no profile, no API, a bug: nothing to offer either way
            fetched.append(fetch())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    return fetched[0] if fetched else []
