"""Who hears how far a backup or a restore is."""

from __future__ import annotations

from typing import Protocol


class Watcher(Protocol):
    """Hears how far a backup or a restore is."""

    def begins(self, what: str, volumes: int, known: int) -> None:
        """Hears that so many volumes follow, of which so many need not be moved.

        Blobs of images, where that is what they are.
        """

    def moved(self, size: int) -> None:
        """Hears of bytes of archives."""

    def finished(self, volumes: int) -> None:
        """Hears of volumes that are complete."""
