"""The commands of kubectl in the runbooks, on an installation with all the parts that they name."""

from __future__ import annotations

from collections import Counter
from typing import Final

import httpx

from tests.charts.administrator import Administrator
from tests.charts.node import Node
from tests.docs.command_words import commands_of
from tests.docs.test_runbooks import PAGES
from tests.waiting import PATIENCE

Command = tuple[str, ...]

_LOOKING: Final = ("get", "describe", "logs")
_OF_PARTS: Final = ("database-", "image-registry")
"""In the names of what is here, and not where the other commands that look are carried out."""
_WITH_DRY_RUN: Final = {
    *("cordon", "create", "delete", "drain", "label", "patch", "scale", "taint", "uncordon")
}
_NOT_TRIED: Final = {
    "top": "a metrics server answers it, which this node has not",
    "node-role.kubernetes.io/control-plane:NoSchedule-": "this node has no such taint",
}
"""A word of each command that is left out, and why."""


def carry_out_the_runbooks(node: Node, admin: Administrator) -> None:
    """Those that change something as far as the API server tries them; a Run must be under way.

    What has no dry run, and does no harm, is done.
    """
    [name] = node.kubectl("get", "nodes", "-o", "name").stdout.split()
    [job, *_] = node.kubectl("get", "jobs", "-n", admin.namespace, "-o", "name").stdout.split()
    values = {
        "NODE": name.partition("/")[2],
        "JOB": job.partition("/")[2],
        "NAME": "example",
        "knit": admin.namespace,
    }
    looking, changing = _commands()
    assert len(looking) >= 4
    for command in looking:
        words = [values.get(word, word) for word in command[1:]]
        assert node.kubectl(*words).stdout.strip(), command
    left_out = {command for command in changing if _NOT_TRIED.keys() & set(command)}
    tried = Counter[str]()
    for command in changing:
        if command not in left_out:
            _carry_out(node, [values.get(word, word) for word in command[1:]])
            tried[command[1]] += 1
    assert tried.keys() >= _WITH_DRY_RUN | {"exec", "port-forward", "rollout"}, tried
    assert all(any(word in command for command in left_out) for word in _NOT_TRIED)
    node.kubectl("rollout", "status", "deployment/temporal", "-n", admin.namespace)


def _commands() -> tuple[list[Command], list[Command]]:
    """Those that look at parts of the installation, and those that do more; once each."""
    every = {tuple(words) for page in PAGES for words in commands_of(page, "kubectl")}
    looking = [one for one in every if one[1:2] and one[1] in _LOOKING]
    changing = [one for one in every if one[1:2] and one[1] not in _LOOKING]
    of_parts = [one for one in looking if any(part in " ".join(one) for part in _OF_PARTS)]
    return sorted(of_parts), sorted(changing)


def _carry_out(node: Node, words: list[str]) -> None:
    verb = words[0]
    if verb == "port-forward":
        _ask_for_metrics(node, words)
        return
    if verb in _WITH_DRY_RUN:
        words.append("--dry-run=server")
    if verb == "drain":  # what others have on this node is their own
        words.append("--pod-selector=app.kubernetes.io/name=knit-app")
    done = node.kubectl(*words, check=verb != "patch")
    # The storage class of this node does not expand claims, which is found out last.
    assert done.returncode == 0 or "must support resize" in done.stderr, done.stderr


def _ask_for_metrics(node: Node, words: list[str]) -> None:
    """As the page does with curl; on a free port of this machine, where that one may be taken."""
    free = [f":{word}" if word.isdigit() else word for word in words[1:]]
    with node.forwarded(*free) as address:
        answer = httpx.get(f"http://{address}/metrics", trust_env=False, timeout=PATIENCE)
    assert answer.is_success
    assert "knit_" in answer.text
