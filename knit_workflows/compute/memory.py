"""The in-memory back-end: run pods are Python callables or scripted outcomes, volumes are folders.

It passes the same contract suite as the real back-ends and ships for tests of Plans, hooks and
clients. Given a `journal`, what it runs outlives the process: see `memory_journal`.
"""

from __future__ import annotations

import asyncio
import inspect
import shutil
import tempfile
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from knit_workflows import archive
from knit_workflows.archive.survey import remark, survey
from knit_workflows.compute.base import (
    MANY_RUNS,
    Endpoint,
    Observation,
    Phase,
    RunPod,
    RunsAtOnce,
    Transfer,
    TransferMode,
    Trouble,
    Volume,
)
from knit_workflows.compute.memory_journal import MemoryJournal
from knit_workflows.domain.errors import BackendRejected, DataExists, InvalidRequest, StorageFull
from knit_workflows.domain.plans.resources import parse_resource
from knit_workflows.domain.runs import SUCCEEDED, Exit

Behaviour = Callable[[RunPod], Awaitable[Exit] | Exit]
"""What a run pod does: called once per pod, at its start; an exception is taken for exit code 1."""

_REREAD: Final = 0.02
"""Seconds between two looks into a journal, where other processes may write."""


@dataclass(slots=True)
class _Entry:
    """One run pod; without `exit` it is running, or pending while it has trouble."""

    pod: RunPod
    exit: Exit | None = None
    ended_at: datetime | None = None
    notes: tuple[str, ...] = ()
    trouble: Trouble | None = None
    work: asyncio.Task[None] | None = None
    cancelled: bool = False


