"""Moves the files of a Data: push packs and uploads them, pull downloads and places them.

A Data arrives whole or not at all: an upload that cannot go on is cut, so that the server drops it,
and what is pulled shows under its name only when it is complete, whatever ends the command. A
download that ends before the archive does is an error, and begun anew: see `proof`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from knit_cli.api.client import GZIPPED_TAR, PLAIN_TAR, ApiClient
from knit_cli.errors import ApiRefused, BadInput, CliError, ConnectionCut, TransferFailed
from knit_cli.transfer.byte_streams import (
    ChunkReader,
    DamagedStream,
    StreamCut,
    counted,
    gzipped,
    prefetch,
)
from knit_cli.transfer.excluded import Exclusions
from knit_cli.transfer.progress import Meter
from knit_cli.transfer.push_source import Source, unreadable_advice
from knit_cli.transfer.staging import move_into_place, staging_area, sync
from knit_cli.transfer.verified_archive import copy_verified, plain_tar
from knit_workflows.archive import ArchiveCut, ArchiveRefused, CannotPack, unpack
from knit_workflows.domain.os_errors import advice_for, reason_of
from knit_workflows.wire.data import Data
from knit_workflows.wire.tags import Tag, TagChange

_UNSUPPORTED_MEDIA_TYPE = 415
_WHOLE_FOLDER = f"{PLAIN_TAR};entries=all;holes=kept, {GZIPPED_TAR};entries=all;holes=kept;q=0.5"
_WHOLE_FILE = f"{GZIPPED_TAR};entries=all"  # holes filled: it may be read by any tool, much later


def push(api: ApiClient, source: Source, tags: Sequence[Tag], *, meter: Meter) -> Data:
    """Uploads the source as one Data with these tags; the second call makes a second Data.

    The tags travel with the upload. Where they cannot (too many, or a server that does not know
    this) they follow in a second request, and for a moment the Data is there without them.

    Raises:
        TransferFailed: the files could not be packed to the end, or the tags did not arrive; then
            `see` is the id of the Data without them.
        CliError: the API did not take it.
    """
    together = list(tags) if api.tags_fit_in_upload(tags) else []
    try:
        data = _upload(api, source, PLAIN_TAR, together, meter)
    except ApiRefused as refused:
        if refused.status != _UNSUPPORTED_MEDIA_TYPE:
            raise
        # An older server: only gzip, and no tags in the query.
        data = _upload(api, source, GZIPPED_TAR, [], meter)
    missing = [tag for tag in tags if tag not in data.tags]
    if not missing:
        return data
    try:
        return api.change_tags(data.knit_id, TagChange(add=missing))
    except CliError as cause:
        raise TransferFailed(
            f"{source.path} was pushed as {data.knit_id}, but without its tags",
            reason=cause.reason or cause.summary,
            advice=f"tag it: knit data tag {data.knit_id} --add KEY:VALUE",
            see=data.knit_id,
        ) from cause


def _upload(
    api: ApiClient,
    source: Source,
    media_type: str,
    tags: Sequence[Tag],
    meter: Meter,
) -> Data:
    holes = source.has_holes and media_type == PLAIN_TAR and api.takes_sparse_files()

    def pack() -> Generator[bytes, None, None]:
        meter.restart()
        packed: Iterable[bytes] = counted(source.pack(holes=holes), meter.add)
        return prefetch(gzipped(packed) if media_type == GZIPPED_TAR else packed)

    try:
        return api.upload(pack, media_type, tags)
    except CannotPack as cause:
        raise TransferFailed(
            f"cannot push {source.path}",
            reason=str(cause),
            advice="take it out, or push a copy; nothing of this upload is kept",
        ) from cause
    except OSError as cause:
        raise TransferFailed(
            f"cannot push {source.path}",
            reason=reason_of(cause),
            advice=f"{unreadable_advice(cause)}; nothing of this upload is kept",
        ) from cause


def pull_folder(
    api: ApiClient,
    knit_id: str,
    folder: Path,
    left_out: Exclusions,
    *,
    links: bool = True,
    meter: Meter,
) -> Path:
    """Downloads a Data and unpacks it as `folder/KNIT_ID`, which appears when it is complete.

    A download whose connection breaks is begun anew. `left_out` is told what the Data has that no
    archive can hold, and without `links` its symbolic links.

    Raises:
        BadInput: there is already something there.
        TransferFailed: the archive is damaged or dangerous, or cannot be stored.
        CliError: the API did not give it.
    """
    target = folder / knit_id
    _refuse_occupied(target)

    def attempt() -> None:
        with (
            _placing(knit_id, folder),
            api.download(knit_id, _WHOLE_FOLDER) as stream,
            staging_area(folder) as content,
        ):
            meter.restart()
            left_out.restart()
            content.mkdir()
            with closing(plain_tar(stream, meter.add)) as chunks:
                unpack(ChunkReader(chunks), content, sync=True, links=links, left_out=left_out)
            try:
                move_into_place(content, target)
            except OSError:
                _refuse_occupied(target)  # another pull was first
                raise

    api.retry_on_cut(attempt, repeatable=True)
    return target


def pull_file(
    api: ApiClient, knit_id: str, folder: Path, left_out: Exclusions, *, meter: Meter
) -> Path:
    """Downloads a Data as `folder/KNIT_ID.tar.gz`, which is replaced only when all is there.

    A download whose connection breaks is begun anew. `left_out` as for `pull_folder`.

    Raises:
        TransferFailed: the archive is damaged, or cannot be stored.
        CliError: the API did not give it.
    """
    target = folder / f"{knit_id}.tar.gz"

    def attempt() -> None:
        with (
            _placing(knit_id, folder),
            api.download(knit_id, _WHOLE_FILE) as stream,
            staging_area(folder) as archive,
        ):
            meter.restart()
            left_out.restart()
            with archive.open("wb") as file:
                copy_verified(stream, meter.add, file.write, left_out)
            sync(archive)
            move_into_place(archive, target)

    api.retry_on_cut(attempt, repeatable=True)
    return target


def pull_stream(
    api: ApiClient,
    knit_id: str,
    write: Callable[[bytes], None],
    left_out: Exclusions,
    *,
    meter: Meter,
) -> None:
    """Downloads a Data as tar.gz and hands it on piece by piece; `left_out` as for `pull_folder`.

    What was handed on cannot be taken back: only before that is a broken connection tried again.

    Raises:
        TransferFailed: the archive is damaged.
        CliError: the API did not give it, or not all of it.
    """
    handed_on = False

    def writing(chunk: bytes) -> None:
        nonlocal handed_on
        handed_on = True
        write(chunk)

    def attempt() -> None:
        try:
            with _reading(knit_id), api.download(knit_id, _WHOLE_FILE) as stream:
                meter.restart()
                left_out.restart()
                copy_verified(stream, meter.add, writing, left_out)
        except ConnectionCut as cut:
            cut.safe_to_retry = not handed_on
            if handed_on:
                cut.advice = "what was written to stdout is not all of it: drop it, and pull again"
            raise

    api.retry_on_cut(attempt, repeatable=False)


def _refuse_occupied(target: Path) -> None:
    if not os.path.lexists(target):
        return
    if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
        return
    raise BadInput(
        f"{target} is there already",
        reason="pulling into it would mix two things",
        advice="remove it, or pull into another folder: knit data pull -x KNIT_ID DEST",
    )


@contextmanager
def _placing(knit_id: str, folder: Path) -> Iterator[None]:
    """Translates what goes wrong between the API and the folder."""
    try:
        with _reading(knit_id):
            yield
    except OSError as cause:
        raise TransferFailed(
            f"cannot pull {knit_id} into {folder}",
            reason=reason_of(cause),
            advice=f"{advice_for(cause, 'choose another DEST')}; nothing was left behind",
        ) from cause


@contextmanager
def _reading(knit_id: str) -> Iterator[None]:
    """Translates what is wrong with an archive that was received."""
    try:
        yield
    except (ArchiveCut, StreamCut) as cause:
        raise ConnectionCut(
            f"the download of {knit_id} was cut",
            reason=f"{cause}, although the connection was closed in order",
            advice="pull it again; if it happens again, look for a proxy on the way that cuts",
        ) from cause
    except (ArchiveRefused, DamagedStream) as cause:
        raise TransferFailed(
            f"cannot pull {knit_id}",
            reason=str(cause),
            advice="pull it again; if it happens again, the Data itself is damaged",
        ) from cause
