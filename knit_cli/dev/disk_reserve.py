"""Keeps a reserve on the disk of a state folder, and gives it back when the disk is full.

```
free ≥ floor + reserve   the reserve is made, or made whole again
free < almost nothing    a slice is given back, at most every few seconds, down to half of it
… and PostgreSQL or Temporal is down, or a deletion asks for it: the other half too
```
Whatever fills the disk would take all of it otherwise. A slice is enough for a stop and a deletion:
they write little.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from knit_workflows.disk import RESERVE_BYTES, DiskSpace, Reserve, format_bytes

log = logging.getLogger(__name__)

POLL_INTERVAL: Final = 1.0
RELEASE_INTERVAL: Final = 5.0
START_BYTES: Final = 40 << 20
"""What PostgreSQL may want to come up again: two segments of its log."""


@dataclass
class ReserveKeeper:
    """Looks at the disk now and then; `floor` is that of the local back-end, in bytes."""

    folder: Path
    reserve: Reserve
    floor: int
    _next_check: float = field(init=False, default=0.0)
    _next_release: float = field(init=False, default=0.0)

    def poll(self, *, in_need: bool) -> None:
        """Gives back a slice, or makes the reserve, if it is time. Never raises OSError.

        `in_need`: something that has to write is down.
        """
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + POLL_INTERVAL
        try:
            self._adjust(now, in_need)
        except OSError as error:
            log.warning("the reserve: %s", error, extra={"action": "reserve_failed"})

    def _adjust(self, now: float, in_need: bool) -> None:
        room = DiskSpace.of(self.folder)
        whole, present = room.share(RESERVE_BYTES), self.reserve.size()
        if room.is_almost_full or (in_need and room.free < START_BYTES):
            if now >= self._next_release and (in_need or present > whole // 2):
                self._next_release = now + RELEASE_INTERVAL
                self._give(room)
        elif present < whole and room.free + present >= whole + room.share(self.floor):
            self.reserve.fill(whole)
            log.info("%s are reserved", format_bytes(whole), extra={"action": "reserve_made"})

    def _give(self, room: DiskSpace) -> None:
        given = self.reserve.give()
        if given:
            log.warning(
                "%s: %s of the reserve are given back",
                room.left(),
                format_bytes(given),
                extra={"action": "reserve_given", "bytes": given},
            )
