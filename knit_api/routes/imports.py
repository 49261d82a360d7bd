"""`/api/data/import`: an importer makes a volume, and hands it over with a signed token."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from knit_api.accounts.guard import ActorOf, ProjectsOf, forgive, note_made
from knit_api.accounts.projects import shown_to
from knit_api.bodies import JWT, token_body
from knit_api.deps import Deps, DepsOf, StoreOf
from knit_api.errors import HttpProblem
from knit_api.openapi.document import failures, gives_token, takes_token
from knit_api.responses import json_response
from knit_workflows.domain.accounts import jws
from knit_workflows.domain.errors import VolumeRefused
from knit_workflows.domain.imports import CLAIM_ACTOR, Import, import_of, projects_in
from knit_workflows.domain.ports import ApiStore
from knit_workflows.domain.runs.run import USER
from knit_workflows.wire.data import Data
from knit_workflows.wire.mapping import ToWire

log = logging.getLogger(__name__)

router = APIRouter(tags=["data"])

_PATH: Final = "/api/data/import"
_KNITFABS: Final = "/api/backend/data/import"
"""The same for importers that were written for Knitfab."""
_ANEW: Final = "begin another import"


@router.post(f"{_KNITFABS}/begin", name="knitfab_begin_import", include_in_schema=False)
@router.post(f"{_PATH}/begin", response_model=None, responses=gives_token() | failures(503))
async def begin_import(
    request: Request, deps: DepsOf, store: StoreOf, actor: ActorOf, projects: ProjectsOf
) -> Response:
    """Begin an import: gives a token that names the volume to be made, in its claim `sub`.

    That is a claim in knit's namespace on Kubernetes, and a folder in `volumes` of knit's state
    folder on one machine. The token is a compact JWS (HS256) with the claims `jti`, `sub`,
    `knitfab/knitId`, `knitfab/runId`, `knit/actor`, who has begun the import, and `knit/projects`,
    to which they are bound. The import fails unless it is ended within half an hour (a setting).
    """
    key = await store.imports.signing_key(deps.imports)
    begun = await store.imports.begin(actor=actor)
    note_made(request, knit_id=begun.knit_id, run_id=begun.run_id)
    _log("import begins", "import_begun", begun)
    token = jws.sign(begun.claims(actor, projects), kid=key.kid, secret=key.secret)
    return Response(token, media_type=JWT)


@router.post(f"{_KNITFABS}/end", name="knitfab_end_import", include_in_schema=False)
@router.post(
    f"{_PATH}/end",
    response_model=Data,
    responses=failures(400, 401, 409, 413, 500, 503),
    openapi_extra=takes_token(),
)
async def end_import(request: Request, deps: DepsOf) -> Response:
    """End an import with its token: the volume is there, and becomes a Data that is done.

    400 if the volume is missing, or not bound within three seconds: it may be ended again. 401 for
    a token that is malformed, not signed by this knit, or whose key has expired; 500 if the key is
    not known. 409 if the import is over: ended before, not ended in time, or deleted.

    That token is all that it needs: who has begun the import has authenticated, and is the actor.
    The Data is shown as they see it, whoever ends the import.
    """
    # Not the store as the sender sees it: often there is nobody who would be bound to projects.
    store = await deps.store.get()
    begun, claims = await _verified(await token_body(request), deps, store)
    actor = str(claims.get(CLAIM_ACTOR) or USER)
    forgive(request)
    note_made(request, knit_id=begun.knit_id, run_id=begun.run_id, actor=actor)
    await store.imports.require_open(begun, window=deps.imports.window)
    client = await deps.transfers.get()
    await client.ping()
    [answer] = await client.look_at_volumes("bound", [begun.volume])
    if answer.reason:
        raise VolumeRefused(answer.reason, advice=answer.advice, see=begun.knit_id)
    await store.imports.end(begun, window=deps.imports.window, actor=actor)
    # If this process dies here, or the database does, housekeeping finishes it.
    await store.imports.finish(begun)
    _log("import ends", "import_ended", begun)
    data = await store.data.get(begun.knit_id)
    return json_response(ToWire().data(await shown_to(store, projects_in(claims), data)))


async def _verified(text: str, deps: Deps, store: ApiStore) -> tuple[Import, Mapping[str, Any]]:
    """Gives what a token is about, and all its claims.

    Raises:
        HttpProblem: this knit has not signed it, or too long ago.
    """
    try:
        token = jws.read(text)
        key = await store.imports.find_key(token.kid)
        if key is None:
            raise HttpProblem(500, "the key of the token is not known here", _ANEW)
        jws.verify(token, key.secret)
        begun = import_of(token.claims)
    except jws.BadToken as error:
        raise HttpProblem(
            401, f"the token is not valid: {error}", "send the token as `begin` gave it"
        ) from error
    if key.age > deps.imports.key_life:
        raise HttpProblem(401, "the token has expired", _ANEW)
    return begun, token.claims


def _log(message: str, action: str, begun: Import) -> None:
    about = {"knit_id": begun.knit_id, "run_id": begun.run_id}
    log.info(message, extra={"action": action, **about})
