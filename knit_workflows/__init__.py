"""knit on Temporal. What is named here is public; every other module may change with any release.

`from knit_workflows import KnitPlugin, Deps, run_plan`: each name is loaded when it is asked for.
The programs inside pods are modules of this package too; so they start fast, and need nothing but
Python's own library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from knit_workflows.client import KnitClient as KnitClient
    from knit_workflows.contracts.runs import FinishedRun as FinishedRun
    from knit_workflows.plugin import ALL_ROLES as ALL_ROLES
    from knit_workflows.plugin import Deps as Deps
    from knit_workflows.plugin import KnitPlugin as KnitPlugin
    from knit_workflows.plugin import Role as Role
    from knit_workflows.workflow import run_plan as run_plan

_HOMES = {
    "ALL_ROLES": "plugin",
    "Deps": "plugin",
    "FinishedRun": "contracts.runs",
    "KnitClient": "client",
    "KnitPlugin": "plugin",
    "Role": "plugin",
    "run_plan": "workflow",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
