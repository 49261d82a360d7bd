"""The installation on a cluster: pods of its own image do what must be done inside.

One has the database access of the migration, the other the rights of the workers that open
transfers; both wait, and are told by `kubectl exec` what to do.
"""

from __future__ import annotations

import json
import re
import secrets
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import IO, Any, Final

from knit_cli.admin.backup.registry import RegistryFiles, registry_of
from knit_cli.admin.cluster import Cluster
from knit_cli.admin.job_pod import migration_of, pod_like
from knit_cli.errors import CliError
from knit_workflows import names
from knit_workflows.backup.frames import Frame, read_frames, write_frames
from knit_workflows.backup.installation import Found
from knit_workflows.backup.pods import TRANSFER_ID
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.volumes import Wanted
from knit_workflows.store.inspection.hashes import KnownContent, SeenContent

_DATABASE_POD: Final = "knit-backup-database"
_VOLUMES_POD: Final = "knit-backup-volumes"
_LABEL: Final = "knit/backup"
"""Label of both; its value is that of the command."""
_ENDED: Final = ("--field-selector", "status.phase!=Running,status.phase!=Pending")
_LIFE: Final = 7 * 24 * 3600
_MODULE: Final = ("python3", "-m", "knit_workflows.backup.far")
_WORKERS: Final = ("knit-worker-interactive", "knit-worker-compute")
"""Deployments whose rights are those of transfers; the second where all roles are together."""
_PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe", "ports", "lifecycle")


