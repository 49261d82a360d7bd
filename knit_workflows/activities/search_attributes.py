"""Whether a Temporal namespace has knit's search attributes; a server without them works too."""

from __future__ import annotations

import logging

from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError

from knit_workflows import names

log = logging.getLogger(__name__)


async def search_attributes_known(client: Client) -> bool:
    """Says whether all of `names.SEARCH_ATTRIBUTES` may be set; if it cannot be found out: no."""
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
