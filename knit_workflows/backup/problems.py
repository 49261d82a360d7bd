"""What keeps a backup or a restore from its end, in words."""

from __future__ import annotations


class BackupProblem(Exception):
    """A backup or a restore cannot go on; what there is stays as it is.

    Args:
        summary: what failed, one line.
        reason: why.
        advice: what to do next.
    """

    def __init__(self, summary: str, *, reason: str = "", advice: str = "") -> None:
        super().__init__(summary)
        self.summary = summary
        self.reason = reason
        self.advice = advice

    @property
    def words(self) -> str:
        """All of it, in one line."""
        return "; ".join(filter(None, (self.summary, self.reason, self.advice)))


class Damaged(BackupProblem):
    """A part of a set is missing, or is not what it was."""