class ClusterInstallation:
    """A knit in a namespace.

    Implements `backup.installation.Installation`, and `backup.content.checking.Contents`.
    """

    def __init__(self, cluster: Cluster, storage_class: str | None = None) -> None:
        """`storage_class`: that of volumes that are made; None: the installation's."""
        self.shown = f"knit in namespace {cluster.namespace}"
        self._cluster = cluster
        self._storage_class = storage_class
        # Pods of another command, which may be at work just now, have other names.
        self._suffix = secrets.token_hex(2)
        self._database_pod = f"{_DATABASE_POD}-{self._suffix}"
        self._volumes_pod = f"{_VOLUMES_POD}-{self._suffix}"

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Makes the pods, and removes them at the end.

        What a killed command has left goes first, once it has ended: after a week, or where it was
        told to. Others may be at work meanwhile.

        Raises:
            CliError: knit is not installed, or a pod does not start.
        """
        pods = [
            pod_like(migration_of(self._cluster), self._database_pod, life=_LIFE),
            _without_probes(pod_like(self._worker(), self._volumes_pod, life=_LIFE)),
        ]
        self._remove_ended()
        try:
            for pod in pods:
                pod["metadata"]["labels"][_LABEL] = self._suffix
                self._cluster.kubectl("create", "--filename", "-", given=json.dumps(pod))
            which = [f"pod/{name}" for name in (self._database_pod, self._volumes_pod)]
            self._cluster.kubectl("wait", *which, "--for=condition=Ready", "--timeout=5m")
            yield
        finally:
            with suppress(CliError):
                self._remove()

    def database(self) -> Iterator[Frame]:
        """See `Installation`."""
        yield from self._ask(self._database_pod, "database")

    def still_there(self, knit_ids: Sequence[str]) -> set[str]:
        """See `Installation`."""
        return set(self._one(self._database_pod, "still-there", list(knit_ids))["there"])

    def volumes(self, wanted: Sequence[Wanted]) -> Iterator[Frame]:
        """See `Installation`."""
        yield from self._ask(
            self._volumes_pod, "volumes", [asdict(one) for one in wanted], *self._transfers
        )

    def look(self) -> Found:
        """See `Installation`."""
        return Found(**self._one(self._database_pod, "look"))

    def make_volumes(self, frames: Iterable[Frame]) -> Iterator[dict[str, Any]]:
        """See `Installation`."""
        options = ["--storage-class", self._storage_class] if self._storage_class else []
        options += self._transfers
        for frame in self._ask(self._volumes_pod, "make-volumes", None, *options, frames=frames):
            assert isinstance(frame, dict)
            yield frame

    def load(self, frames: Iterable[Frame]) -> dict[str, int]:
        """See `Installation`."""
        [answer] = self._ask(self._database_pod, "load", frames=frames)
        assert isinstance(answer, dict)
        loaded: dict[str, int] = answer["loaded"]
        return loaded

    def known_contents(
        self, knit_ids: Sequence[str] | None, older_than: float
    ) -> list[KnownContent]:
        """See `Contents`."""
        asked = {"knit_ids": knit_ids, "older_than": older_than}
        return [
            KnownContent(**frame)
            for frame in self._ask(self._database_pod, "known-contents", asked)
            if isinstance(frame, dict)
        ]

    def hash_volumes(
        self, wanted: Sequence[Wanted], *, with_pieces: bool, seconds: float | None
    ) -> Iterator[dict[str, Any]]:
        """See `Contents`."""
        asked = {
            "wanted": [asdict(one) for one in wanted],
            "with_pieces": with_pieces,
            "seconds": seconds,
        }
        for frame in self._ask(self._volumes_pod, "hash-volumes", asked, *self._transfers):
            assert isinstance(frame, dict)
            yield frame

    def record_contents(self, seen: Sequence[SeenContent], *, by: str, replaces: bool) -> None:
        """See `Contents`."""
        asked = {"seen": [asdict(one) for one in seen], "by": by, "replaces": replaces}
        self._one(self._database_pod, "record-contents", asked)

    def registry(self) -> RegistryFiles:
        """Gives the installation's own registry; raises CliError if it has none."""
        return registry_of(self._cluster)

    @property
    def _transfers(self) -> list[str]:
        return ["--transfers", f"{TRANSFER_ID}{self._suffix}"]

    # --- pods -----------------------------------------------------------------------------------

    def _worker(self) -> Any:
        for name in _WORKERS:
            if (found := self._cluster.find("deployment", name)) is not None:
                return found
        raise CliError(
            f"knit is not installed in namespace {self._cluster.namespace}",
            reason="its workers, whose rights are used, are not there",
            advice="name the namespace (--namespace), or repeat `knit admin install`",
        )

    def _remove(self) -> None:
        """Removes these pods, and the transfer pods that they had opened."""
        pods = (self._database_pod, self._volumes_pod)
        self._cluster.delete("pod", *pods, "--grace-period=0", "--wait=true")
        self._remove_transfers(self._suffix)

    def _remove_ended(self) -> None:
        """Removes pods that have ended, of commands that were killed."""
        self._cluster.delete("pods", "--selector", _LABEL, *_ENDED)
        self._remove_transfers("[0-9a-f]*", *_ENDED)

    def _remove_transfers(self, suffix: str, *selected: str) -> None:
        found = self._cluster.kubectl(
            *("get", "pods", "--output", "name", "--selector", names.LABEL_AGENT_KNIT_ID),
            *selected,
        )
        is_one = re.compile(f".*-{TRANSFER_ID}{suffix}").fullmatch
        if left := [name for name in found.split() if is_one(name)]:
            # With their own grace, in which they undo what was cut: what a restore has written half
            # would be other content to the next one, for good.
            self._cluster.delete(*left)

    # --- what they are told ---------------------------------------------------------------------

    def _one(self, pod: str, verb: str, given: Any = None) -> dict[str, Any]:
        [answer] = self._ask(pod, verb, given)
        assert isinstance(answer, dict)
        return answer

    def _ask(
        self,
        pod: str,
        verb: str,
        given: Any = None,
        *options: str,
        frames: Iterable[Frame] | None = None,
    ) -> Iterator[Frame]:
        """Runs a verb in a pod and gives what it answers; `given` or `frames` is what it reads.

        Raises:
            BackupProblem: it has a problem, or the connection was cut.
        """
        command = ["exec", "--stdin", pod, "--", *_MODULE, verb, *options]
        with (
            tempfile.TemporaryFile() as said,
            self._cluster.piped(*command, stderr=said) as process,
        ):
            feeding = _Feeding(process.stdin, given, frames)
            feeding.start()
            try:
                yield from read_frames(process.stdout.read)
            except BackupProblem as problem:
                if feeding.failure is not None:
                    raise feeding.failure from problem
                process.wait()
                said.seek(0)
                words = said.read().decode("utf-8", "replace").strip()
                if words and not problem.reason:
                    problem.reason = words[-600:]
                raise
            feeding.join()


class _Feeding(threading.Thread):
    """Writes what a program reads, while its answers are read."""

    def __init__(self, stdin: IO[bytes], given: Any, frames: Iterable[Frame] | None) -> None:
        super().__init__(daemon=True)
        self._stdin = stdin
        self._given = given
        self._frames = frames
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            if self._frames is not None:
                write_frames(self._frames, self._stdin.write)
            elif self._given is not None:
                self._stdin.write(json.dumps(self._given).encode())
        except (BrokenPipeError, ValueError):
            pass  # why it reads no more is in its answer
        except BaseException as failure:  # noqa: BLE001  raised where the answers are read
            self.failure = failure
        finally:
            with suppress(OSError, ValueError):
                self._stdin.close()


def _without_probes(pod: dict[str, Any]) -> dict[str, Any]:
    [container] = pod["spec"]["containers"]
    for probe in _PROBES:
        container.pop(probe, None)
    pod["spec"].pop("topologySpreadConstraints", None)
    return pod
