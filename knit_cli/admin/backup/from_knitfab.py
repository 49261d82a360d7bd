"""`knit admin restore --layout knitfab`: tries a migration or does it, and tells of it."""

from __future__ import annotations

from typing import Any, Final

import typer

from knit_cli.admin.backup.restored import restored_json
from knit_cli.admin.backup.watching import Bar
from knit_cli.errors import printable
from knit_cli.invocation import Invocation, login_name
from knit_cli.output import print_json, print_text, say
from knit_workflows.backup.images import Registry
from knit_workflows.backup.installation import Installation
from knit_workflows.backup.knitfab.images import check_part, load_images
from knit_workflows.backup.knitfab.migrating import KnitfabBackup, Survey
from knit_workflows.backup.restoring import find_obstacles

_SHOWN: Final = 20
"""So many Data or claims are named in text; JSON names all."""


def restore_knitfab(
    invocation: Invocation,
    backup: KnitfabBackup,
    target: Installation,
    *,
    registry: Registry | None,
    dry_run: bool,
    allow_missing: bool,
    as_json: bool,
) -> None:
    """Restores a backup into an empty installation, or only tries to.

    Its images go first, into the `registry`, if there is one.

    Raises:
        BackupProblem: it cannot be restored; nothing of it is switched on.
        typer.Exit: this was only a trial, and a restore would be refused.
    """
    bar = Bar(quiet=invocation.quiet)
    with bar.shown():
        if dry_run:
            done = _try(backup, target, bar, images=registry is not None)
        else:
            by = login_name(invocation.surroundings.variables)
            done = _restore(backup, target, bar, by, registry, allow_missing=allow_missing)
    if as_json:
        print_json(_about(backup.survey) | done)
    elif dry_run:
        print_text(_told(backup.survey))
    if dry_run and not done["already"]:
        _tell_of_trial(backup.survey, target.shown, allow_missing=allow_missing)
        return
    _tell(backup.survey, done, target.shown)


def _try(backup: KnitfabBackup, target: Installation, bar: Bar, *, images: bool) -> dict[str, Any]:
    restored = find_obstacles(backup.survey, target)
    size = backup.check(bar) + (check_part(backup.folder, bar) if images else 0)
    return {"dryRun": True, "bytes": size, "already": restored is not None}


def _restore(
    backup: KnitfabBackup,
    target: Installation,
    bar: Bar,
    by: str,
    registry: Registry | None,
    *,
    allow_missing: bool,
) -> dict[str, Any]:
    blobs = None
    if registry is not None:
        already = backup.was_restored(target, allow_missing=allow_missing)
        blobs = load_images(backup.folder, registry, bar, replaces=not already)
    result = backup.restore(target, bar, by=by, allow_missing=allow_missing)
    return restored_json(result) | {"imageBlobs": blobs}


def _tell(survey: Survey, done: dict[str, Any], shown: str) -> None:
    if (blobs := done.get("imageBlobs")) is not None:
        say(f"images: {blobs:,} blobs written")
    elif survey.has_images:
        say("images are not loaded; --images writes them into the registry")
    if done["already"]:
        say(f"this backup was restored into {shown} before; there is nothing to do")
        return
    say(
        f"Knitfab is restored into {shown}, as it was at {survey.at}: {done['made']:,} volumes "
        f"made, {done['equal']:,} were there, {done['seconds']} s"
    )
    if survey.under_way:
        say(f"{survey.under_way:,} Runs were under way then; they have failed: knit run retry")
    if survey.missing:
        say(f"{len(survey.missing):,} Data have no content in the backup: purged")


def _tell_of_trial(survey: Survey, shown: str, *, allow_missing: bool) -> None:
    """Says whether a restore would be done; raises typer.Exit if it would be refused."""
    refused = bool(survey.missing) and not allow_missing
    if not refused:
        say(f"{shown} can take it: {len(survey.contents):,} volumes, all of them readable")
    if survey.missing:
        say(
            f"{len(survey.missing):,} Data have no content: a restore needs --allow-missing, and "
            "they are purged with it"
        )
    if refused:
        raise typer.Exit(1)


def _told(survey: Survey) -> str:
    """Writes what a restore would make, for people."""
    runs = ", ".join(f"{count:,} {status}" for status, count in survey.runs.items())
    lines = [
        f"at          {survey.at}",
        f"schema      {survey.schema}",
        f"Plans       {survey.plans:,}, {survey.inactive_plans:,} of them inactive",
        f"Runs        {runs or 'none'}",
        f"Data        {survey.data:,}",
        f"tags        {survey.tags:,}",
        f"edges       {survey.edges:,}",
        f"volumes     {len(survey.contents):,} with content, {len(survey.missing):,} without",
    ]
    if survey.under_way:
        lines.append(f"will fail   {survey.under_way:,} Runs that were under way")
    lines += _named("no content  Data", survey.missing)
    lines += _named("not used    claim", survey.unused)
    lines += [f"note        {what}: {why}" for what, why in survey.notes]
    if survey.has_images:
        lines.append("note        images: loaded only with --images")
    return "\n".join(map(printable, lines))  # names of folders may hold anything


def _named(what: str, which: tuple[str, ...]) -> list[str]:
    lines = [f"{what} {one}" for one in which[:_SHOWN]]
    if len(which) > _SHOWN:
        lines.append(f"{what}: {len(which) - _SHOWN:,} more (--json names all)")
    return lines


def _about(survey: Survey) -> dict[str, Any]:
    return {
        "layout": "knitfab",
        "set": survey.id,
        "at": survey.at,
        "schema": survey.schema,
        "plans": survey.plans,
        "plansInactive": survey.inactive_plans,
        "runs": survey.runs,
        "runsUnderWay": survey.under_way,
        "data": survey.data,
        "tags": survey.tags,
        "edges": survey.edges,
        "volumes": len(survey.contents),
        "withoutContent": list(survey.missing),
        "claimsNotUsed": list(survey.unused),
        "images": survey.has_images,
        "notes": [{"about": what, "why": why} for what, why in survey.notes],
    }
