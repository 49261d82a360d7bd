"""Whether an authenticated caller may do what a request asks for, and the record of it.

The record is written before the request is carried out, its outcome as soon as that is known: so no
change is without a record, and a record without an outcome says that nobody knows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from starlette.types import Scope

from knit_api.accounts.access import Accounts, Caller, RefusedCaller
from knit_api.accounts.credentials import SAFE
from knit_api.accounts.matrix import EXTRA_APIS, MATRIX, Rule
from knit_api.errors import HttpProblem
from knit_workflows.domain.accounts.principals import (
    MAX_ROUTE,
    RESERVED_NAMES,
    AuditRecord,
    Principal,
)
from knit_workflows.domain.errors import KnitError
from knit_workflows.domain.runs.run import USER
from knit_workflows.domain.tags import Tag

log = logging.getLogger(__name__)

PRINCIPAL: Final = "knit_principal"
ENTRY: Final = "knit_audit_entry"
"""Keys of a request's state: who sends it, and the id of its record."""
MADE: Final = "knit_audit_made"
"""The ids of what the request has made."""
_NOBODY: Final = ""


def principal_of(request: Request) -> Principal:
    """Gives who sends a request, which must have been authenticated."""
    principal: Principal | None = request.scope["state"].get(PRINCIPAL)
    if principal is None:
        raise AssertionError("a route without a role has asked who calls")
    return principal


PrincipalOf = Annotated[Principal, Depends(principal_of)]


def projects_of(request: Request) -> frozenset[Tag]:
    """Gives the projects to which the caller is bound; none: to none."""
    principal: Principal | None = request.scope["state"].get(PRINCIPAL)
    return frozenset() if principal is None else principal.projects


def actor_name(caller: Caller) -> str:
    """Gives the name of a caller in histories: never one that means somebody else there."""
    if caller.subject == USER or caller.name not in RESERVED_NAMES:
        return caller.name
    return caller.subject


def actor_of(request: Request) -> str:
    """Gives the name of the caller in histories, to a route."""
    return actor_name(principal_of(request))


ActorOf = Annotated[str, Depends(actor_of)]
ProjectsOf = Annotated[frozenset[Tag], Depends(projects_of)]


async def guard(request: Request) -> None:
    """Stands before every route: lets a request go on if its sender's role allows it.

    Raises:
        HttpProblem: the role does not allow it (403).
        StoreUnavailable: it cannot be recorded, so it is not carried out.
    """
    accounts: Accounts = request.app.state.deps.accounts
    if not accounts.required:
        return
    route = request.scope["route"]
    asked = _Asked(request.scope, route.path, dict(request.path_params))
    await asked.decide(accounts, MATRIX.get(route.name))


async def guard_extra(accounts: Accounts, scope: Scope, path: str) -> None:
    """Stands before the extra API at that path; raises as `guard` does."""
    if accounts.required:
        rule = Rule(EXTRA_APIS, recorded=scope["method"] not in SAFE)
        await _Asked(scope, path, {}).decide(accounts, rule)


def forgive(request: Request) -> None:
    """Says that a request without a principal has proved itself in another way."""
    accounts: Accounts = request.app.state.deps.accounts
    if accounts.required and request.scope["state"].get(PRINCIPAL) is None:
        accounts.forgive(request.scope)


def note_made(request: Request, **ids: str) -> None:
    """Adds to a request's record what it has made, by id."""
    request.scope["state"].setdefault(MADE, {}).update(ids)


async def record_outcome(accounts: Accounts, scope: Scope, status: int) -> None:
    """Completes the record of a request, if it has one; the first call counts.

    What was done is done: a database that is away now is only logged.
    """
    state = scope["state"]
    entry_id = state.pop(ENTRY, None)
    if entry_id is None:
        return
    try:
        await (await accounts.audit()).end(entry_id, status, made=state.get(MADE, {}))
    except KnitError as error:
        log.error(
            "the outcome %s of the request %s is not recorded: %s",
            status,
            entry_id,
            error.reason,
            extra={"action": "outcome_not_recorded", "entry_id": entry_id, "status": status},
        )


async def record_refusal(accounts: Accounts, scope: Scope, refusal: HttpProblem) -> None:
    """Records a request of a caller who is not known, or has no role; reads are not recorded."""
    if scope["method"] not in SAFE:
        caller = refusal.caller if isinstance(refusal, RefusedCaller) else None
        asked = _Asked(scope, scope["path"][:MAX_ROUTE], {})
        await asked.record(accounts, refusal.status, caller)


class _Asked:
    """What a request asks for: a route, and what stands in its places."""

    def __init__(self, scope: Scope, route: str, targets: Mapping[str, Any]) -> None:
        self._scope = scope
        self._route = route
        self._targets = {name: str(value)[:MAX_ROUTE] for name, value in targets.items()}
        self._principal: Principal | None = scope["state"].get(PRINCIPAL)

    async def decide(self, accounts: Accounts, rule: Rule | None) -> None:
        refusal = _refusal(self._principal, rule)
        if refusal is not None:
            if self._scope["method"] not in SAFE or (rule is not None and rule.recorded):
                await self.record(accounts, refusal.status, self._principal)
            raise refusal
        if rule is not None and rule.recorded:
            if self._principal is None:
                accounts.count_failure(self._scope)
            self._scope["state"][ENTRY] = await self.record(accounts, None, self._principal)

    async def record(self, accounts: Accounts, status: int | None, caller: Caller | None) -> int:
        return await (await accounts.audit()).begin(
            AuditRecord(
                subject=_NOBODY if caller is None else caller.subject,
                actor=_NOBODY if caller is None else actor_name(caller),
                method=self._scope["method"],
                route=self._route,
                targets=self._targets,
                address=accounts.address(self._scope),
                status=status,
            )
        )


def _refusal(principal: Principal | None, rule: Rule | None) -> HttpProblem | None:
    if rule is None:
        return HttpProblem(
            403, "no role is declared for this path", "tell whoever maintains knit: it is a bug"
        )
    if rule.role is None:
        return None
    if principal is None:
        raise AssertionError("a request came past authentication")
    if not principal.role.includes(rule.role):
        return HttpProblem(
            403,
            f"this needs the role {rule.role}; {principal.name} has the role {principal.role}",
            f"ask an admin for the role {rule.role}",
        )
    if principal.projects and not rule.by_project:
        return HttpProblem(
            403,
            f"{principal.name} is bound to projects, which this does not know",
            "use a token that is not bound to projects",
        )
    return None
