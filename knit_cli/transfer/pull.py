"""Pulls a Data: as a folder, as an archive file, or to stdout.

What is pulled appears under its name only when it is complete. A download that ends before the
archive does is an error and is repeated: see `verified_archive`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from knit_cli.api.client import GZIPPED_TAR, PLAIN_TAR, ApiClient
from knit_cli.errors import BadInput, ConnectionCut, TransferFailed
from knit_cli.transfer.byte_streams import (
    ChunkReader,
    DamagedStream,
    StreamCut,
    counted,
    decoded,
)
from knit_cli.transfer.excluded import Exclusions
from knit_cli.transfer.progress import Meter
from knit_cli.transfer.staging import move_into_place, staging_area, sync
from knit_cli.transfer.verified_archive import copy_verified
from knit_workflows.archive import ArchiveCut, ArchiveRefused, unpack
from knit_workflows.archive.zstd import is_available
from knit_workflows.domain.os_errors import advice_for, reason_of

_WHOLE_FOLDER = f"{PLAIN_TAR};entries=all;holes=kept"
_WHOLE_FILE = f"{GZIPPED_TAR};entries=all"  # no sparse files: not every tool can read them


def pull_folder(
    api: ApiClient,
    knit_id: str,
    folder: Path,
    excluded: Exclusions,
    *,
    links: bool = True,
    compressed: bool | None = None,
    meter: Meter,
) -> Path:
    """Downloads a Data and unpacks it as `folder/KNIT_ID`, which appears when it is complete.

    The download restarts if its connection breaks.

    Args:
        api: the API.
        knit_id: which Data.
        folder: where to put it; created if missing.
        excluded: receives what no archive can hold and, without `links`, the symbolic links.
        links: whether to create symbolic links.
        compressed: whether to have it compressed on the way, if both sides can; None: unless the
            API is on this machine.
        meter: receives progress.

    Raises:
        BadInput: the target exists already.
        TransferFailed: the archive is damaged or dangerous, or cannot be stored.
        CliError: the API did not send it.
    """
    target = folder / knit_id
    _refuse_occupied(target)
    wanted = not api.is_on_this_machine if compressed is None else compressed

    def attempt() -> None:
        with (
            _placing(knit_id, folder),
            api.download(knit_id, _WHOLE_FOLDER, compressed=wanted and is_available()) as stream,
            staging_area(folder) as content,
        ):
            meter.restart()
            excluded.restart()
            content.mkdir()
            with closing(counted(stream.chunks, meter.add)) as chunks:
                source = ChunkReader(decoded(chunks, stream.coding))
                unpack(source, content, sync=True, links=links, left_out=excluded)
            try:
                move_into_place(content, target)
            except OSError:
                _refuse_occupied(target)  # another pull was faster
                raise

    api.retry_on_cut(attempt, repeatable=True)
    return target


def pull_file(
    api: ApiClient, knit_id: str, folder: Path, excluded: Exclusions, *, meter: Meter
) -> Path:
    """Downloads a Data as `folder/KNIT_ID.tar.gz`, replaced only by a complete download.

    The download restarts if its connection breaks; `excluded` as for `pull_folder`.

    Raises:
        TransferFailed: the archive is damaged, or cannot be stored.
        CliError: the API did not send it.
    """
    target = folder / f"{knit_id}.tar.gz"

    def attempt() -> None:
        with (
            _placing(knit_id, folder),
            api.download(knit_id, _WHOLE_FILE) as stream,
            staging_area(folder) as archive,
        ):
            meter.restart()
            excluded.restart()
            with archive.open("wb") as file:
                copy_verified(stream, meter.add, file.write, excluded)
            sync(archive)
            move_into_place(archive, target)

    api.retry_on_cut(attempt, repeatable=True)
    return target


def pull_stream(
    api: ApiClient,
    knit_id: str,
    write: Callable[[bytes], None],
    excluded: Exclusions,
    *,
    meter: Meter,
) -> None:
    """Downloads a Data as tar.gz and writes it chunk by chunk; `excluded` as for `pull_folder`.

    The download restarts after a broken connection only if nothing has been written yet.

    Raises:
        TransferFailed: the archive is damaged.
        CliError: the API did not send it, or not all of it.
    """
    has_written = False

    def writing(chunk: bytes) -> None:
        nonlocal has_written
        has_written = True
        write(chunk)

    def attempt() -> None:
        try:
            with _reading(knit_id), api.download(knit_id, _WHOLE_FILE) as stream:
                meter.restart()
                excluded.restart()
                copy_verified(stream, meter.add, writing, excluded)
        except ConnectionCut as cut:
            cut.safe_to_retry = not has_written
            if has_written:
                cut.advice = "the output on stdout is incomplete: discard it, and pull again"
            raise

    api.retry_on_cut(attempt, repeatable=False)


def _refuse_occupied(target: Path) -> None:
    if not os.path.lexists(target):
        return
    if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
        return
    raise BadInput(
        f"{target} already exists",
        reason="pulling into it would mix its content with the Data's",
        advice="remove it, or pull into another folder: knit data pull -x KNIT_ID DEST",
    )


@contextmanager
def _placing(knit_id: str, folder: Path) -> Iterator[None]:
    """Translates errors between the API and the folder."""
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
    """Translates errors in a received archive."""
    try:
        yield
    except (ArchiveCut, StreamCut) as cause:
        raise ConnectionCut(
            f"the download of {knit_id} was cut",
            reason=f"{cause}, although the connection was closed cleanly",
            advice="pull it again; if it happens again, look for a proxy that cuts connections",
        ) from cause
    except (ArchiveRefused, DamagedStream) as cause:
        raise TransferFailed(
            f"cannot pull {knit_id}",
            reason=str(cause),
            advice="pull it again; if it happens again, the Data itself is damaged",
        ) from cause
