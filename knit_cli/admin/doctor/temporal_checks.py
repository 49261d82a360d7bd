"""Checks of Temporal: its version and namespace, and what its dynamic configuration does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from knit_cli.admin.doctor.findings import Finding, ok, problem, unknown, warning

_OLDEST_TEMPORAL: Final = (1, 27)
_PACE: Final = "history.transferProcessorMaxPollRPS"
_NOT_SEEN: Final = "matching.enableFairness, limits of requests and sizes"
"""Settings that matter to knit, and show neither in an answer nor in a trial."""
_NOT_TRIED: Final = {"problem": "the pod is of a version that does not try it"}


def findings_of(found: dict[str, Any]) -> Iterator[Finding]:
    """Judges what a pod of the API has found of its Temporal."""
    where = f"{found.get('address')}, namespace {found.get('namespace', '?')}"
    if "problem" in found:
        yield problem(
            "temporal",
            f"{where}: {found['problem']}",
            "correct `temporal` in values/knit-app.yaml, then knit admin upgrade",
        )
        return
    version = found["version"]
    numbers = tuple(int(one) for one in version.split(".")[:2] if one.isdecimal())
    if len(numbers) == 2 and numbers < _OLDEST_TEMPORAL:
        yield warning("temporal", f"{version} is old ({where})", "upgrade it to 1.27 or newer")
    else:
        yield ok("temporal", f"{version} at {where}")
    if not found["updates"]:
        yield problem(
            "temporal",
            "updates of workflows are off; transfers and stops need them",
            "set frontend.enableUpdateWorkflowExecution in its dynamic configuration",
        )
    if found["retentionDays"] < 1:
        yield warning(
            "temporal",
            f"ended workflows are kept for {found['retentionDays'] * 24:.1f} hours only",
            "temporal operator namespace update --retention 3d",
        )
    if missing := found.get("missingAttributes"):
        yield warning(
            "temporal",
            f"Runs cannot be searched by {', '.join(missing)}",
            "set temporal.bootstrap in values/knit-app.yaml, then knit admin upgrade",
        )
    yield from _versions(found.get("workerVersions") or ())
    yield from _trial(found.get("trial") or _NOT_TRIED)


def _versions(found: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """Judges the versions of workers; an older pod says nothing of them."""
    if any(one["workers"] for one in found) and not any(one["state"] == "current" for one in found):
        yield warning(
            "versions",
            "workers have versions, and none of them is current: no Run begins",
            "restart those that are to have new Runs: kubectl rollout restart "
            "deployment/knit-worker-engine, or knit-worker-compute where all roles are together",
        )
    for one in found:
        build, left = one["buildId"], one["workflows"]
        if one["state"] == "drained" and one["workers"]:
            yield warning(
                "versions",
                f"no Run needs the workers of {build} any more",
                f"remove {build} from workers.versioning.draining in values/knit-app.yaml, then "
                "knit admin upgrade",
            )
        if one["state"] == "draining" and left and not one["workers"]:
            yield warning(
                "versions",
                f"{left:,} workflows began with {build}, which has no workers: its Runs wait",
                f"add {build} to workers.versioning.draining in values/knit-app.yaml, then "
                "knit admin upgrade; docs/operations/worker-versions.md says what to do where its "
                "workers end",
            )
    for one in found:
        if one["state"] == "current":
            yield ok("versions", f"Runs begin with workers of {one['buildId']}")


def _trial(found: dict[str, Any]) -> Iterator[Finding]:
    """Judges what was found by trying; what cannot be, is named."""
    if "problem" in found:
        yield unknown(
            "temporal",
            f"its dynamic configuration could not be tried: {found['problem']}",
            "see that knit may start workflows there; docs/operations.md lists what to set",
        )
        return
    if not found["updateWithStart"]:
        yield problem(
            "temporal",
            "a start and an update do not go together; uploads and downloads need that",
            _cure("frontend.enableExecuteMultiOperation=true"),
        )
    if not found["eager"]:
        yield warning(
            "temporal",
            "each short step waits for its worker to ask for it",
            _cure("system.enableActivityEagerExecution=true"),
        )
    first, later = found["firstRound"], found["laterRound"]
    pace = f"an activity and a workflow task take {later * 1000:.0f} ms"
    # The limit lets some tasks through at once: what is as slow from the start is slow by itself.
    limited = not found["unlimited"] and later >= 2 * first
    if limited:
        yield warning(
            "temporal",
            f"{pace}, {first * 1000:.0f} ms at first, as with the default limit of 20 a second",
            _cure(f"{_PACE}=10000"),
        )
    if not found["priorities"]:
        yield warning(
            "temporal",
            "priorities of tasks do not count: transfers and stops may wait behind Runs",
            _cure("matching.useNewMatcher=true, and matching.enableFairness=true"),
        )
    if found["updateWithStart"] and found["eager"] and found["priorities"] and not limited:
        text = f"its dynamic configuration is as knit wants it, by trial ({pace})"
        unseen = f"{_NOT_SEEN}, {_PACE} below such a pace" if not found["unlimited"] else _NOT_SEEN
        yield ok("temporal", f"{text}; what cannot be tried: {unseen}")


def _cure(setting: str) -> str:
    return f"set {setting} in its dynamic configuration; Temporal Cloud's is Temporal's to set"
