"""Tells watchers of run pods, by inotify, that something has changed in a pod's folder."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from knit_workflows.domain.errors import BackendRejected

log = logging.getLogger(__name__)

_MODIFY: Final = 0x2
_MOVED_TO: Final = 0x80
_CREATE: Final = 0x100
_DELETE: Final = 0x200
_DELETE_SELF: Final = 0x400
_MOVE_SELF: Final = 0x800
_IGNORED: Final = 0x8000
_ONLY_DIRECTORY: Final = 0x0100_0000
_CHANGES: Final = _MODIFY | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
_HEADER: Final = struct.Struct("iIII")


class PodNotices:
    """Rings bells of watchers: one inotify instance for a folder of pods.

    A bell may ring without need; it rings at every change. `blind` is true once the kernel has
    refused a watch (its limit is reached): then watchers have to look by themselves.
    """

    def __init__(self, pods: Path) -> None:
        self._pods = pods
        self._bells: dict[str, set[asyncio.Event]] = {}
        self._pod_of: dict[int, str] = {}
        self._root = -1
        self._loop = asyncio.get_running_loop()
        if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
            raise BackendRejected(
                "the local back-end needs Linux (inotify and pidfd)",
                advice="run knit's workers on Linux, or use the Kubernetes back-end",
            )
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise _refusal(ctypes.get_errno())
        self.blind = False
        self._root = self._add(pods)
        self._loop.add_reader(self._descriptor, self._read)

    def close(self) -> None:
        """Stops listening; bells stay silent from now on."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    @contextmanager
    def ringing(self, pod_name: str) -> Iterator[asyncio.Event]:
        """Gives a bell that rings at each change of a pod, be the pod there already or not."""
        bell = asyncio.Event()
        self._bells.setdefault(pod_name, set()).add(bell)
        self._follow(pod_name)
        try:
            yield bell
        finally:
            bells = self._bells[pod_name]
            bells.discard(bell)
            if not bells:
                del self._bells[pod_name]
                self._unfollow(pod_name)

    def _follow(self, pod_name: str) -> None:
        number = self._add(self._pods / pod_name)
        if number >= 0:
            self._pod_of[number] = pod_name

    def _unfollow(self, pod_name: str) -> None:
        for number in [n for n, name in self._pod_of.items() if name == pod_name]:
            del self._pod_of[number]
            self._libc.inotify_rm_watch(self._descriptor, number)

    def _add(self, folder: Path) -> int:
        path = os.fsencode(folder)
        number: int = self._libc.inotify_add_watch(
            self._descriptor, path, _CHANGES | _ONLY_DIRECTORY
        )
        if number < 0 and folder.is_dir() and not self.blind:
            self.blind = True
            log.warning(
                "cannot watch %s: %s; looking every second instead",
                folder,
                os.strerror(ctypes.get_errno()),
                extra={"action": "watch_refused"},
            )
        return number

    def _read(self) -> None:
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            number, mask, _, length = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size
            name = os.fsdecode(data[offset : offset + length].rstrip(b"\0"))
            offset += length
            self._notice(number, mask, name)

    def _notice(self, number: int, mask: int, name: str) -> None:
        if number == -1:  # The queue overflowed: everybody has to look.
            pods = list(self._bells)
        elif number == self._root:
            pods = [name]
            if name in self._bells:
                self._follow(name)
        else:
            pods = [self._pod_of[number]] if number in self._pod_of else []
            if mask & _IGNORED:
                self._pod_of.pop(number, None)
        for pod in pods:
            for bell in self._bells.get(pod, ()):
                bell.set()


def _refusal(error: int) -> BackendRejected:
    return BackendRejected(
        f"the kernel refuses to watch folders: {os.strerror(error)}",
        advice="raise fs.inotify.max_user_instances, or how many files a process may open "
        "(ulimit -n)",
    )
