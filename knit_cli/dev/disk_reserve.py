"""Keeps a reserve on the disk of a state folder, and releases it when the disk is full.

```
free ≥ floor + reserve   create the reserve, or complete it
free < almost nothing    release a slice, at most every few seconds, down to half of the reserve
… and PostgreSQL or Temporal is down, or a deletion needs room: the other half too
```
Otherwise whatever fills the disk would take all of it. Stopping or deleting a Run writes little, so
a slice is enough for that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from knit_workflows.disk import RESERVE_BYTES, DiskSpace, Reserve, format_bytes

log = logging.getLogger(__name__)

CHECK_INTERVAL: Final = 1.0
RELEASE_INTERVAL: Final = 5.0
RESTART_BYTES: Final = 40 << 20
"""What PostgreSQL may need to start again: two segments of its write-ahead log."""


@dataclass
class ReserveKeeper:
    """Adjusts the reserve to the free space; `floor` is the local back-end's, in bytes."""

    folder: Path
    reserve: Reserve
    floor: int
    measure: Callable[[Path], DiskSpace] = DiskSpace.of
    clock: Callable[[], float] = time.monotonic
    _next_check: float = field(init=False, default=0.0)
    _next_release: float = field(init=False, default=0.0)

    def poll(self, *, in_need: bool) -> None:
        """Releases a slice or fills the reserve, if it is time to. Never raises OSError.

        Args:
            in_need: whether a process that has to write is down.
        """
        now = self.clock()
        if now < self._next_check:
            return
        self._next_check = now + CHECK_INTERVAL
        try:
            self._adjust(now, in_need)
        except OSError as error:
            log.warning("disk reserve: %s", error, extra={"action": "reserve_failed"})

    def _adjust(self, now: float, in_need: bool) -> None:
        space = self.measure(self.folder)
        whole, present = space.share(RESERVE_BYTES), self.reserve.size()
        if space.is_almost_full or (in_need and space.free < RESTART_BYTES):
            if now >= self._next_release and (in_need or present > whole // 2):
                self._next_release = now + RELEASE_INTERVAL
                self._release(space)
        elif present < whole and space.free + present >= whole + space.share(self.floor):
            self.reserve.fill(whole)
            log.info("reserved %s", format_bytes(whole), extra={"action": "reserve_filled"})

    def _release(self, space: DiskSpace) -> None:
        released = self.reserve.give()
        if released:
            log.warning(
                "%s: released %s of the reserve",
                space.left(),
                format_bytes(released),
                extra={"action": "reserve_released", "bytes": released},
            )
