"""The local back-end: every call of the compute contract, on folders, sandboxes and containers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from knit_workflows.archive.scan import scan, scan_note
from knit_workflows.compute.adopted_folders import (
    adoptable_folder,
    bytes_on_disk,
    refuse_change,
)
from knit_workflows.compute.base import (
    Endpoint,
    FoundVolume,
    Launch,
    Observation,
    Phase,
    RunLimits,
    RunPod,
    StartFailure,
    StartFailureKind,
    Transfer,
    Trial,
)
from knit_workflows.compute.checks import sentence
from knit_workflows.compute.local import launching, machine, pod_folder, stopping
from knit_workflows.compute.local.durability import FEW, SharedSyncs, sync_few, sync_log
from knit_workflows.compute.local.engine import EngineFinder
from knit_workflows.compute.local.folder_watcher import FolderWatcher
from knit_workflows.compute.local.folders import StateFolder, disk_errors
from knit_workflows.compute.local.host import is_host_image
from knit_workflows.compute.local.observing import observation_of
from knit_workflows.compute.local.pausing import Pauser
from knit_workflows.compute.local.pod_folder import SupervisorState
from knit_workflows.compute.local.process_exit import ChildReaper, ProcessExitWatcher
from knit_workflows.compute.local.start_failures import BACKEND_AWAY
from knit_workflows.disk import require_room
from knit_workflows.domain.errors import BackendRejected, BackendUnavailable
from knit_workflows.domain.os_errors import reason_of
from knit_workflows.domain.plans.options import PodOptions
from knit_workflows.domain.volumes import AS_INSTALLED, Volume, VolumeOptions
from knit_workflows.settings import LocalSettings

log = logging.getLogger(__name__)

_ABSENT: Final = Observation(Phase.ABSENT)
_RESTARTED: Final = Observation(Phase.ABSENT, disruption="the machine was restarted")
_RUNNING: Final = Observation(Phase.RUNNING)
_STALLED: Final = StartFailure(
    StartFailureKind.BACKEND,
    BACKEND_AWAY,
    "what was asked to start the container has reported nothing; it may hang, or be overloaded",
)
_UNCHECKED: Final = (
    "whether the image is there, or can be pulled, shows when a Run starts",
    "nothing here has nodes, service accounts or quotas; a cluster may refuse more",
)
_UNWATCHED_INTERVAL: Final = 1.0
_ORPHANED_INTERVAL: Final = 0.1
_ENDED_INTERVAL: Final = 0.002
"""Seconds between two observations of what sends no notification: a folder that the kernel does not
watch, a pod whose supervisor has ended, processes that are about to vanish."""


class LocalBackend:
    """A `ComputeBackend` on this machine; see `LocalSettings`.

    What it starts outlives it: another object on the same state folder, now or later, finds the
    same pods, exits and logs. `on_node`, `service_account` and all options but
    `shm_size` are ignored.
    """

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings
        self._state = StateFolder(settings.state)
        self._engines = EngineFinder(settings)
        self._notes: dict[str, tuple[str, ...]] = {}
        self._unwritten: dict[str, str] = {}
        self._syncs = SharedSyncs()
        self._background: set[asyncio.Future[None]] = set()
        self._pauser: asyncio.Task[None] | None = None

    def suggested_runs(self) -> RunLimits:
        """Gives a few per core, fewer where memory is scarce."""
        return machine.suggested_runs()

    def is_at_hand(self) -> bool:
        """Says yes: a launch starts a program, which does the rest."""
        return True

    def warm_pool(self) -> None:
        """Gives none: a volume is there at once."""

    async def open(self) -> None:
        """Creates the state folder and watches it."""
        self._state.make()
        self._watcher = FolderWatcher(self._state.pods)
        self._reaper = ChildReaper()
        self._in_background(self._state.empty_trash)
        if self._settings.min_free_bytes:
            pauser = Pauser(self._state, self._settings.min_free_bytes)
            self._pauser = asyncio.create_task(pauser.run())

    async def aclose(self) -> None:
        """Stops watching; pods run on."""
        if self._pauser is not None:
            self._pauser.cancel()
            await asyncio.wait({self._pauser})
        self._watcher.close()
        self._reaper.close()
        await asyncio.gather(*self._background)
        await self._syncs.aclose()

    # --- volumes and transfers -----------------------------------------------------------------

    async def require_room(self) -> None:
        """Looks at the disk of the state folder."""
        with disk_errors():
            require_room(self._state.path, self._settings.min_free_bytes)

    async def create_volume(self, volume: Volume) -> VolumeOptions:
        """Makes the volume's folder; options of claims mean nothing here."""
        self._state.create_volume(volume)
        return AS_INSTALLED

    async def own_volumes(self, *, with_origins: bool = False) -> AsyncGenerator[FoundVolume, None]:
        """Yields the folders of volumes, which are as old as their last change at most."""
        with closing(self._state.volumes(with_origins=with_origins)) as pages:
            while page := await asyncio.to_thread(next, pages, None):
                for one in page:
                    yield one

    async def delete_volume(self, volume: Volume) -> None:
        """Takes the volume's name away; its files are removed in the background."""
        refuse_change(volume)
        self._discard(self._state.volume_path(volume))
        self._state.forget_origin(volume)

    async def missing_volumes(self, volumes: Sequence[Volume]) -> list[Volume]:
        """Looks which have no folder."""
        return [one for one in volumes if not self._state.volume_path(one).is_dir()]

    async def adoptable(self, name: str) -> str:
        """Looks at the folder itself, but at nothing in it."""
        allowed, own = self._settings.adoptable, self._state.path
        return await asyncio.to_thread(adoptable_folder, name, allowed=allowed, own=own)

    async def require_bound(self, volume: Volume, *, within: timedelta) -> None:
        """Looks whether the importer has made the folder."""
        self._state.require_imported(volume)

    async def measure_volume(self, volume: Volume) -> int | None:
        """Adds up what the files take up on the disk."""
        return await asyncio.to_thread(bytes_on_disk, self._state.volume_path(volume))

    async def open_transfer(self, transfer: Transfer) -> Endpoint:
        """Gives the volume's folder."""
        return Endpoint(self._state.open_transfer(transfer).as_uri())

    async def close_transfer(self, transfer: Transfer) -> None:
        """Forgets the transfer."""
        self._state.close_transfer(transfer)

    # --- run pods ------------------------------------------------------------------------------

    async def launch(self, pod: RunPod) -> Launch:
        """Starts the pod's supervisor, which starts the sandbox or the container; never warns."""
        own = pod.options
        used = Launch(options=PodOptions(shm_size=own.shm_size, relaunches=own.relaunches))
        if launching.was_started(self._state.pod(pod.name)):
            return used
        launching.check(pod, self._state)
        engine = None if is_host_image(pod.image) else await self._engines.engine()
        command = launching.supervisor_command(pod, self._state, self._settings, engine)
        await asyncio.to_thread(self._launch, pod, command)
        return used

    def _launch(self, pod: RunPod, command: launching.SupervisorCommand) -> None:
        pid = launching.launch(pod, command, self._state)
        if pid is not None:
            self._reaper.adopt(pid)

    async def try_launch(self, pod: RunPod) -> Trial:
        """Builds the command that would start it, and starts nothing; finds the engine."""
        state = self._state.as_if_made()
        own = is_host_image(pod.image)
        try:
            launching.check(pod, state)
            engine = None if own else await self._engines.engine()
            launching.supervisor_command(pod, state, self._settings, engine)
        except BackendRejected as refused:
            return Trial(refusals=(sentence(refused),))
        except BackendUnavailable as away:
            return Trial(warnings=(away.reason,), unchecked=_UNCHECKED)
        return Trial(unchecked=_UNCHECKED[own:])

    async def observe(self, pod_name: str) -> Observation:
        """Says how the pod is, from its folder and the processes of the machine."""
        return await self._observe(self._state.pod(pod_name))

    async def watch(self, pod_name: str) -> AsyncGenerator[Observation, None]:
        """Yields the present observation and each change."""
        folder = self._state.pod(pod_name)
        last: Observation | None = None
        with (
            self._watcher.subscribe(pod_name) as changed,
            closing(ProcessExitWatcher(changed.set)) as supervisor,
        ):
            while True:
                changed.clear()
                now = await self._observe(folder)
                if now != last:
                    last = now
                    yield now
                reported = pod_folder.read_state(folder) or SupervisorState()
                supervisor.follow(reported.supervisor)
                with suppress(TimeoutError):
                    async with asyncio.timeout(
                        self._interval(folder, reported, now, supervisor.ended)
                    ):
                        await changed.wait()

    async def stop(self, pod_name: str, *, grace: timedelta) -> None:
        """Sends SIGTERM, has SIGKILL follow after `grace`, even if knit is gone by then."""
        folder = self._state.pod(pod_name)
        try:
            left = pod_folder.request_stop(folder, grace)
        except FileNotFoundError:
            return
        except OSError as error:
            raise BackendUnavailable(f"{pod_name} cannot be stopped: {error}") from error
        reported = pod_folder.read_state(folder)
        if reported is not None and stopping.is_alive(folder, reported):
            await asyncio.to_thread(self._kill, folder, reported, left)
        else:
            await self._observe(folder)

    async def release(self, pod_name: str) -> None:
        """Removes the pod's folder and container; a pod that still runs is killed."""
        folder = self._state.pod(pod_name)
        reported = pod_folder.read_state(folder)
        if reported is None:
            return
        if stopping.is_alive(folder, reported):
            await self.stop(pod_name, grace=timedelta())
            return
        with suppress(FileNotFoundError):  # Released by somebody else in this very moment.
            engine = stopping.read_launch_record(folder).engine
            if engine is not None and reported.supervisor is not None:
                await self._engines.remove(engine, pod_name)
        self._discard(folder)

    async def run_pods(self) -> list[str]:
        """Names of all pods that have a folder."""
        return self._state.pod_names()

    # --- how a pod is --------------------------------------------------------------------------

    async def _observe(self, folder: Path) -> Observation:
        with disk_errors():
            try:
                return await self._observe_unguarded(folder)
            except FileNotFoundError:  # removed meanwhile
                return _ABSENT

    async def _observe_unguarded(self, folder: Path) -> Observation:
        reported = pod_folder.read_state(folder)
        if reported is None:
            return _ABSENT
        if stopping.is_alive(folder, reported):
            await self._kill_if_due(folder, reported)
            return (
                _RUNNING
                if reported.ended
                else _with_stall(_reported(folder, reported), folder, self._settings.stalled_after)
            )
        if pod_folder.read_state(folder) != reported:
            return await self._observe_unguarded(folder)  # it has changed meanwhile
        stopped = pod_folder.stop_deadline(folder) is not None
        readable = stopping.read_launch_record(folder).readable
        if reported.ended and readable and not stopped:
            ended = _reported(folder, reported)
            return replace(ended, notes=(*await self._notes_of(folder), *ended.notes))
        if not stopping.is_gone(folder, reported):
            await asyncio.to_thread(self._kill, folder, reported, 0.0)
            return _RUNNING
        if stopped:
            self._discard(folder)
            return _ABSENT
        # It was lost; its folder stays, so that it is never started again.
        restarted = not readable or stopping.is_of_earlier_boot(folder, reported)
        return _RESTARTED if restarted else _ABSENT

    async def _kill_if_due(self, folder: Path, reported: SupervisorState) -> None:
        """Finishes a stop that a killed knit has begun; kills what has lost its supervisor."""
        deadline = pod_folder.stop_deadline(folder)
        overdue = deadline is not None and (not reported.running or pod_folder.is_overdue(deadline))
        if overdue or reported.ended or stopping.is_orphaned(folder, reported):
            await asyncio.to_thread(self._kill, folder, reported, 0.0)

    def _kill(self, folder: Path, reported: SupervisorState, left: float) -> None:
        with suppress(FileNotFoundError):
            pid = stopping.kill(folder, reported, left, self._settings.environment)
            if pid is not None:
                self._reaper.adopt(pid)

    async def _notes_of(self, folder: Path) -> tuple[str, ...]:
        """Syncs log and outputs to the disk before the end is reported; gives the notes on them."""
        known = self._notes.get(folder.name)
        if known is None:
            record = stopping.read_launch_record(folder)
            try:
                known = await self._kept(record)
            except OSError as error:
                self._unwritten[folder.name] = reason_of(error)
                raise
            unwritten = self._unwritten.pop(folder.name, "")
            if unwritten:  # the kernel reports it once, and may have dropped what it concerns
                told = f"files may be incomplete: the disk has reported an error: {unwritten}"
                known = (told, *known)
            self._notes[folder.name] = known
        return known

    async def _kept(self, record: stopping.LaunchRecord) -> tuple[str, ...]:
        notes, synced = await asyncio.to_thread(_scan_and_sync_few, record)
        if not synced:
            await asyncio.gather(*map(self._syncs.sync, record.outputs.values()))
        return notes

    def _interval(
        self, folder: Path, reported: SupervisorState, now: Observation, supervisor_ended: bool
    ) -> float:
        if now.phase in (Phase.PENDING, Phase.RUNNING):
            if reported.ended:
                return _ENDED_INTERVAL
            if supervisor_ended:
                return _ORPHANED_INTERVAL
        longest = (
            _UNWATCHED_INTERVAL
            if self._watcher.incomplete
            else self._settings.resync_period.total_seconds()
        )
        deadline = pod_folder.stop_deadline(folder)
        if deadline is None:
            return longest
        left = deadline - time.clock_gettime(time.CLOCK_BOOTTIME)
        return min(longest, max(_ORPHANED_INTERVAL, left))

    # --- in the background ---------------------------------------------------------------------

    def _discard(self, folder: Path) -> None:
        trashed = self._state.move_to_trash(folder)
        self._notes.pop(folder.name, None)
        self._unwritten.pop(folder.name, None)
        if trashed is not None:
            self._in_background(lambda: self._state.remove(trashed))

    def _in_background(self, task: Callable[[], None]) -> None:
        future = asyncio.get_running_loop().run_in_executor(None, _attempt, task)
        self._background.add(future)
        future.add_done_callback(self._background.discard)


