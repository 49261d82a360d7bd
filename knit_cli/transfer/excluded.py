"""Reports on stderr what is excluded from a transfer."""

from __future__ import annotations

from knit_cli.output import say

_MAX_NAMED = 20


class Exclusions:
    """Collects what is excluded: names the first few, counts all."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._count = 0

    def __call__(self, path: str, kind: str) -> None:
        """Adds one excluded thing."""
        self._count += 1
        if len(self._lines) < _MAX_NAMED:
            self._lines.append(f"  {path} ({kind})")

    def restart(self) -> None:
        """Forgets everything, because the transfer starts over."""
        self._lines, self._count = [], 0

    def report(self, source: str) -> None:
        """Says what was left out of `source`; nothing if everything was transferred."""
        if not self._count:
            return
        say(f"left out of {source}: {self._count} {'thing' if self._count == 1 else 'things'}")
        for line in self._lines:
            say(line)
        if self._count > len(self._lines):
            say(f"  and {self._count - len(self._lines)} more")
