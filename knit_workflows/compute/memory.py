"""The in-memory back-end: run pods are Python callables or scripted exits, volumes are folders.

It passes the same contract suite as the real back-ends and ships for tests of Plans, hooks and
clients. What it runs ends with its process.
"""

from __future__ import annotations

import asyncio
import inspect
import shutil
import tempfile
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from knit_workflows import archive
from knit_workflows.archive.scan import scan, scan_note
from knit_workflows.compute.adopted_folders import (
    adoptable_folder,
    bytes_on_disk,
    is_adopted,
    refuse_change,
)
from knit_workflows.compute.base import (
    MANY_RUNS,
    Endpoint,
    FoundVolume,
    Launch,
    Observation,
    Phase,
    RunLimits,
    RunPod,
    StartFailure,
    Transfer,
    TransferMode,
    Trial,
    oom_note,
)
from knit_workflows.compute.checks import check_resources, sentence
from knit_workflows.domain.errors import (
    BackendRejected,
    DataExists,
    StorageFull,
    VolumeRefused,
)
from knit_workflows.domain.runs.milestones import Milestone, Timeline
from knit_workflows.domain.runs.run import SUCCEEDED, Exit
from knit_workflows.domain.volumes import Volume, VolumeOptions

Behaviour = Callable[[RunPod], Awaitable[Exit] | Exit]
"""What a run pod does: called once, at the start of the pod; an exception means exit code 1."""


@dataclass(slots=True)
class _Entry:
    """One run pod; without `exit` it is running, or pending while it has a start failure."""

    pod: RunPod
    exit: Exit | None = None
    timeline: Timeline = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    start_failure: StartFailure | None = None
    work: asyncio.Task[None] | None = None
    cancelled: bool = False


