"""The local back-end: every call of the compute contract, on folders, sandboxes and containers."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from knit_workflows.archive.survey import remark, survey
from knit_workflows.compute.base import (
    Endpoint,
    Observation,
    Phase,
    RunPod,
    RunsAtOnce,
    Transfer,
    Trouble,
    TroubleKind,
    Volume,
)
from knit_workflows.compute.local import launching, machine, pod_folder, stopping
from knit_workflows.compute.local.children import Children, Deaths
from knit_workflows.compute.local.engine import EngineFinder
from knit_workflows.compute.local.folders import StateFolder, disk_errors
from knit_workflows.compute.local.host import is_host_image
from knit_workflows.compute.local.notices import PodNotices
from knit_workflows.compute.local.observing import observation_of
from knit_workflows.compute.local.pausing import Pauser
from knit_workflows.compute.local.pod_folder import Account
from knit_workflows.compute.local.settings import LocalSettings
from knit_workflows.compute.local.troubles import BACKEND_AWAY
from knit_workflows.disk import require_room
from knit_workflows.domain.errors import BackendUnavailable

log = logging.getLogger(__name__)

_ABSENT: Final = Observation(Phase.ABSENT)
_RUNNING: Final = Observation(Phase.RUNNING)
_SILENT: Final = 20.0
"""Seconds in which an engine, or a sandbox, has started or said something."""
_NOTHING_HEARD: Final = Trouble(
    TroubleKind.BACKEND,
    BACKEND_AWAY,
    "nothing is heard of what was asked to start the container; it may hang, or be overloaded",
)
_BLIND: Final = 1.0
_SOON: Final = 0.1
_VERY_SOON: Final = 0.002
"""Seconds between two looks at what is about to vanish, of which no notification comes."""


class LocalBackend:
    """A `ComputeBackend` on this machine; see `LocalSettings`.

    What it starts outlives it: another object on the same state folder, now or later, finds the
    same pods, ends and logs. `on_node` and `service_account` have no meaning here.
    """

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings
        self._state = StateFolder(settings.state)
        self._engines = EngineFinder(settings)
        self._notes: dict[str, tuple[str, ...]] = {}
        self._chores: set[asyncio.Future[None]] = set()
        self._pausing: asyncio.Task[None] | None = None

    def suggested_runs(self) -> RunsAtOnce:
        """Give some per core, and fewer where memory is scarce."""
        return machine.suggested_runs()

    async def open(self) -> None:
        """Make the state folder and listen to it."""
        self._state.make()
        self._notices = PodNotices(self._state.pods)
        self._children = Children()
        self._do_later(self._state.empty_trash)
        if self._settings.floor:
            pauser = Pauser(self._state, self._settings.floor)
            self._pausing = asyncio.create_task(pauser.run())

    async def aclose(self) -> None:
        """Stop listening; pods run on."""
        if self._pausing is not None:
            self._pausing.cancel()
            await asyncio.wait({self._pausing})
        self._notices.close()
        self._children.close()
        await asyncio.gather(*self._chores)

    # --- volumes and transfers -----------------------------------------------------------------

    async def require_room(self) -> None:
        """Look at the disk of the state folder."""
        with disk_errors():
            require_room(self._state.path, self._settings.floor)

    async def create_volume(self, volume: Volume) -> None:
        """Make the volume's folder."""
        self._state.create_volume(volume)

    async def delete_volume(self, volume: Volume) -> None:
        """Take the volume's name away; its files are removed in the background."""
        self._discard(self._state.volume_path(volume))

    async def open_transfer(self, transfer: Transfer) -> Endpoint:
        """Give the volume's folder."""
        return Endpoint(self._state.open_transfer(transfer).as_uri())

    async def close_transfer(self, transfer: Transfer) -> None:
        """Forget the transfer."""
        self._state.close_transfer(transfer)

    # --- run pods ------------------------------------------------------------------------------

    async def launch(self, pod: RunPod) -> None:
        """Start the pod's supervisor, which starts the sandbox or the container."""
        if launching.was_started(self._state.pod(pod.name)):
            return
        launching.check(pod, self._state)
        engine = None if is_host_image(pod.image) else await self._engines.engine()
        start = launching.start_of(pod, self._state, self._settings, engine)
        await asyncio.to_thread(self._launch, pod, start)

    def _launch(self, pod: RunPod, start: launching.Start) -> None:
        pid = launching.launch(pod, start, self._state)
        if pid is not None:
            self._children.adopt(pid)

    async def observe(self, pod_name: str) -> Observation:
        """Say how the pod is, from its folder and the processes of the machine."""
        return await self._observe(self._state.pod(pod_name))

    async def watch(self, pod_name: str) -> AsyncGenerator[Observation, None]:
        """Yield the present observation and each change."""
        folder = self._state.pod(pod_name)
        last: Observation | None = None
        with (
            self._notices.ringing(pod_name) as bell,
            closing(Deaths(bell.set)) as supervisor,
        ):
            while True:
                bell.clear()
                now = await self._observe(folder)
                if now != last:
                    last = now
                    yield now
                account = pod_folder.read_account(folder) or Account()
                supervisor.follow(account.supervisor)
                with suppress(TimeoutError):
                    async with asyncio.timeout(
                        self._patience(folder, account, now, supervisor.ended)
                    ):
                        await bell.wait()

    async def stop(self, pod_name: str, *, grace: timedelta) -> None:
        """Send SIGTERM, have SIGKILL follow after `grace`, even if knit is gone by then."""
        folder = self._state.pod(pod_name)
        try:
            left = pod_folder.request_stop(folder, grace)
        except FileNotFoundError:
            return
        except OSError as error:
            raise BackendUnavailable(f"{pod_name} cannot be stopped: {error}") from error
        account = pod_folder.read_account(folder)
        if account is not None and stopping.is_alive(folder, account):
            await asyncio.to_thread(self._kill, folder, account, left)
        else:
            await self._observe(folder)

    async def release(self, pod_name: str) -> None:
        """Remove the pod's folder and container; a pod that still runs is killed."""
        folder = self._state.pod(pod_name)
        account = pod_folder.read_account(folder)
        if account is None:
            return
        if stopping.is_alive(folder, account):
            await self.stop(pod_name, grace=timedelta())
            return
        with suppress(FileNotFoundError):  # Released by somebody else in this very moment.
            engine = stopping.read_asked(folder).engine
            if engine is not None and account.supervisor is not None:
                await self._engines.remove(engine, pod_name)
        self._discard(folder)

    async def run_pods(self) -> list[str]:
        """Names of all pods that have a folder."""
        return self._state.pod_names()

    # --- how a pod is --------------------------------------------------------------------------

    async def _observe(self, folder: Path) -> Observation:
        with disk_errors():
            try:
                return await self._look(folder)
            except FileNotFoundError:  # Removed while we looked.
                return _ABSENT

    async def _look(self, folder: Path) -> Observation:
        account = pod_folder.read_account(folder)
        if account is None:
            return _ABSENT
        if stopping.is_alive(folder, account):
            await self._kill_if_due(folder, account)
            return _RUNNING if account.ended else _with_silence(observation_of(account), folder)
        if pod_folder.read_account(folder) != account:
            return await self._look(folder)  # It went on, or ended, between the two looks.
        stopped = pod_folder.stop_deadline(folder) is not None
        if account.ended and not stopped:
            return replace(observation_of(account), notes=await self._settled(folder))
        if not stopping.is_gone(folder, account):
            await asyncio.to_thread(self._kill, folder, account, 0.0)
            return _RUNNING
        if stopped:
            self._discard(folder)
        # Otherwise it was lost; its folder stays, so that it is never started again.
        return _ABSENT

    async def _kill_if_due(self, folder: Path, account: Account) -> None:
        """Do what a killed knit has left undone, and end what nobody supervises any more."""
        deadline = pod_folder.stop_deadline(folder)
        overdue = deadline is not None and (not account.running or pod_folder.is_overdue(deadline))
        if overdue or account.ended or stopping.is_orphaned(account):
            await asyncio.to_thread(self._kill, folder, account, 0.0)

    def _kill(self, folder: Path, account: Account, left: float) -> None:
        with suppress(FileNotFoundError):
            pid = stopping.kill(folder, account, left, self._settings.environment)
            if pid is not None:
                self._children.adopt(pid)

    async def _settled(self, folder: Path) -> tuple[str, ...]:
        """Have the log on the disk before anybody hears of the end; give what to say of outputs."""
        known = self._notes.get(folder.name)
        if known is None:
            asked = stopping.read_asked(folder)
            known = self._notes[folder.name] = await asyncio.to_thread(_settle, asked)
        return known

    def _patience(
        self, folder: Path, account: Account, now: Observation, supervisor_ended: bool
    ) -> float:
        if now.phase in (Phase.PENDING, Phase.RUNNING):
            if account.ended:
                return _VERY_SOON
            if supervisor_ended:
                return _SOON
        longest = _BLIND if self._notices.blind else self._settings.reread.total_seconds()
        deadline = pod_folder.stop_deadline(folder)
        if deadline is None:
            return longest
        left = deadline - time.clock_gettime(time.CLOCK_BOOTTIME)
        return min(longest, max(_SOON, left))

    # --- chores --------------------------------------------------------------------------------

    def _discard(self, folder: Path) -> None:
        grave = self._state.bury(folder)
        self._notes.pop(folder.name, None)
        if grave is not None:
            self._do_later(lambda: self._state.remove(grave))

    def _do_later(self, chore: Callable[[], None]) -> None:
        future = asyncio.get_running_loop().run_in_executor(None, _attempt, chore)
        self._chores.add(future)
        future.add_done_callback(self._chores.discard)


def _with_silence(observation: Observation, folder: Path) -> Observation:
    """Say of a pending pod of which nothing is known that nothing is heard of it."""
    if observation.phase is not Phase.PENDING or observation.trouble is not None:
        return observation
    silent = time.time() - (folder / pod_folder.STATE).stat().st_mtime
    return observation if silent < _SILENT else replace(observation, trouble=_NOTHING_HEARD)


def _attempt(chore: Callable[[], None]) -> None:
    try:
        chore()
    except Exception:
        # Nobody waits for it; the next start of knit tries again.
        log.exception("could not empty the trash", extra={"action": "trash_kept"})


def _settle(asked: stopping.Asked) -> tuple[str, ...]:
    if asked.log is not None:
        _sync(asked.log)
    outputs = sorted(asked.outputs.items())
    return tuple(filter(None, (remark(path, survey(folder)) for path, folder in outputs)))


def _sync(path: Path) -> None:
    for place in (path, path.parent):
        with suppress(FileNotFoundError):
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
