"""Tells of containers that crash or cannot start while a chart is installed, when it happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from knit_cli.admin.cluster import Cluster, ToolFailed
from knit_cli.errors import CliError

_EVERY: Final = 2.0
"""Seconds between two looks."""
_CANNOT_START: Final = (
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "InvalidImageName",
    "RunContainerError",
)
"""Not those that follow them, such as ImagePullBackOff."""
_LINES: Final = 8
_WIDTH: Final = 300


@dataclass(frozen=True)
class _Crash:
    pod: str
    container: str
    code: int
    previous: bool
    """Whether another container has taken its place since."""


@dataclass
class CrashWatch:
    """Looks at the pods and Jobs of one release, and tells of each crash once.

    Not of pods that were ready before: those that an upgrade replaces may end as they like.
    """

    cluster: Cluster
    release: str
    tell: Callable[[str], None]
    _before: frozenset[str] = frozenset()
    _told: set[str] = field(default_factory=set)
    _next: float = 0.0

    @classmethod
    def begin(cls, cluster: Cluster, release: str, tell: Callable[[str], None]) -> CrashWatch:
        """Begins, before helm does."""
        # Without the lock: a kubectl that only looks must not hold it beyond its killed parent.
        watch = cls(replace(cluster, lock=None), release, tell)
        settled = (one["metadata"].get("uid", "") for one in watch._found() if _is_settled(one))
        watch._before = frozenset(settled)
        return watch

    def look(self) -> None:
        """Looks, unless it has just done so.

        Raises:
            CliError: a Job has failed for good, so that waiting any longer makes no sense.
        """
        if time.monotonic() < self._next:
            return
        for one in self._found():
            if one["metadata"].get("uid", "") in self._before:
                continue
            if one["kind"] == "Pod":
                for text in _obstacles(one):
                    self._tell_once(text, text)
                for crash in _crashes(one):
                    self._tell(crash)
            elif condition := _failure(one):
                raise CliError(
                    f"{self.release} could not be installed",
                    reason=f"job {one['metadata']['name']} has failed: "
                    f"{condition.get('message') or condition.get('reason', '')}",
                    advice="mend what its log says, then repeat the command",
                )
        self._next = time.monotonic() + _EVERY

    def _found(self) -> list[Any]:
        selector = f"app.kubernetes.io/instance={self.release}"
        try:
            return list(self.cluster.get("pods,jobs", "--selector", selector))
        except (CliError, ValueError):  # helm says by itself that the cluster is away
            return []

    def _tell(self, crash: _Crash) -> None:
        lines = self._last_lines(crash)
        said = f"{crash.pod}: {crash.container} ended with exit code {crash.code}"
        text = "\n".join([f"{said}; its last lines:" if lines else said, *lines])
        # Replicas, and attempts, say the same again and again.
        self._tell_once(f"{crash.container}\n{lines}", text)

    def _tell_once(self, key: str, text: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self.tell(text)

    def _last_lines(self, crash: _Crash) -> list[str]:
        words = ["logs", crash.pod, "--container", crash.container, f"--tail={_LINES}"]
        try:
            printed = self.cluster.kubectl(*words, *(["--previous"] if crash.previous else []))
        except ToolFailed:  # it is gone already
            return []
        return [f"    {line[:_WIDTH]}" for line in printed.splitlines()[-_LINES:] if line.strip()]


def _is_settled(item: Any) -> bool:
    """Whether a pod is ready; a Job from before is done with, whatever became of it."""
    if item["kind"] != "Pod":
        return True
    conditions = item.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _obstacles(pod: Any) -> Iterator[str]:
    """Says why containers cannot even be started."""
    if "deletionTimestamp" in pod["metadata"]:
        return
    status = pod.get("status", {})
    for one in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        waiting = one.get("state", {}).get("waiting") or {}
        if waiting.get("reason") in _CANNOT_START:
            message = " ".join(str(waiting.get("message", "")).split())[:_WIDTH]
            yield f"{pod['metadata']['name']}: {one['name']}: {waiting['reason']}: {message}"


def _crashes(pod: Any) -> Iterator[_Crash]:
    if "deletionTimestamp" in pod["metadata"]:
        return
    name, status = pod["metadata"]["name"], pod.get("status", {})
    for one in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        for state, previous in ((one.get("state", {}), False), (one.get("lastState", {}), True)):
            ended = state.get("terminated")
            if ended and ended.get("exitCode"):
                # What waits to be started again has no other container yet.
                gone = previous and "waiting" not in one.get("state", {})
                yield _Crash(name, one["name"], ended["exitCode"], gone)
                break


def _failure(job: Any) -> Any | None:
    conditions = job.get("status", {}).get("conditions", ())
    failed = (one for one in conditions if one["type"] == "Failed" and one["status"] == "True")
    return next(failed, None)
