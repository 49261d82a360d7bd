"""`/api/adoptions`: volumes of others become Data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from fastapi import APIRouter, Request, Response

from knit_api.accounts.guard import ActorOf, note_made
from knit_api.bodies import model_body
from knit_api.deps import DepsOf, StoreOf
from knit_api.openapi.document import failures, takes
from knit_api.responses import json_list_response
from knit_workflows.contracts.volumes import VolumeAnswer
from knit_workflows.domain.data import Adopted, Adoption, check_adoptions
from knit_workflows.domain.errors import VolumeRefused
from knit_workflows.domain.ports import ApiStore
from knit_workflows.domain.tags import checked_tag
from knit_workflows.wire.adoption import AdoptedVolume, AdoptRequest
from knit_workflows.wire.base import Wire
from knit_workflows.wire.mapping import ToWire

log = logging.getLogger(__name__)

router = APIRouter(prefix="/api/adoptions", tags=["data"])

_NAMED_AT_ONCE: Final = 10
"""How many refused volumes an error names, and how many new Data the audit log."""


@router.post(
    "",
    response_model=list[AdoptedVolume],
    responses=failures(400, 413, 503),
    openapi_extra=takes(AdoptRequest),
)
async def adopt_volumes(request: Request, deps: DepsOf, store: StoreOf, actor: ActorOf) -> Response:
    """Make existing volumes Data, with tags: no byte is copied, and none of them is read.

    All of them or, if one is refused, none. A volume that was adopted before stays the Data that it
    is, and gets the tags that it lacks: the same request again changes nothing. knit never changes
    or deletes what it has only adopted. Volumes are claims of knit's namespace on Kubernetes, and
    absolute paths of folders on one machine. A dry run says what would become of each.
    """
    asked = await model_body(request, AdoptRequest)
    adoptions = [
        Adoption(one.volume, frozenset(checked_tag(tag.key, tag.value) for tag in one.tags))
        for one in asked.volumes
    ]
    check_adoptions(adoptions)
    client = await deps.transfers.get()
    await client.ping()
    volumes = [one.volume for one in adoptions]
    answers = _without_doubles(volumes, await client.look_at_volumes("adoptable", volumes))
    if asked.dry_run:
        foreseen = await _foreseen(store, volumes, answers)
        return await json_list_response(foreseen, lambda one: one)
    _raise_if_refused(answers)
    found = await store.adoptions.adopt(
        [replace(one, volume=answer.name) for one, answer in zip(adoptions, answers, strict=True)],
        actor=actor,
    )
    named = ",".join(one.data.knit_id for one in found[:_NAMED_AT_ONCE])
    note_made(request, knit_id=named, volumes=str(len(found)))
    _log(found)
    to_wire = ToWire()
    return await json_list_response(
        found,
        lambda one: {
            "volume": one.volume,
            "outcome": "new" if one.is_new else "known",
            "data": to_wire.data(one.data),
        },
    )


def _without_doubles(volumes: Sequence[str], answers: Sequence[VolumeAnswer]) -> list[VolumeAnswer]:
    """Refuses a volume that has been named before in this request, by another name."""
    first: dict[str, str] = {}
    checked = []
    for name, answer in zip(volumes, answers, strict=True):
        other = None if answer.reason else first.setdefault(answer.name, name)
        if other not in (None, name):
            reason = f"{name} is the same volume as {other}"
            answer = VolumeAnswer(name=name, reason=reason, advice="name each volume once")
        checked.append(answer)
    return checked


async def _foreseen(
    store: ApiStore, volumes: Sequence[str], answers: Sequence[VolumeAnswer]
) -> list[Wire]:
    known = await store.adoptions.known([one.name for one in answers if not one.reason])
    to_wire = ToWire()
    found: list[Wire] = []
    for name, answer in zip(volumes, answers, strict=True):
        if answer.reason:
            refusal = {"reason": answer.reason, "advice": answer.advice}
            found.append({"volume": name, "outcome": "refused", **refusal})
        elif answer.name in known:
            data = to_wire.data(await store.data.get(known[answer.name]))
            found.append({"volume": answer.name, "outcome": "known", "data": data})
        else:
            found.append({"volume": answer.name, "outcome": "new"})
    return found


def _raise_if_refused(answers: Sequence[VolumeAnswer]) -> None:
    refused = [one for one in answers if one.reason]
    if refused:
        named = "; ".join(one.reason for one in refused[:_NAMED_AT_ONCE])
        more = len(refused) - _NAMED_AT_ONCE
        raise VolumeRefused(
            f"{named}; and {more:,} more" if more > 0 else named,
            advice=refused[0].advice
            if len(refused) == 1
            else "nothing was adopted; a dry run gives advice for each",
            see=refused[0].name,
        )


def _log(found: Sequence[Adopted]) -> None:
    for one in found:
        log.info(
            "volume is adopted: %s" if one.is_new else "volume was adopted before: %s",
            one.volume,
            extra={"action": "volume_adopted", "knit_id": one.data.knit_id},
        )
