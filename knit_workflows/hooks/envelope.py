"""How a call is written: the Run itself as JSON, or as the data of a CloudEvent."""

from __future__ import annotations

import json
from typing import Final

from knit_workflows.hooks.file import HookFormat
from knit_workflows.wire.base import Wire

SOURCE: Final = "/knit/runs"
_CONTENT_TYPES: Final[dict[HookFormat, str]] = {
    "json": "application/json",
    "cloudevents": "application/cloudevents+json",
}


def written(body: Wire, delivery_id: str, form: HookFormat) -> tuple[bytes, str]:
    """Gives the bytes to send, and their content type."""
    document = body if form == "json" else cloud_event(body, delivery_id)
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return text.encode(), _CONTENT_TYPES[form]


def cloud_event(body: Wire, delivery_id: str) -> Wire:
    """Gives the CloudEvent 1.0 of a call, in structured mode.

    Its type is `knit.run.before.STATUS` or `knit.run.after.STATUS`, with the status that the
    transition leads to; its time is when the Run last changed.
    """
    target = body["transition"]["to"]
    phase = "after" if body["status"] == target else "before"
    return {
        "specversion": "1.0",
        "id": delivery_id,
        "source": SOURCE,
        "type": f"knit.run.{phase}.{target}",
        "subject": body["runId"],
        "time": body["updatedAt"],
        "datacontenttype": "application/json",
        "data": body,
    }
