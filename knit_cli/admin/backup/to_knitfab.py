"""`knit admin backup --layout knitfab`: writes that layout, and tells of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from knit_cli.admin.backup.registry import RegistryFiles
from knit_cli.admin.backup.watching import Bar
from knit_cli.errors import BadInput
from knit_cli.invocation import Invocation
from knit_cli.output import print_json, say
from knit_workflows.backup.installation import Installation
from knit_workflows.backup.knitfab.images import save_images
from knit_workflows.backup.problems import BackupProblem

if TYPE_CHECKING:
    from knit_workflows.backup.knitfab.writing import Written


def back_up_as_knitfab(
    invocation: Invocation,
    source: Installation,
    destination: str,
    registry: RegistryFiles | None,
    *,
    as_json: bool,
) -> None:
    """Writes an installation into a folder, in the layout of Knitfab's scripts.

    The images of a `registry` come first, the database last.

    Raises:
        BadInput: it is no folder.
        BackupProblem: it cannot be written.
        typer.Exit: Data could not be read; the backup is there without them.
    """
    if "://" in destination:
        raise BadInput(f"{destination} is no folder", advice="name a folder, and copy it then")
    # Late: what starts a PostgreSQL takes longer to load than most commands take.
    from knit_workflows.backup.knitfab.writing import write_layout

    folder = invocation.path(destination)
    bar = Bar(quiet=invocation.quiet)
    with bar.shown():
        if registry is not None:
            _save_images(folder, registry, bar)
        written = write_layout(source, folder, bar)
    if as_json:
        print_json(_as_json(written, folder, images=registry is not None))
    say(
        f"{folder} has {written.volumes:,} volumes and the database as it was at {written.at}, "
        f"in the layout of Knitfab; {written.read:,} volumes read, {written.seconds:.1f} s"
    )
    for what, why in written.notes:
        say(f"{what}: {why}")
    for knit_id, why in written.unreadable.items():
        say(f"Data {knit_id} could not be read: {why}")
    if written.unreadable:
        raise typer.Exit(1)


def _save_images(folder: Path, registry: RegistryFiles, bar: Bar) -> None:
    if registry.claim is None:
        raise BackupProblem(
            "the registry has no claim", reason="it is ephemeral", advice="leave --images out"
        )
    save_images(folder, registry, registry.claim, bar)


def _as_json(written: Written, folder: Path, *, images: bool) -> dict[str, Any]:
    return {
        "layout": "knitfab",
        "destination": str(folder),
        "at": written.at,
        "volumes": written.volumes,
        "volumesRead": written.read,
        "images": images,
        "seconds": round(written.seconds, 1),
        "unreadable": written.unreadable,
        "notes": [{"about": what, "why": why} for what, why in written.notes],
    }
