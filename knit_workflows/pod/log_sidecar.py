"""Records the log of a container of its own pod: the sidecar that makes a Run's log Data.

Run as ``python3 -m knit_workflows.pod.log_sidecar CONTAINER DEST`` with POD_NAME and
NAMESPACE in the environment. The service account needs `watch` on pods and `get` on pods/log.

OUTPUTS may map paths of the container to folders here, in JSON: once the container has ended they
are looked through, and what cannot be kept of them stands in the termination log, a line for each.
What goes wrong with that is no failure.

Exit codes: 0 the container has ended and DEST holds its whole log, or SIGTERM came and DEST holds
what could be read in five seconds; 1 DEST cannot be written; 2 started wrongly; 3 the API kept
refusing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from knit_workflows.archive.scan import scan, scan_note
from knit_workflows.pod.kube_api import ApiRefused, ApiTrouble, KubeApi
from knit_workflows.pod.log_splice import LogSplice, NotALog
from knit_workflows.pod.termination import TERMINATION_LOG, explain, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_REFUSED_SECONDS = 60.0
_LAST_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 15.0
_WATCH_SECONDS = 300


class GivenUp(Exception):
    """The API refused for too long, or there is nothing to follow; the message is for people."""


class TimeIsUp(BaseException):
    """Raised out of whatever is waiting, some seconds after SIGTERM."""


class Patience:
    """Spaces out attempts, and knows which trouble has lasted too long."""

    def __init__(
        self,
        refused_seconds: float = _REFUSED_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._refused_seconds = refused_seconds
        self._sleep = sleep
        self._clock = clock
        self._pause = _FIRST_PAUSE
        self._refused_since: float | None = None

    def succeeded(self) -> None:
        """Forgets all trouble."""
        self._pause = _FIRST_PAUSE
        self._refused_since = None

    def failed(self, trouble: Exception) -> None:
        """Waits before the next attempt: 0.1 s doubling to 15 s, and a little by chance.

        Raises:
            GivenUp: refusals (or a log the kubelet cannot read) have lasted for a minute.
        """
        if isinstance(trouble, ApiRefused | NotALog):
            now = self._clock()
            if self._refused_since is None:
                self._refused_since = now
            if now - self._refused_since > self._refused_seconds:
                raise GivenUp(str(trouble)) from trouble
        else:
            self._refused_since = None  # out of reach is not a refusal
        self._sleep(self._pause * (1 + os.urandom(1)[0] / 512))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


class Nurse:
    """Follows one container from before its start to its end."""

    def __init__(
        self, api: KubeApi, namespace: str, pod: str, container: str, patience: Patience
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._pod = pod
        self._container = container
        self._patience = patience

    def record(self, destination: int) -> None:
        """Writes the container's log to a descriptor as it comes; returns after the last byte.

        Raises:
            GivenUp: see `Patience.failed`.
            OSError: the destination cannot be written.
        """
        if self._wait_for_start():
            self._follow(destination)

    def _wait_for_start(self) -> bool:
        """Returns when the container runs or has ended; False if there will never be a log."""
        while True:
            try:
                for kind, pod in self._watch():
                    started = self._started(kind, pod)
                    self._patience.succeeded()
                    if started is not None:
                        return started
                raise ApiTrouble("the watch has ended")
            except ApiTrouble as trouble:
                self._patience.failed(trouble)

    def _watch(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The pod as it is, then at each change: what happened, and the pod."""
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
                raise ApiTrouble(f"the watch sent no event: {error!r}") from error
            if kind == "ERROR":
                raise ApiTrouble(f"the watch failed: {thing.get('message')}")
            if kind != "BOOKMARK":
                yield kind, thing

    def _started(self, kind: str, pod: dict[str, Any]) -> bool | None:
        """Whether the container has started, or never will; None while it may."""
        if self._container not in {
            c.get("name") for c in pod.get("spec", {}).get("containers", [])
        }:
            raise GivenUp(f"the pod {self._pod} has no container {self._container!r}")
        if self._state(pod) & {"running", "terminated"}:
            return True
        if kind == "DELETED" or _is_over(pod):
            return False
        return None

    def _state(self, pod: dict[str, Any]) -> set[str]:
        """The container's state: one of waiting, running, terminated; or none yet."""
        for container in pod.get("status", {}).get("containerStatuses", []):
            if container.get("name") == self._container:
                return set(container.get("state", {}))
        return set()

    def _has_ended(self) -> bool:
        """Whether the API says that there will be no more log; False when it says nothing."""
        try:
            for kind, pod in self._watch():
                return kind == "DELETED" or _is_over(pod) or "terminated" in self._state(pod)
        except ApiTrouble:
            pass
        return False

    def _follow(self, destination: int) -> None:
        """Reads the log until it has ended twice in a row, the second time without anything new.

        The kubelet ends a followed log when the container is not running any more. But a server on
        the way that shuts down can look the same; asked again, the log of a running container goes
        on. The container's status in the API would tell later, as it lags behind the kubelet.
        """
        splice = LogSplice()
        ends = 0
        while ends < 2:
            try:
                fresh = self._read(splice, destination)
            except ApiTrouble as trouble:
                ends = 0
                self._patience.failed(trouble)
            except NotALog as trouble:
                ends = 0
                self._patience.failed(trouble if self._has_ended() else ApiTrouble(str(trouble)))
            else:
                self._patience.succeeded()
                ends = 1 if fresh else ends + 1
            splice.resume()

    def _read(self, splice: LogSplice, destination: int) -> int:
        """One reading, to its end; the number of new bytes. They reach DEST piece by piece."""
        path = f"/api/v1/namespaces/{self._namespace}/pods/{self._pod}/log"
        query = {"container": self._container, "follow": "true", "timestamps": "true"}
        if splice.since is not None:
            query["sinceTime"] = splice.since
        fresh = 0
        for piece in self._api.stream(path, query):
            new = splice.feed(piece)
            if new:
                _write(destination, new)
                fresh += len(new)
                self._patience.succeeded()
        splice.finish()
        return fresh


