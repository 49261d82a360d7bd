"""Fills an empty knit from a backup of Knitfab: looks it through first, switches it on at last."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from knit_workflows.backup.frames import Frame
from knit_workflows.backup.installation import Installation
from knit_workflows.backup.knitfab.claims import Claim, find_claims
from knit_workflows.backup.knitfab.dump import open_dump
from knit_workflows.backup.knitfab.images import IMAGES
from knit_workflows.backup.knitfab.mapping import Conversion
from knit_workflows.backup.knitfab.records import Records, read_records
from knit_workflows.backup.problems import BackupProblem
from knit_workflows.backup.restoring import find_obstacles, make_volumes
from knit_workflows.backup.volumes import Restored, announce
from knit_workflows.backup.watching import Watcher
from knit_workflows.domain.instants import format_instant
from knit_workflows.domain.runs.run import RunStatus
from knit_workflows.store.migrations import REVISION

DUMP: Final = "db/dump.tar.gz"
DATA: Final = "data"
_AHEAD: Final = 64
_WHY_NOT: Final = {
    "keychain": "keys of imports: they are in a Secret of the cluster, not in a backup; imports "
    "that had begun have failed",
    "garbage": "volumes that were to be deleted",
    "data_agent": "transfers that were open",
    "user": "accounts, which no Knitfab uses",
}


@dataclass(frozen=True)
class Content:
    """A Data whose content is in the backup."""

    knit_id: str
    claim: Claim


@dataclass(frozen=True)
class Survey:
    """What a backup of Knitfab has, and what a restore would make of it.

    `contents`: the Data whose volumes are made. `missing`: Data of done Runs whose content the
    backup lacks. `unused`: claims of no Data that is final. `notes`: what will not be as it was,
    as pairs of what it is of and why.
    """

    id: str
    at: str
    schema: int
    tags: int
    plans: int
    inactive_plans: int
    runs: dict[str, int]
    data: int
    edges: int
    contents: tuple[Content, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    has_images: bool
    notes: tuple[tuple[str, str], ...]
    revision: str = REVISION

    @property
    def other_revision(self) -> str:
        """What to do where the tables are of another revision: these rows are this knit's."""
        return "use the knit that is installed there, or upgrade it"

    @property
    def under_way(self) -> int:
        """Runs that had not ended; they fail."""
        return sum(self.runs.get(one.value, 0) for one in RunStatus if one.holds_resources)


@dataclass(frozen=True)
class Migration:
    """What a restore has done; `already`: nothing, since this backup was restored before."""

    made: int
    equal: int
    seconds: float
    already: bool = False