class MemoryBackend:
    """A `ComputeBackend` in this process.

    `behaviour` says what pods do and how they end; without one they succeed at once. `launches`
    lists the pods that were started, in order, so that a test can check that none was started
    twice. `hold`, `finish`, `lose` and `trouble` let a test play the outside world. `folder` is
    where volumes get their files (default: a temporary folder, made when first needed).
    With a `journal`, other processes with the same journal see and control the same pods.
    """

    def __init__(
        self,
        behaviour: Behaviour | None = None,
        *,
        folder: Path | None = None,
        journal: Path | None = None,
    ) -> None:
        self._behaviour = behaviour
        self._journal = MemoryJournal(journal) if journal else None
        self._root = self._journal.volumes if self._journal else folder
        self._entries: dict[str, _Entry] = {}
        self._volumes: dict[str, Path | None] = {}
        self._logs: set[str] = set()
        self._transfers: set[str] = set()
        self._bells: dict[str, set[asyncio.Event]] = {}
        self._held: set[str] = set()
        self._hold_all = False
        self._troubles: dict[str, Trouble] = {}
        self._launches: list[RunPod] = []
        self.short_of_room = ""
        """Why nothing new may begin; set by a test."""

    # --- what a test sees and does -------------------------------------------------------------

    @property
    def launches(self) -> list[str]:
        """Names of the pods that were started, in order; with a journal, by any process."""
        if self._journal:
            return self._journal.starts()
        return [pod.name for pod in self._launches]

    def pod(self, pod_name: str) -> RunPod:
        """Give a pod as it was launched; raises KeyError when there is none."""
        entry = self._entry(pod_name)
        if entry is None:
            raise KeyError(pod_name)
        return entry.pod

    def hold(self, *pod_names: str) -> None:
        """Let these pods (all, when none is named) run until `finish`, once they are launched."""
        if self._journal:
            self._journal.hold(*pod_names)
        self._held.update(pod_names)
        self._hold_all = self._hold_all or not pod_names

    def finish(self, pod_name: str, exit: Exit = SUCCEEDED) -> None:
        """End a launched pod now; one that has ended stays as it is."""
        entry = self._entry(pod_name)
        if entry is None:
            raise KeyError(pod_name)
        self._end(entry, exit)
        self._cancel(entry)

    def lose(self, pod_name: str) -> None:
        """Let a pod vanish without a trace, as if its machine had died."""
        self._remove(pod_name)

    def trouble(self, pod_name: str, trouble: Trouble | None) -> None:
        """Keep a pod pending for this reason, before or after its launch; None lets it start."""
        if trouble is None:
            self._troubles.pop(pod_name, None)
        else:
            self._troubles[pod_name] = trouble
        if self._journal:
            self._journal.set_trouble(pod_name, trouble)
        entry = self._entry(pod_name)
        if entry is not None:
            entry.trouble = trouble
            if trouble is None and entry.exit is None and entry.work is None:
                self._start(entry)
        self._ring(pod_name)

    def folder(self, volume: Volume) -> Path:
        """Give the folder with a volume's files; raises KeyError when there is no such volume."""
        if self._journal:
            path = self._journal.volumes / volume.name
            if not path.is_dir():
                raise KeyError(volume.name)
            return path
        made = self._volumes[volume.name]
        if made is None:
            made = self._volumes[volume.name] = self._volumes_root() / volume.name
            made.mkdir()
            if volume.name in self._logs:
                (made / "log").touch()
        return made

    # --- the contract --------------------------------------------------------------------------

    def suggested_runs(self) -> RunsAtOnce:
        """Give many: what runs here costs next to nothing."""
        return RunsAtOnce.always(MANY_RUNS)

    async def open(self) -> None:
        """Take up what the journal says another process has left behind."""
        for name in self._journal.names() if self._journal else []:
            self._entry(name)

    async def aclose(self) -> None:
        """Do nothing: pods run on."""

    async def require_room(self) -> None:
        """Raise what `short_of_room` says."""
        if self.short_of_room:
            raise StorageFull(self.short_of_room)

    async def create_volume(self, volume: Volume) -> None:
        """Make an empty volume; its folder is made when first asked for."""
        if self._journal:
            (self._journal.volumes / volume.name).mkdir(exist_ok=True)
        self._volumes.setdefault(volume.name, None)

    async def delete_volume(self, volume: Volume) -> None:
        """Remove a volume and its files."""
        path = self._volumes.pop(volume.name, None)
        self._logs.discard(volume.name)
        if self._journal:
            path = self._journal.volumes / volume.name
        if path is not None:
            await asyncio.to_thread(archive.remove, path)

    async def launch(self, pod: RunPod) -> None:
        """Start a pod's behaviour, unless the pod is there already."""
        self._check(pod)
        if self._entry(pod.name) is not None:
            return
        if self._journal:
            # Whoever writes the record is the one who starts the pod.
            self._journal.claim(pod)
            self._entry(pod.name)
        else:
            entry = self._entries[pod.name] = _Entry(pod)
            entry.trouble = self._troubles.get(pod.name)
            if entry.trouble is None:
                self._start(entry)
        self._ring(pod.name)

    async def observe(self, pod_name: str) -> Observation:
        """Say how a pod is now."""
        return self._observation(pod_name)

    async def watch(self, pod_name: str) -> AsyncGenerator[Observation, None]:
        """Yield the present observation and each change."""
        bell = asyncio.Event()
        self._bells.setdefault(pod_name, set()).add(bell)
        last: Observation | None = None
        try:
            while True:
                bell.clear()
                now = self._observation(pod_name)
                if now != last:
                    last = now
                    yield now
                await self._wait(bell)
        finally:
            bells = self._bells[pod_name]
            bells.discard(bell)
            if not bells:
                del self._bells[pod_name]

    async def stop(self, pod_name: str, *, grace: timedelta) -> None:
        """Cancel a pod's behaviour and forget the pod once it has let go; `grace` is not used."""
        if self._journal:
            # The process that carries the pod cancels it when it sees the request.
            self._journal.request_stop(pod_name)
        entry = self._entry(pod_name)
        if entry is not None and not self._cancel(entry):
            self._remove(pod_name)

    async def release(self, pod_name: str) -> None:
        """Forget a pod; its volumes stay."""
        self._remove(pod_name)

    async def open_transfer(self, transfer: Transfer) -> Endpoint:
        """Give the folder of the volume."""
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
        """Forget the transfer."""
        self._transfers.discard(transfer.name)

    async def run_pods(self) -> list[str]:
        """Names of all pods that were launched and not released."""
        return self._journal.names() if self._journal else list(self._entries)

    # --- how it works --------------------------------------------------------------------------

    def _check(self, pod: RunPod) -> None:
        try:
            for name, quantity in pod.resources.items():
                parse_resource(name, quantity, f"resources.{name}")
        except InvalidRequest as cause:
            raise BackendRejected(cause.reason, advice=cause.advice) from cause
        mounts = (*pod.inputs, *pod.outputs)
        for volume in (*(m.volume for m in mounts), *([pod.log] if pod.log else [])):
            known = (
                (self._journal.volumes / volume.name).is_dir()
                if self._journal
                else volume.name in self._volumes
            )
            if not known:
                raise BackendRejected(f"there is no volume {volume.name}", see=volume.knit_id)

    def _entry(self, pod_name: str) -> _Entry | None:
        """Find a pod; with a journal, as the journal has it, taken up if nobody carries it."""
        entry = self._entries.get(pod_name)
        if self._journal is None:
            return entry
        record = self._journal.load(pod_name)
        if record is None:
            if entry is not None:
                self._cancel(entry)
                del self._entries[pod_name]
            return None
        if entry is None:
            entry = self._entries[pod_name] = _Entry(record.pod)
        entry.exit, entry.ended_at, entry.notes = record.exit, record.ended_at, record.notes
        entry.trouble = record.trouble
        if entry.exit is not None:
            self._cancel(entry)  # Another process has finished it.
        if record.stopping and not self._cancel(entry) and self._journal.carry(pod_name):
            self._remove(pod_name)
            return None
        startable = entry.exit is None and entry.trouble is None and entry.work is None
        if startable and self._journal.carry(pod_name):
            self._start(entry)
        return entry

    def _start(self, entry: _Entry) -> None:
        name = entry.pod.name
        if self._journal:
            self._journal.note_start(name)
        else:
            self._launches.append(entry.pod)
        full = self._first_full_output(entry.pod)
        if full is not None:
            self._end(entry, full)
        elif self._hold_all or name in self._held or (self._journal and self._journal.held(name)):
            return
        elif self._behaviour is None:
            self._end(entry, SUCCEEDED)
        else:
            entry.work = asyncio.get_running_loop().create_task(self._work(entry, self._behaviour))

    def _first_full_output(self, pod: RunPod) -> Exit | None:
        for mount in pod.outputs:
            if self._has_content(mount.volume):
                return Exit(1, f"(container init-main) the output {mount.path} is not empty")
        if pod.log and self._has_content(pod.log):
            return Exit(1, "(container init-log) the log is not empty")
        return None

    def _has_content(self, volume: Volume) -> bool:
        path = self._path(volume)
        return path is not None and any(path.iterdir())

    def _survey(self, pod: RunPod) -> tuple[str, ...]:
        outputs = sorted((mount.path, self._path(mount.volume)) for mount in pod.outputs)
        return tuple(filter(None, (remark(path, survey(one)) for path, one in outputs if one)))

    def _path(self, volume: Volume) -> Path | None:
        """Give the folder of a volume, None as long as it has no need of any."""
        if self._journal:
            return self._journal.volumes / volume.name
        return self._volumes.get(volume.name)

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

    def _end(self, entry: _Entry, exit: Exit) -> None:
        if entry.exit is not None:
            return
        log = entry.pod.log
        if log:
            folder = self._volumes.get(log.name)
            if self._journal:
                folder = self._journal.volumes / log.name
            if folder is not None:
                with suppress(FileNotFoundError):
                    (folder / "log").touch()
            self._logs.add(log.name)
        entry.exit, entry.ended_at = exit, datetime.now(UTC)
        entry.notes = self._survey(entry.pod)
        if self._journal:
            self._journal.finish(entry.pod.name, exit, entry.ended_at, entry.notes)
        self._ring(entry.pod.name)

    def _cancel(self, entry: _Entry) -> bool:
        """Give whether the pod has to let go first; it removes itself then, unless it has ended."""
        if entry.work is None or entry.work.done():
            return False
        # Once: a second time would interrupt its tidying up.
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
        if self._journal:
            self._journal.remove(pod_name)
        self._ring(pod_name)

    def _observation(self, pod_name: str) -> Observation:
        entry = self._entry(pod_name)
        if entry is None:
            return Observation(Phase.ABSENT)
        if entry.exit is not None:
            phase = Phase.SUCCEEDED if entry.exit.code == 0 else Phase.FAILED
            return Observation(phase, exit=entry.exit, ended_at=entry.ended_at, notes=entry.notes)
        if entry.trouble is not None:
            return Observation(Phase.PENDING, trouble=entry.trouble)
        return Observation(Phase.RUNNING)

    def _ring(self, pod_name: str) -> None:
        for bell in self._bells.get(pod_name, ()):
            bell.set()

    async def _wait(self, bell: asyncio.Event) -> None:
        if self._journal is None:
            await bell.wait()
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_REREAD):
                await bell.wait()

    def _volumes_root(self) -> Path:
        if self._root is None:
            made = tempfile.mkdtemp(prefix="knit-volumes-")
            weakref.finalize(self, shutil.rmtree, made, ignore_errors=True)
            self._root = Path(made)
        self._root.mkdir(parents=True, exist_ok=True)
        return self._root
