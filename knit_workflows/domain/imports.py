"""Imports: an importer gets a signed token, makes the volume that it names, and hands it back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from knit_workflows.domain.accounts import jws
from knit_workflows.domain.ids import KnitId, RunId, is_id
from knit_workflows.domain.runs.run import USER, Exit
from knit_workflows.domain.tags import Tag, parse_tag

NOT_ENDED: Final = Exit(1, "the import was not ended in time")
CLAIM_KNIT_ID: Final = "knitfab/knitId"
CLAIM_RUN_ID: Final = "knitfab/runId"
CLAIM_ACTOR: Final = "knit/actor"
CLAIM_PROJECTS: Final = "knit/projects"


@dataclass(frozen=True, slots=True)
class Import:
    """An import that is under way: its Run, its Data, and the volume that the importer makes."""

    run_id: RunId
    knit_id: KnitId
    volume: str

    def claims(self, actor: str = USER, projects: Iterable[Tag] = ()) -> Mapping[str, Any]:
        """Gives the claims of a new token for it; `actor`, bound to `projects`, has begun it."""
        return {
            "jti": str(uuid4()),
            "sub": self.volume,
            CLAIM_KNIT_ID: self.knit_id,
            CLAIM_RUN_ID: self.run_id,
            CLAIM_ACTOR: actor,
            CLAIM_PROJECTS: [str(tag) for tag in sorted(projects)],
        }


def import_of(claims: Mapping[str, Any]) -> Import:
    """Reads the claims of a token; raises jws.BadToken if they are not those of an import."""
    knit_id, run_id, volume = (claims.get(name) for name in (CLAIM_KNIT_ID, CLAIM_RUN_ID, "sub"))
    if not (isinstance(knit_id, str) and isinstance(run_id, str) and isinstance(volume, str)):
        raise jws.BadToken("it is not the token of an import")
    if not (is_id(knit_id) and is_id(run_id)):
        raise jws.BadToken("it is not the token of an import")
    return Import(RunId(run_id), KnitId(knit_id), volume)


def projects_in(claims: Mapping[str, Any]) -> frozenset[Tag] | None:
    """Gives the projects to which whoever began an import is bound; empty: to none.

    None: its token is of an older knit, which did not say so.
    """
    projects = claims.get(CLAIM_PROJECTS)
    return None if projects is None else frozenset(map(parse_tag, projects))


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs tokens of imports, and how old it is."""

    kid: str
    secret: bytes
    age: timedelta


@dataclass(frozen=True, slots=True)
class ImportTimes:
    """How long an import may take, and how long a key verifies.

    New tokens are signed with a key only while it outlives them.
    """

    window: timedelta = timedelta(minutes=30)
    key_life: timedelta = timedelta(hours=3)

    @property
    def signs_until(self) -> timedelta:
        """The age of a key from which on it signs no more."""
        return self.key_life - self.window

    @property
    def forgotten_at(self) -> timedelta:
        """The age from which on a key is unknown; until then its tokens are told to be expired."""
        return 2 * self.key_life
