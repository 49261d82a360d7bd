"""The log sidecar: records the log of another container of its pod, so that it becomes Data.

Run as ``python3 -m knit_workflows.pod.log_sidecar CONTAINER FILE`` with POD_NAME and NAMESPACE in
the environment. The service account needs `watch` on pods and `get` on pods/log.

OUTPUTS, a JSON object, may map paths of outputs in that container to folders here. When the
container has ended they are scanned, and what cannot be kept of them is noted in the termination
log, one line per output. Failing to do so is no failure of the sidecar.

What is missing in the log is marked in it, and noted in the termination log: what the node has
rotated away, and all that follows once the API has refused for a minute. A Run is not lost because
its log is.

After SIGTERM the container may go on for as long as its pod is granted, which nobody tells here. So
does the sidecar, once that container has started: the last lines are often why somebody looks. Only
one that has not started is given up after five seconds.

Exit codes:
    0  The container has ended and FILE holds its log; or SIGTERM came before it had started; or the
       API kept refusing.
    1  FILE cannot be written.
    2  The arguments or the environment are wrong.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from calendar import timegm
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from knit_workflows.archive.scan import scan, scan_note
from knit_workflows.backoff import Backoff
from knit_workflows.pod.kube_api import (
    KubeApi,
    KubeApiCut,
    KubeApiError,
    KubeApiRefused,
    KubeApiSilent,
)
from knit_workflows.pod.log_splice import LogSplice, NotALog
from knit_workflows.pod.termination import TERMINATION_LOG, report, write_notes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_REFUSED_SECONDS = 60.0
_FINAL_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 15.0
_WATCH_SECONDS = 300
_SILENT_SECONDS, _QUIET_SECONDS = 3.0, 600.0
_MAY_ROTATE_AFTER = 1 << 20


class GivenUp(Exception):
    """The API refused for too long, or there is no such container; the message is for people."""


class DeadlineExceeded(BaseException):
    """Raised from a signal handler some seconds after SIGTERM, while there is no container yet."""


class RetryPolicy:
    """Spaces out attempts, and gives up when the API has refused for too long."""

    def __init__(
        self,
        refused_seconds: float = _REFUSED_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refused_seconds = refused_seconds
        self._sleep = sleep
        self._clock = clock
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._refused_since: float | None = None

    def succeeded(self) -> None:
        """Forgets all failures."""
        self._backoff.reset()
        self._refused_since = None

    def failed(self, error: Exception) -> None:
        """Waits before the next attempt, longer each time up to 15 s.

        Raises:
            GivenUp: refusals, or a log that the kubelet cannot read, have lasted for a minute.
        """
        if isinstance(error, KubeApiRefused | NotALog):
            now = self._clock()
            if self._refused_since is None:
                self._refused_since = now
            if now - self._refused_since > self._refused_seconds:
                raise GivenUp(str(error)) from error
        else:
            self._refused_since = None  # unreachable is not refused
        self._sleep(self._backoff.next())


class LogRecorder:
    """Follows the log of one container from before its start to its end."""

    def __init__(
        self, api: KubeApi, namespace: str, pod: str, container: str, retries: RetryPolicy
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._pod = pod
        self._container = container
        self._retries = retries
        self._splice = LogSplice()
        self.has_started = False
        """Whether the container has, as far as is known; from then on its log has an end."""
        self.is_waiting = False
        """Whether the API said last that it has not."""
        self._read_until: float | None = None
        """When the log was last being read, or the container's start; seconds since 1970."""

    def notes(self) -> list[str]:
        """Gives what is to be said of the log, as far as it was recorded: a line or none."""
        if gaps := self._splice.gaps:
            parts = "a part of it was" if gaps == 1 else f"{gaps} parts of it were"
            lost = f"it is incomplete: {parts} rotated away"
        elif self._splice.doubts:
            lost = "it may be incomplete: its start or its end may have been rotated away"
        else:
            return []
        return [
            f"log: {lost} on the node before it could be read; a Plan with `entrypoint` has its "
            "log written without the node's help"
        ]

    def record(self, destination: int) -> None:
        """Writes the container's log to a descriptor as it comes; returns after the last byte.

        Raises:
            GivenUp: see `RetryPolicy.failed`.
            OSError: the destination cannot be written.
        """
        self.has_started = self._wait_for_start()
        if self.has_started:
            self._follow(destination)

    def _wait_for_start(self) -> bool:
        """Returns when the container runs or has ended; False if there will never be a log."""
        while True:
            try:
                for kind, pod in self._watch():
                    started = self._started(kind, pod)
                    self.is_waiting = started is None
                    self._retries.succeeded()
                    if started is not None:
                        return started
                raise KubeApiError("the watch has ended")
            except KubeApiError as error:
                self.is_waiting = False
                self._retries.failed(error)

    def _watch(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields (event type, pod): the pod as it is, then each change."""
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        query = {
            "watch": "true",
            "fieldSelector": f"metadata.name={self._pod}",
            "resourceVersion": "0",  # starts with the state as it is, so nothing is missed between
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        for line in self._api.lines(path, query):
            try:
                event = json.loads(line)
                kind, thing = event["type"], event["object"]
            except (ValueError, TypeError, KeyError) as error:
                raise KubeApiError(f"the watch sent no event: {error!r}") from error
            if kind == "ERROR":
                raise KubeApiError(f"the watch failed: {thing.get('message')}")
            if kind != "BOOKMARK":
                yield kind, thing

    def _started(self, kind: str, pod: dict[str, Any]) -> bool | None:
        """Whether the container has started, or never will; None while it may."""
        if self._container not in {
            c.get("name") for c in pod.get("spec", {}).get("containers", [])
        }:
            raise GivenUp(f"the pod {self._pod} has no container {self._container!r}")
        state = self._state(pod)
        if started := state.keys() & {"running", "terminated"}:
            self._read_until = _instant(state[started.pop()].get("startedAt"))
            return True
        if kind == "DELETED" or _is_over(pod):
            return False
        return None

    def _state(self, pod: dict[str, Any]) -> dict[str, Any]:
        """The container's state by its name: one of waiting, running, terminated; or none yet."""
        for container in pod.get("status", {}).get("containerStatuses", []):
            if container.get("name") == self._container:
                return dict(container.get("state", {}))
        return {}

    def _has_ended(self) -> bool:
        """Whether the API says that there will be no more log; False when it says nothing."""
        try:
            for kind, pod in self._watch():
                return kind == "DELETED" or _is_over(pod) or "terminated" in self._state(pod)
        except KubeApiError:
            pass
        return False

    def _follow(self, destination: int) -> None:
        """Reads the log until it has ended twice in a row, the second time without anything new.

        The kubelet ends a followed log when the container no longer runs. But a proxy that shuts
        down looks the same; read again, the log of a running container goes on. The container's
        status in the API is of no help: it lags behind the kubelet.

        A kubelet that has not caught up with a log before it is rotated ends up waiting at the end
        of the old file, for as long as the new one grows. So after much of a log, silence is a
        reason to read again: that begins with the newest file.
        """
        ends = 0
        while ends < 2:
            if self._read_until is not None:
                self._splice.unwatched(self._read_until)
            try:
                new_bytes = self._read(self._splice, destination)
            except KubeApiSilent:
                ends = 0
                self._read_until = time.time()
                with suppress(NotALog):
                    self._splice.finish()
            except KubeApiError as error:
                ends = 0
                if isinstance(error, KubeApiCut):
                    self._read_until = time.time()
                self._retries.failed(error)
            except NotALog as error:
                ends = 0
                self._retries.failed(error if self._has_ended() else KubeApiError(str(error)))
            else:
                self._read_until = time.time()
                self._retries.succeeded()
                ends = 1 if new_bytes else ends + 1
            self._splice.resume()
        _write(destination, self._splice.end())

    def _read(self, splice: LogSplice, destination: int) -> int:
        """Reads the log once and writes what is new; returns the number of new bytes."""
        path = f"/api/v1/namespaces/{self._namespace}/pods/{self._pod}/log"
        query = {"container": self._container, "follow": "true", "timestamps": "true"}
        if splice.since is not None:
            query["sinceTime"] = splice.since
        new_bytes = 0

        def patience() -> float:
            return _SILENT_SECONDS if new_bytes >= _MAY_ROTATE_AFTER else _QUIET_SECONDS

        for chunk in self._api.stream(path, query, patience):
            content = splice.feed(chunk)
            if content:
                _write(destination, content)
                new_bytes += len(content)
                self._retries.succeeded()
        splice.finish()
        return new_bytes


def _instant(text: str | None) -> float | None:
    """Reads an instant of Kubernetes, which is in whole seconds and UTC; None if there is none."""
    try:
        return float(timegm(time.strptime(text or "", "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return None


def _is_over(pod: dict[str, Any]) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _write(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _set_deadline_on_sigterm(recorder: LogRecorder) -> None:
    def deadline_exceeded(*_: object) -> None:
        if not recorder.has_started:
            raise DeadlineExceeded

    def set_deadline(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, _FINAL_SECONDS)

    signal.signal(signal.SIGALRM, deadline_exceeded)
    signal.signal(signal.SIGTERM, set_deadline)
    signal.signal(signal.SIGINT, set_deadline)


def _forget_signals() -> None:
    """Has the little that is left to do be done, whatever signal comes."""
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(each, signal.SIG_IGN)


def _record(recorder: LogRecorder, destination: int, outputs: str) -> list[str]:
    """Records the log, syncs it to the disk, and returns the notes on log and outputs."""
    _set_deadline_on_sigterm(recorder)
    try:
        return _notes_on_log(recorder, destination) + _notes(outputs)
    finally:
        os.fsync(destination)


def _notes_on_log(recorder: LogRecorder, destination: int) -> list[str]:
    """Records the log as far as the API gives it."""
    try:
        recorder.record(destination)
    except GivenUp as reason:
        return _given_up(destination, str(reason))
    except DeadlineExceeded:
        return [] if recorder.is_waiting else _given_up(destination, "stopped")
    finally:
        _forget_signals()
    return recorder.notes()


def _given_up(destination: int, reason: str) -> list[str]:
    """Marks in the log that its rest is missing; gives the note that says so."""
    at_start = not os.fstat(destination).st_size
    text = f"[knit: the rest of the log not received: {reason}]\n"
    _write(destination, (text if at_start else f"\n{text}").encode("utf-8", "replace"))
    return [f"log: it is incomplete: {reason}"]


def _notes(outputs: str) -> list[str]:
    """Scans the outputs; `outputs` is the value of OUTPUTS."""
    found = [scan_note(path, scan(Path(folder))) for path, folder in json.loads(outputs).items()]
    return [line for line in found if line]


def main(
    arguments: list[str],
    environ: Mapping[str, str],
    api: KubeApi | None = None,
    termination_log: str = TERMINATION_LOG,
    refused_seconds: float = _REFUSED_SECONDS,
) -> int:
    """Records the log; returns the exit code, and reports why it failed or what is missing."""
    try:
        container, path = arguments
        outputs = environ.get("OUTPUTS", "{}")
        namespace, pod = environ["NAMESPACE"], environ["POD_NAME"]
        api = api or KubeApi.from_pod(environ)
    except ValueError:
        report(
            "log sidecar: give a container's name and a file for its log.",
            termination_log,
        )
        return 2
    except KeyError as missing:
        report(f"log sidecar: the variable {missing} is not set; run it in a pod.", termination_log)
        return 2
    try:
        destination = os.open(path, _NEW_FILE, 0o644)
        try:
            recorder = LogRecorder(api, namespace, pod, container, RetryPolicy(refused_seconds))
            notes = _record(recorder, destination, outputs)
        finally:
            os.close(destination)
    except OSError as error:
        report(f"log sidecar: cannot write the log to {path}: {error.strerror}", termination_log)
        return 1
    write_notes(notes, termination_log)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
