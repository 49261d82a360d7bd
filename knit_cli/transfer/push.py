"""Pushes a folder or file: packs it and uploads it as one Data, whole or not at all."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from knit_cli.api.client import ApiClient
from knit_cli.errors import CliError, TransferFailed
from knit_cli.transfer.byte_streams import counted, prefetch
from knit_cli.transfer.progress import Meter
from knit_cli.transfer.push_source import Source, unreadable_advice
from knit_workflows.archive import CannotPack
from knit_workflows.domain.os_errors import reason_of
from knit_workflows.wire.data import Data
from knit_workflows.wire.tags import Tag, TagChange

_NOTHING_KEPT = "nothing of this upload is kept"


def push(api: ApiClient, source: Source, tags: Sequence[Tag], *, meter: Meter) -> Data:
    """Uploads the source as one Data with these tags; a second call creates a second Data.

    The tags travel with the upload. If they are too long for that, they follow in a second
    request, and for a moment the Data exists without them.

    Raises:
        TransferFailed: the files could not be packed completely, or the tags were not accepted;
            in the latter case `see` is the id of the untagged Data.
        CliError: the API did not accept the upload.
    """
    if api.tags_fit_in_upload(tags):
        return _upload(api, source, tags, meter)
    data = _upload(api, source, (), meter)
    try:
        return api.change_tags(data.knit_id, TagChange(add=list(tags)))
    except CliError as cause:
        raise TransferFailed(
            f"{source.path} was pushed as {data.knit_id}, but without its tags",
            reason=cause.reason or cause.summary,
            advice=f"add them: knit data tag {data.knit_id} --add KEY:VALUE",
            see=data.knit_id,
        ) from cause


def _upload(api: ApiClient, source: Source, tags: Sequence[Tag], meter: Meter) -> Data:
    def pack() -> Generator[bytes, None, None]:
        meter.restart()
        return prefetch(counted(source.pack(), meter.add))

    try:
        return api.upload(pack, tags)
    except CannotPack as cause:
        raise TransferFailed(
            f"cannot push {source.path}",
            reason=str(cause),
            advice=f"remove it from there, or push a copy; {_NOTHING_KEPT}",
        ) from cause
    except OSError as cause:
        raise TransferFailed(
            f"cannot push {source.path}",
            reason=reason_of(cause),
            advice=f"{unreadable_advice(cause)}; {_NOTHING_KEPT}",
        ) from cause