class KnitfabBackup:
    """A backup of Knitfab that was looked through, whose rows are ready."""

    def __init__(self, folder: Path, survey: Survey, conversion: Conversion) -> None:
        self.folder = folder
        self.survey = survey
        self._conversion = conversion

    def check(self, watcher: Watcher) -> int:
        """Reads the content of all volumes, and gives the bytes of it; raises Damaged."""
        watcher.begins("check", len(self.survey.contents), 0)
        total = 0
        for one in self.survey.contents:
            size = one.claim.check()
            total += size
            watcher.moved(size)
            watcher.finished(1)
        return total

    def restore(
        self, target: Installation, watcher: Watcher, *, by: str, allow_missing: bool
    ) -> Migration:
        """Fills an installation; `by` is who does it, for its audit log.

        With `allow_missing`, Data whose content the backup lacks are purged. A second call with the
        same backup does nothing; one after a kill goes on.

        Raises:
            BackupProblem: it cannot be filled; nothing of the backup is switched on.
        """
        began = time.monotonic()
        if self.was_restored(target, allow_missing=allow_missing):
            return Migration(0, 0, time.monotonic() - began, already=True)
        count = len(self.survey.contents)
        made, equal = make_volumes(target, self._volumes(watcher), count, watcher)
        target.load(self._database(by))
        return Migration(made, equal, time.monotonic() - began)

    def was_restored(self, target: Installation, *, allow_missing: bool) -> bool:
        """Says whether an installation has had it already.

        Raises:
            BackupProblem: it cannot be filled, or Data have no content and that is not allowed.
        """
        survey = self.survey
        if find_obstacles(survey, target) is not None:
            return True
        if survey.missing and not allow_missing:
            raise BackupProblem(
                f"{len(survey.missing):,} Data have no content in {self.folder / DATA}",
                reason=f"the first is {survey.missing[0]}",
                advice="take backup/data.sh of Knitfab again; or give --allow-missing: they keep "
                "tags and lineage, and are purged",
            )
        return False

    def _volumes(self, watcher: Watcher) -> Iterator[Frame]:
        contents = self.survey.contents
        for at in range(0, len(contents), _AHEAD):
            some = contents[at : at + _AHEAD]
            yield announce([Restored(one.knit_id, (), one.claim.capacity) for one in some])
            for one in some:
                yield {"volume": one.knit_id}
                for chunk in one.claim.archive():
                    watcher.moved(len(chunk))
                    yield chunk
                yield {"end": True}

    def _database(self, by: str) -> Iterator[Frame]:
        survey = self.survey
        yield {
            "set": survey.id,
            "at": survey.at,
            "revision": survey.revision,
            "by": by,
            "gone": list(survey.missing),
        }
        yield from self._conversion.frames()


def read_backup(folder: Path) -> KnitfabBackup:
    """Looks a backup through: reads its database, and finds its claims.

    Raises:
        Damaged: the database is none of a Knitfab, or a part is damaged.
        BackupProblem: there is no such backup, or it cannot be read.
    """
    path = folder / DUMP
    if not path.is_file():
        raise BackupProblem(
            f"{folder} is no backup of Knitfab",
            reason=f"there is no {DUMP}",
            advice="name the folder that has db, data and images, as Knitfab's guide calls them",
        )
    with open_dump(path) as dump:
        records = read_records(dump)
        try:
            conversion = Conversion(records, dump.at)
        except ValueError as cause:
            raise dump.damaged(str(cause)) from cause
        survey = _survey(folder, dump.digest, format_instant(dump.at), conversion)
        return KnitfabBackup(folder, survey, conversion)


def _survey(folder: Path, digest: str, at: str, conversion: Conversion) -> Survey:
    records, statuses = conversion.records, conversion.statuses
    claims = find_claims(folder / DATA)
    contents, missing = [], []
    for one in sorted(records.data.values(), key=lambda one: one.knit_id):
        status = statuses[one.run_id]
        if status not in (RunStatus.DONE, RunStatus.FAILED):
            continue
        if (claim := claims.get(one.volume)) is not None:
            contents.append(Content(one.knit_id, claim))
        elif status is RunStatus.DONE:  # what a failed Run never had is not missing
            missing.append(one.knit_id)
    used = {one.claim.name for one in contents}
    return Survey(
        id=f"knitfab-{digest[:16]}",
        at=at,
        schema=records.version,
        tags=len(records.tags),
        plans=len(conversion.plans),
        inactive_plans=sum(not one.spec.active for one in conversion.plans.values()),
        runs=dict(sorted(Counter(one.value for one in statuses.values()).items())),
        data=len(records.data),
        edges=sum(len(one.inputs) for one in records.runs.values()),
        contents=tuple(contents),
        missing=tuple(missing),
        unused=tuple(sorted(claims.keys() - used)),
        has_images=(folder / IMAGES).is_dir(),
        notes=(*conversion.notes, *_not_carried(records)),
    )


def _not_carried(records: Records) -> Iterator[tuple[str, str]]:
    for table, count in records.not_carried.items():
        yield f"{table}, rows: {count:,}", f"not carried over: {_WHY_NOT[table]}"
    for table in records.unknown:
        yield f"table {table}", "not carried over: no Knitfab has it"
