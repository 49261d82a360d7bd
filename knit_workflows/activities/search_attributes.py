"""Whether a Temporal namespace knows knit's search attributes: they are a comfort, not a need."""

from __future__ import annotations

import logging

from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError

from knit_workflows import names

log = logging.getLogger(__name__)


async def search_attributes_known(client: Client) -> bool:
    """Gives whether all of `names.SEARCH_ATTRIBUTES` may be set; not being told means no."""
    try:
        known = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
    except RPCError as error:
        log.info(
            "search attributes cannot be listed, none are set",
            extra={"action": "search_attributes", "reason": str(error.status)},
        )
        return False
    return all(name in known.custom_attributes for name in names.SEARCH_ATTRIBUTES)