class MemoryBackend:
    """A `ComputeBackend` in this process.

    `behaviour` says what pods do and how they end; without one they succeed at once. `launches`
    lists the pods that were started, in order, so that a test can check that none was started
    twice. `hold`, `finish`, `take_away`, `lose` and `set_start_failure` let a test play the
    outside world.
    `folder` is where volumes get their files (default: a temporary folder, made when first needed).
    """

    def __init__(self, behaviour: Behaviour | None = None, *, folder: Path | None = None) -> None:
        self._behaviour = behaviour
        self._root = folder
        self._entries: dict[str, _Entry] = {}
        self._volumes: dict[str, Path | None] = {}
        self._asked: dict[str, VolumeOptions] = {}
        self._origins: dict[str, str] = {}
        self._logs: set[str] = set()
        self._transfers: set[str] = set()
        self._subscribers: dict[str, set[asyncio.Event]] = {}
        self._held: set[str] = set()
        self._hold_all = False
        self._start_failures: dict[str, StartFailure] = {}
        self._launches: list[str] = []
        self.storage_full_reason = ""
        """Set by a test: why nothing new may begin."""

    # --- what a test sees and does -------------------------------------------------------------

    @property
    def launches(self) -> list[str]:
        """Names of the pods that were started, in order."""
        return list(self._launches)

    @property
    def volumes(self) -> list[str]:
        """The names of the volumes there are, oldest first."""
        return list(self._volumes)

    def pod(self, pod_name: str) -> RunPod:
        """Gives a pod as it was launched; raises KeyError when there is none."""
        return self._entries[pod_name].pod

    def hold(self, *pod_names: str) -> None:
        """Lets these pods (all, when none is named) run until `finish`, once they are launched."""
        self._held.update(pod_names)
        self._hold_all = self._hold_all or not pod_names

    def finish(
        self,
        pod_name: str,
        exit: Exit = SUCCEEDED,
        *,
        lingering: bool = False,
        oom_killed: bool = False,
        disruption: str = "",
    ) -> None:
        """Ends a launched pod now; one that has ended stays as it is; raises KeyError.

        `Observation` says what the other arguments mean.
        """
        entry = self._entries[pod_name]
        about = {"lingering": lingering, "oom_killed": oom_killed, "disruption": disruption}
        self._end(entry, exit, about)
        self._cancel(entry)

    def take_away(self, pod_name: str, why: str) -> None:
        """Begins to take a running pod away, which nobody confirms; raises KeyError."""
        self._entries[pod_name].about = {"disruption": why}
        self._notify(pod_name)

    def lose(self, pod_name: str) -> None:
        """Lets a pod vanish without a trace, as if its machine had died."""
        self._remove(pod_name)

    def set_start_failure(self, pod_name: str, failure: StartFailure | None) -> None:
        """Keeps a pod pending for this reason, before or after its launch; None lets it start."""
        if failure is None:
            self._start_failures.pop(pod_name, None)
        else:
            self._start_failures[pod_name] = failure
        entry = self._entries.get(pod_name)
        if entry is not None:
            entry.start_failure = failure
            if failure is None and entry.exit is None and entry.work is None:
                self._start(entry)
        self._notify(pod_name)

    def folder(self, volume: Volume) -> Path:
        """Gives the folder with a volume's files; raises KeyError when there is no such volume."""
        if is_adopted(volume):
            if not Path(volume.name).is_dir():
                raise KeyError(volume.name)
            return Path(volume.name)
        made = self._volumes[volume.name]
        if made is None:
            made = self._volumes[volume.name] = self._volumes_root() / volume.name
            made.mkdir()
            if volume.name in self._logs:
                (made / "log").touch()
        return made

    # --- the contract --------------------------------------------------------------------------

    def suggested_runs(self) -> RunLimits:
        """Gives many: what runs here costs next to nothing."""
        return RunLimits.always(MANY_RUNS)

    def is_at_hand(self) -> bool:
        """Says yes."""
        return True

    def warm_pool(self) -> None:
        """Gives none: a volume is there at once."""

    async def open(self) -> None:
        """Does nothing: there is nothing to connect to."""

    async def aclose(self) -> None:
        """Does nothing: pods run on."""

    async def require_room(self) -> None:
        """Raises StorageFull if `storage_full_reason` is set."""
        if self.storage_full_reason:
            raise StorageFull(self.storage_full_reason)

    async def create_volume(self, volume: Volume) -> VolumeOptions:
        """Creates an empty volume; its folder is made when first asked for."""
        refuse_change(volume)
        self._volumes.setdefault(volume.name, None)
        self._origins.setdefault(volume.name, volume.origin)
        return self._asked.setdefault(volume.name, volume.options)

    async def own_volumes(self, *, with_origins: bool = False) -> AsyncGenerator[FoundVolume, None]:
        """Yields all volumes."""
        for name in list(self._volumes):
            yield FoundVolume(name, origin=self._origins.get(name, "") if with_origins else "")

    async def delete_volume(self, volume: Volume) -> None:
        """Removes a volume and its files."""
        refuse_change(volume)
        path = self._volumes.pop(volume.name, None)
        self._origins.pop(volume.name, None)
        self._asked.pop(volume.name, None)
        self._logs.discard(volume.name)
        if path is not None:
            await asyncio.to_thread(archive.remove, path)

    async def missing_volumes(self, volumes: Sequence[Volume]) -> list[Volume]:
        """Looks which have a name here; that of others is a folder."""
        return [one for one in volumes if not is_adopted(one) and one.name not in self._volumes]

    async def adoptable(self, name: str) -> str:
        """Takes any folder of this machine but its own."""
        return adoptable_folder(name, allowed=[Path("/")], own=self._volumes_root())

    async def require_bound(self, volume: Volume, *, within: timedelta) -> None:
        """Looks whether there is such a volume."""
        if volume.name not in self._volumes:
            raise VolumeRefused(f"there is no volume {volume.name}", advice="make it first")

    async def measure_volume(self, volume: Volume) -> int | None:
        """Adds up what the files take up on the disk."""
        known = is_adopted(volume) or volume.name in self._volumes
        return bytes_on_disk(self.folder(volume)) if known else None

    async def launch(self, pod: RunPod) -> Launch:
        """Starts a pod's behaviour, unless the pod is there already; warns of nothing."""
        self._check(pod)
        if pod.name in self._entries:
            return Launch(options=self._entries[pod.name].pod.options)
        entry = self._entries[pod.name] = _Entry(pod)
        entry.start_failure = self._start_failures.get(pod.name)
        if entry.start_failure is None:
            self._start(entry)
        self._notify(pod.name)
        return Launch(options=pod.options)

    async def try_launch(self, pod: RunPod) -> Trial:
        """Looks at the resources; there is nothing else that could be refused."""
        try:
            check_resources(pod)
        except BackendRejected as refused:
            return Trial(refusals=(sentence(refused),))
        return Trial(unchecked=("this back-end runs no container, so it refuses nothing else",))

    async def observe(self, pod_name: str) -> Observation:
        """Says how a pod is now."""
        return self._observation(pod_name)

    async def watch(self, pod_name: str) -> AsyncGenerator[Observation, None]:
        """Yields the present observation and each change."""
        changed = asyncio.Event()
        self._subscribers.setdefault(pod_name, set()).add(changed)
        last: Observation | None = None
        try:
            while True:
                changed.clear()
                now = self._observation(pod_name)
                if now != last:
                    last = now
                    yield now
                await changed.wait()
        finally:
            others = self._subscribers[pod_name]
            others.discard(changed)
            if not others:
                del self._subscribers[pod_name]

    async def stop(self, pod_name: str, *, grace: timedelta) -> None:
        """Cancels a pod's behaviour and forgets the pod once it has let go; `grace` is not used."""
        entry = self._entries.get(pod_name)
        if entry is not None and not self._cancel(entry):
            self._remove(pod_name)

    async def release(self, pod_name: str) -> None:
        """Forgets a pod; its volumes stay."""
        self._remove(pod_name)

    async def open_transfer(self, transfer: Transfer) -> Endpoint:
        """Gives the folder of the volume."""
        if transfer.mode is TransferMode.WRITE:
            refuse_change(transfer.volume)
        try:
            folder = self.folder(transfer.volume)
        except KeyError:
            raise BackendRejected(f"there is no volume {transfer.volume.name}") from None
        if transfer.name not in self._transfers:
            if transfer.mode is TransferMode.WRITE and any(folder.iterdir()):
                raise DataExists(see=transfer.volume.knit_id)
            self._transfers.add(transfer.name)
        return Endpoint(folder.resolve().as_uri())

    async def close_transfer(self, transfer: Transfer) -> None:
        """Forgets the transfer."""
        self._transfers.discard(transfer.name)

    async def run_pods(self) -> list[str]:
        """Names of all pods that were launched and not released."""
        return list(self._entries)

    # --- how it works --------------------------------------------------------------------------

    def _check(self, pod: RunPod) -> None:
        check_resources(pod)
        written = (*(mount.volume for mount in pod.outputs), *([pod.log] if pod.log else []))
        for volume in written:
            refuse_change(volume)
        for volume in (*(mount.volume for mount in pod.inputs), *written):
            there = Path(volume.name).is_dir() if is_adopted(volume) else False
            if not there and volume.name not in self._volumes:
                raise BackendRejected(f"there is no volume {volume.name}", see=volume.knit_id)

    def _start(self, entry: _Entry) -> None:
        name = entry.pod.name
        self._launches.append(name)
        refusal = self._output_not_empty(entry.pod)
        if refusal is not None:
            self._end(entry, refusal)
        elif self._hold_all or name in self._held:
            return
        elif self._behaviour is None:
            self._end(entry, SUCCEEDED)
        else:
            entry.work = asyncio.get_running_loop().create_task(self._work(entry, self._behaviour))

    def _output_not_empty(self, pod: RunPod) -> Exit | None:
        for mount in pod.outputs:
            if self._has_content(mount.volume):
                return Exit(1, f"(container init-main) the output {mount.path} is not empty")
        if pod.log and self._has_content(pod.log):
            return Exit(1, "(container init-log) the log is not empty")
        return None

    def _has_content(self, volume: Volume) -> bool:
        path = self._volumes.get(volume.name)
        return path is not None and any(path.iterdir())

    def _scan(self, pod: RunPod) -> tuple[str, ...]:
        outputs = sorted(
            (mount.path, self._volumes.get(mount.volume.name)) for mount in pod.outputs
        )
        return tuple(filter(None, (scan_note(path, scan(one)) for path, one in outputs if one)))

    async def _work(self, entry: _Entry, behaviour: Behaviour) -> None:
        try:
            result = behaviour(entry.pod)
            exit = await result if inspect.isawaitable(result) else result
        except asyncio.CancelledError:
            self._remove_if_same(entry)
            raise
        except Exception as error:  # noqa: BLE001 — whatever user code raises is how its pod ends
            exit = Exit(1, f"(container main) {type(error).__name__}: {error}")
        self._end(entry, exit)

    def _end(self, entry: _Entry, exit: Exit, about: Mapping[str, Any] | None = None) -> None:
        if entry.exit is not None:
            return
        log = entry.pod.log
        if log:
            folder = self._volumes.get(log.name)
            if folder is not None:
                with suppress(FileNotFoundError):
                    (folder / "log").touch()
            self._logs.add(log.name)
        entry.about = about or {}
        now = datetime.now(UTC)
        entry.exit, entry.timeline = exit, {Milestone.ENDED: now, Milestone.LOGGED: now}
        entry.notes = self._scan(entry.pod)
        if entry.about.get("oom_killed"):
            entry.notes += (oom_note(),)
        self._notify(entry.pod.name)

    def _cancel(self, entry: _Entry) -> bool:
        """Says whether the pod has to let go first; it removes itself then, unless it ended."""
        if entry.work is None or entry.work.done():
            return False
        # Once: a second time would interrupt its clean-up.
        if not entry.cancelled:
            entry.cancelled = entry.work.cancel()
        return True

    def _remove_if_same(self, entry: _Entry) -> None:
        if entry.exit is None and self._entries.get(entry.pod.name) is entry:
            self._remove(entry.pod.name)

    def _remove(self, pod_name: str) -> None:
        entry = self._entries.pop(pod_name, None)
        if entry is not None:
            self._cancel(entry)
        self._notify(pod_name)

    def _observation(self, pod_name: str) -> Observation:
        entry = self._entries.get(pod_name)
        if entry is None:
            return Observation(Phase.ABSENT)
        if entry.exit is not None:
            phase = Phase.SUCCEEDED if entry.exit.code == 0 else Phase.FAILED
            return Observation(
                phase, exit=entry.exit, timeline=entry.timeline, notes=entry.notes, **entry.about
            )
        if entry.start_failure is not None:
            return Observation(Phase.PENDING, start_failure=entry.start_failure)
        return Observation(Phase.RUNNING, **entry.about)

    def _notify(self, pod_name: str) -> None:
        for changed in self._subscribers.get(pod_name, ()):
            changed.set()

    def _volumes_root(self) -> Path:
        if self._root is None:
            made = tempfile.mkdtemp(prefix="knit-volumes-")
            weakref.finalize(self, shutil.rmtree, made, ignore_errors=True)
            self._root = Path(made)
        self._root.mkdir(parents=True, exist_ok=True)
        return self._root
