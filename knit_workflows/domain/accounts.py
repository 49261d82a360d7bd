"""Who calls: subjects, their roles, and the projects they are bound to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from knit_workflows.domain.tags import Tag


class Role(StrEnum):
    """What a subject may do; each role may do all that the ones before it may."""

    VIEWER = "viewer"
    """Sees everything: lists, lineage, logs, content of Data."""
    EDITOR = "editor"
    """Makes and changes Data, Plans and Runs."""
    OPERATOR = "operator"
    """Steers for others: hooks, adoption, purge, imports."""
    ADMIN = "admin"
    """Gives others access, and sees what everybody did."""

    def includes(self, other: Role) -> bool:
        """Says whether this role may do all that the other may."""
        return _ORDER.index(self) >= _ORDER.index(other)


_ORDER: Final = tuple(Role)


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    `subject` is unique and stable: `token:NAME` for a token of knit's, `oidc:SUBJECT` for a user of
    an identity provider, `user` where accounts are off. `name` is for people; it is the actor in
    histories. `projects`: the caller sees and changes only what has one of these tags; none: all.
    """

    subject: str
    name: str
    role: Role
    projects: frozenset[Tag] = frozenset()
    expires: datetime | None = None
