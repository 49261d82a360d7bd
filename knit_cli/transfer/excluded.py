"""Names on stderr what of a folder does not travel with it."""

from __future__ import annotations

from knit_cli.output import say

_MAX_NAMED = 20


class Exclusions:
    """Gathers what is left out: the first of it by name, all by number."""

    def __init__(self) -> None:
        self._named: list[str] = []
        self._count = 0

    def __call__(self, path: str, what: str) -> None:
        """Notes one thing and what it is."""
        self._count += 1
        if len(self._named) < _MAX_NAMED:
            self._named.append(f"  {path} ({what})")

    def restart(self) -> None:
        """Forgets everything: what gave it begins anew."""
        self._named, self._count = [], 0

    def tell(self, of: str) -> None:
        """Says what was left out of `of`; nothing if that was nothing."""
        if not self._count:
            return
        say(f"left out of {of}: {self._count} {'thing' if self._count == 1 else 'things'}")
        for line in self._named:
            say(line)
        if self._count > len(self._named):
            say(f"  and {self._count - len(self._named)} more")
