"""Notifies subscribers, by inotify, of changes in the folders of run pods."""

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


class FolderWatcher:
    """One inotify instance for a folder of pod folders.

    Every change sets the events of its subscribers; an event may also be set without a change.
    `incomplete` is true once the kernel has refused a watch (its limit is reached): then
    subscribers have to poll.
    """

    def __init__(self, pods: Path) -> None:
        self._pods = pods
        self._subscribers: dict[str, set[asyncio.Event]] = {}
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
        self.incomplete = False
        self._root = self._add(pods)
        self._loop.add_reader(self._descriptor, self._read)

    def close(self) -> None:
        """Stops watching; no event is set from now on."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    @contextmanager
    def subscribe(self, pod_name: str) -> Iterator[asyncio.Event]:
        """Gives an event that each change of a pod sets, whether or not the pod exists yet."""
        changed = asyncio.Event()
        self._subscribers.setdefault(pod_name, set()).add(changed)
        self._follow(pod_name)
        try:
            yield changed
        finally:
            others = self._subscribers[pod_name]
            others.discard(changed)
            if not others:
                del self._subscribers[pod_name]
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
        if number < 0 and folder.is_dir() and not self.incomplete:
            self.incomplete = True
            log.warning(
                "cannot watch %s: %s; polling every second instead",
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
        if number == -1:  # the queue overflowed: anything may have changed
            pods = list(self._subscribers)
        elif number == self._root:
            pods = [name]
            if name in self._subscribers:
                self._follow(name)
        else:
            pods = [self._pod_of[number]] if number in self._pod_of else []
            if mask & _IGNORED:
                self._pod_of.pop(number, None)
        for pod in pods:
            for changed in self._subscribers.get(pod, ()):
                changed.set()


def _refusal(error: int) -> BackendRejected:
    return BackendRejected(
        f"the kernel refuses to watch folders: {os.strerror(error)}",
        advice="raise fs.inotify.max_user_instances, or how many files a process may open "
        "(ulimit -n)",
    )
