"""What a restore has done, as `--json` prints it."""

from __future__ import annotations

from typing import Any

from knit_workflows.backup.knitfab.migrating import Migration
from knit_workflows.backup.restoring import Restoration


def restored_json(result: Restoration | Migration) -> dict[str, Any]:
    """Gives what is printed beside the description of the source, whatever its layout."""
    return {
        "dryRun": False,
        "made": result.made,
        "equal": result.equal,
        "already": result.already,
        "seconds": round(result.seconds, 1),
    }
