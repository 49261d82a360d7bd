"""Which role each endpoint needs: the one place that says so, by the name of the route.

A route that is not named here is refused to everybody, and a test fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from knit_workflows.domain.accounts.principals import Role

METADATA_PATH: Final = "/.well-known/oauth-protected-resource"

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", METADATA_PATH})
"""Paths that need no credentials, and look at none."""
OWN_TOKEN_PATHS: Final = frozenset({"/api/data/import/end", "/api/backend/data/import/end"})
"""Paths that authenticate by the signed token in the body; credentials besides it are looked at."""

EXTRA_APIS: Final = Role.VIEWER
"""What extra APIs need; what else they ask of a caller is theirs to say."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a route needs: a role (None: nobody need authenticate).

    `recorded`: it is in the audit log. `by_project`: it shows and changes only what belongs to the
    caller's projects; a caller who is bound to some is refused by the others.
    """

    role: Role | None
    recorded: bool = False
    by_project: bool = False


def _reads(*names: str, recorded: bool = False) -> dict[str, Rule]:
    return dict.fromkeys(names, Rule(Role.VIEWER, recorded=recorded, by_project=True))


def _changes(role: Role | None, *names: str, by_project: bool = True) -> dict[str, Rule]:
    return dict.fromkeys(names, Rule(role, recorded=True, by_project=by_project))


_OF_THE_WHOLE: Final = Rule(Role.VIEWER)
"""Hooks stand around all Runs."""

MATRIX: Final[Mapping[str, Rule]] = {
    "healthz": Rule(None),
    "readyz": Rule(None),
    "protected_resource": Rule(None),
    **_reads("whoami", "show_version", "show_document", "openapi"),
    **_reads("find_data", "show_data", "show_lineage"),
    **_reads("find_plans", "show_plan"),
    **_reads("find_runs", "show_run", "run_events", "run_timing"),
    **_reads("complete"),
    "show_hooks": _OF_THE_WHOLE,
    "find_deliveries": _OF_THE_WHOLE,
    **_reads("download_data", "run_log", recorded=True),
    **_changes(Role.EDITOR, "upload_data", "change_tags"),
    **_changes(
        Role.EDITOR,
        "register_plan",
        "try_plan",
        "activate_plan",
        "deactivate_plan",
        "change_resources",
        "change_annotations",
        "set_service_account",
        "unset_service_account",
        "set_priority",
        "set_options",
    ),
    **_changes(Role.EDITOR, "abort_run", "tear_off_run", "retry_run", "delete_run"),
    **_changes(Role.OPERATOR, "adopt_volumes", "purge_data"),
    **_changes(Role.OPERATOR, "begin_import", "knitfab_begin_import"),
    **_changes(None, "end_import", "knitfab_end_import"),
    **_changes(Role.OPERATOR, "skip_delivery", "test_hook", by_project=False),
    "list_tokens": Rule(Role.ADMIN),
    "find_audit": Rule(Role.ADMIN),
    **_changes(Role.ADMIN, "create_token", "revoke_token", by_project=False),
}
"""By the name of the route, which is that of its function."""