def _reported(folder: Path, reported: SupervisorState) -> Observation:
    image = stopping.read_launch_record(folder).image if reported.image else ""
    return observation_of(reported, image)


def _with_stall(observation: Observation, folder: Path, after: timedelta) -> Observation:
    """Adds a reason to a pod that has been pending without one for too long."""
    if observation.phase is not Phase.PENDING or observation.start_failure is not None:
        return observation
    since = time.time() - (folder / pod_folder.STATE).stat().st_mtime
    return (
        observation
        if since < after.total_seconds()
        else replace(observation, start_failure=_STALLED)
    )


def _attempt(task: Callable[[], None]) -> None:
    try:
        task()
    except Exception:
        # Nobody waits for it; the next start of knit tries again.
        log.exception("could not empty the trash", extra={"action": "trash_kept"})


def _scan_and_sync_few(record: stopping.LaunchRecord) -> tuple[tuple[str, ...], bool]:
    """Scans the outputs; syncs the log, and them if they are few. False: they are still to be."""
    if record.log is not None:
        sync_log(record.log)
    scans = {path: scan(folder) for path, folder in sorted(record.outputs.items())}
    notes = tuple(filter(None, (scan_note(path, found) for path, found in scans.items())))
    total = sum(found.entries for found in scans.values())
    few = total <= FEW and not any(found.incomplete for found in scans.values())
    return notes, few and sync_few([*record.outputs.values()])
