"""What a destination can do: objects as wholes, and a lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol


class Destination(Protocol):
    """Objects by name (parts separated by `/`), safe for several threads.

    An object is there with all of its content, or not at all, whenever the writer is killed or the
    power fails. For others it is there after `settle` at the latest; after a kill, those that were
    not settled may be missing.
    All methods raise BackupProblem if the destination cannot be reached, read or written.
    """

    shown: str
    """Its name, for people."""

    def read(self, name: str) -> bytes | None:
        """Gives the content of an object; None: there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Makes or replaces an object, which the same object can read at once."""

    def remove(self, name: str) -> None:
        """Removes an object; a missing one is fine."""

    def names(self, prefix: str) -> Iterator[str]:
        """Gives the names that begin with a prefix, which ends with `/`, in any order."""

    def settle(self) -> None:
        """Returns once all that was written is there.

        When an object that was written after that is there, what was before survives a loss of
        power.
        """

    def locked(self) -> AbstractContextManager[Lock]:
        """Lets one at a time change it; raises BackupProblem if another one does.

        What a killed one held is taken over.
        """

    def held(self) -> AbstractContextManager[None]:
        """Lets nobody change it while it is read; raises BackupProblem if somebody does just now.

        Where this one may only read, others are not kept from changing it.
        """


class Lock(Protocol):
    """The lock on a destination."""

    def require(self) -> None:
        """Raises BackupProblem if it was lost meanwhile."""
