"""Who calls, how to authenticate, tokens, and what everybody did."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from knit_api import pagination
from knit_api.accounts.guard import ActorOf, PrincipalOf, note_made
from knit_api.accounts.matrix import METADATA_PATH
from knit_api.bodies import model_body
from knit_api.deps import DepsOf, StoreOf
from knit_api.openapi.document import failures, takes
from knit_api.pagination import page_response
from knit_api.parameters import AuditFilter, TokenIdPath, refuse_system_keys
from knit_api.responses import json_list_response, json_response
from knit_workflows.domain.accounts import principals as domain
from knit_workflows.domain.accounts.tokens import digest_of, new_token, shown_prefix
from knit_workflows.domain.errors import InvalidRequest
from knit_workflows.domain.tags import Tag, parse_tag
from knit_workflows.settings import AccountSettings
from knit_workflows.wire.accounts import (
    AuditEntry,
    MadeToken,
    NewToken,
    ProtectedResource,
    Token,
    WhoAmI,
)
from knit_workflows.wire.base import Wire, to_wire
from knit_workflows.wire.times import parse_duration

log = logging.getLogger(__name__)

router = APIRouter(tags=["accounts"])


@router.get(METADATA_PATH, response_model=ProtectedResource)
async def protected_resource(request: Request, deps: DepsOf) -> Response:
    """Say how to authenticate (RFC 9728); needs no credentials."""
    settings = deps.accounts.settings
    issuer = settings.oidc_issuer
    return json_response(
        ProtectedResource(
            resource=deps.accounts.origin(request.scope),
            authorization_servers=[issuer] if issuer else [],
            bearer_methods_supported=["header"],
            scopes_supported=(settings.oidc_scopes or "").split(),
            knit_client_id=settings.oidc_client_id,
            knit_token=_token_kind(settings),
        )
    )


@router.get("/api/whoami", response_model=WhoAmI, responses=failures(503))
async def whoami(caller: PrincipalOf) -> Response:
    """Say who calls, as whom."""
    return json_response(
        WhoAmI(
            subject=caller.subject,
            name=caller.name,
            role=caller.role,
            projects=_texts(caller.projects),
            expires=caller.expires,
        )
    )


@router.get("/api/tokens", response_model=list[Token], responses=failures(503))
async def list_tokens(store: StoreOf) -> Response:
    """List tokens, the newest first; those that are not valid any more are among them."""
    # In parts, since a system that makes a token per job has made many: others are served between.
    return await json_list_response(await store.tokens.all(), lambda one: to_wire(_token(one)))


@router.post(
    "/api/tokens",
    response_model=MadeToken,
    responses=failures(400, 409, 413, 503),
    openapi_extra=takes(NewToken),
)
async def create_token(request: Request, deps: DepsOf, store: StoreOf, actor: ActorOf) -> Response:
    """Make a token. Its text is in this response and nowhere else.

    Its name is the actor in histories; no two valid tokens have the same.
    """
    asked = await model_body(request, NewToken)
    projects = frozenset(map(parse_tag, asked.projects))
    refuse_system_keys(tag.key for tag in projects)
    text = new_token()
    made = await store.tokens.create(
        domain.NewToken(
            name=domain.checked_token_name(asked.name),
            role=asked.role,
            digest=digest_of(text),
            prefix=shown_prefix(text),
            created_by=actor,
            projects=projects,
            expires_at=_expiry(asked.expires_in),
        )
    )
    note_made(request, token_id=made.token_id, name=made.name)
    about = {"token_id": made.token_id, "name_of_token": made.name, "role": made.role.value}
    log.info("token is made", extra={"action": "token_made", **about})
    shown = MadeToken(**_token(made).model_dump(by_alias=False), token=text)
    return json_response(shown, headers={"Cache-Control": "no-store"})


@router.delete("/api/tokens/{token_id}", response_model=Token, responses=failures(404, 503))
async def revoke_token(
    token_id: TokenIdPath, deps: DepsOf, store: StoreOf, actor: ActorOf
) -> Response:
    """Revoke a token, for good; idempotent. Within five seconds nobody accepts it any more."""
    revoked = await store.tokens.revoke(token_id, actor=actor)
    deps.accounts.verifiers.forget(revoked.digest)
    log.info("token is revoked", extra={"action": "token_revoked", "token_id": token_id})
    return json_response(_token(revoked))


@router.get(
    "/api/audit",
    response_model=list[AuditEntry],
    responses=pagination.RESPONSES | failures(400, 503),
)
async def find_audit(
    request: Request, store: StoreOf, query: Annotated[AuditFilter, Query()]
) -> Response:
    """Find requests to change something or to read content, the newest first.

    Refused ones are among them.
    """
    after = None if query.cursor is None else int(query.cursor)
    found = await store.audit.find(query.to_domain(), limit=(query.limit or 0) + 1, after=after)
    return await page_response(request, query, found, _entry, lambda one: str(one.entry_id))


def _token_kind(settings: AccountSettings) -> str | None:
    """Says which token of the provider has the audience that is asked for.

    An ID token is for the client that has asked for it, an access token for an API.
    """
    if settings.oidc_issuer is None:
        return None
    for_client = settings.oidc_audience in (None, settings.oidc_client_id)
    return "id_token" if for_client else "access_token"


def _expiry(expires_in: str | None) -> datetime | None:
    if expires_in is None:
        return None
    try:
        span = parse_duration(expires_in)
        expiry = datetime.now(UTC) + span
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"bad request: expiresIn: {error}", advice="write it like 720h, which is 30 days"
        ) from error
    if expiry <= datetime.now(UTC):
        raise InvalidRequest(
            f"bad request: expiresIn is {expires_in!r}, which is over already",
            advice="write it like 720h, which is 30 days",
        )
    return expiry


def _texts(tags: Iterable[Tag]) -> list[str]:
    return [str(tag) for tag in sorted(tags)]


def _token(one: domain.TokenRecord) -> Token:
    known: dict[str, Any] = {
        name: getattr(one, name)
        for name in ("expires_at", "revoked_at", "revoked_by", "last_used_at")
    }
    return Token(
        token_id=one.token_id,
        name=one.name,
        role=one.role,
        projects=_texts(one.projects),
        prefix=one.prefix,
        created_at=one.created_at,
        created_by=one.created_by,
        **known,
    )


def _entry(one: domain.AuditEntry) -> Wire:
    record = one.record
    entry = AuditEntry(
        id=one.entry_id,
        at=one.at,
        subject=record.subject,
        actor=record.actor,
        method=record.method,
        route=record.route,
        targets=dict(record.targets),
        address=record.address,
        status=one.status,
        ended_at=one.ended_at,
    )
    wire: Wire = to_wire(entry)
    return wire