def _is_over(pod: dict[str, Any]) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _write(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _end_soon_on_sigterm() -> None:
    def time_is_up(*_: object) -> NoReturn:
        raise TimeIsUp

    def end_soon(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, _LAST_SECONDS)

    signal.signal(signal.SIGALRM, time_is_up)
    signal.signal(signal.SIGTERM, end_soon)
    signal.signal(signal.SIGINT, end_soon)


def _record(nurse: Nurse, destination: int, remarks: Callable[[], list[str]]) -> list[str]:
    """Records, and lets nothing go before it is on the disk; gives what to say of the outputs.

    Nothing when SIGTERM came before the end.
    """
    _end_soon_on_sigterm()
    try:
        nurse.record(destination)
        said = remarks()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except TimeIsUp:
        return []
    finally:
        os.fsync(destination)
    return said


def _remarks(outputs: str) -> list[str]:
    """Looks through the outputs; `outputs` is JSON, as OUTPUTS has it."""
    found = [scan_note(path, scan(Path(folder))) for path, folder in json.loads(outputs).items()]
    return [line for line in found if line]


def main(
    arguments: list[str],
    environ: Mapping[str, str],
    api: KubeApi | None = None,
    termination_log: str = TERMINATION_LOG,
) -> int:
    """Records to the end; the exit code. Every failure is explained in the termination log."""
    try:
        container, path = arguments
        outputs = environ.get("OUTPUTS", "{}")
        namespace, pod = environ["NAMESPACE"], environ["POD_NAME"]
        api = api or KubeApi.from_pod(environ)
    except ValueError:
        explain("nurse: give a container's name and a file to write its log to.", termination_log)
        return 2
    except KeyError as missing:
        explain(f"nurse: the variable {missing} is not set; run it in a pod.", termination_log)
        return 2
    try:
        destination = os.open(path, _NEW_FILE, 0o644)
        try:
            nurse = Nurse(api, namespace, pod, container, Patience())
            said = _record(nurse, destination, lambda: _remarks(outputs))
        finally:
            os.close(destination)
    except GivenUp as reason:
        explain(f"nurse: cannot read the log of {container!r}: {reason}", termination_log)
        return 3
    except OSError as error:
        explain(f"nurse: cannot write the log to {path}: {error.strerror}", termination_log)
        return 1
    tell(said, termination_log)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
